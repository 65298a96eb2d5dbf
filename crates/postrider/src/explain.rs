//! `postrider explain`: where mail goes, and which line of the configuration says so.

use std::path::Path;

use mail::{Clock, Host, Mailbox, SystemClock, Utf8};
use serde::Serialize;

use crate::config::{self, Loaded, Problems};
use crate::control::{Client, Known, Request};
use crate::output;
use crate::queue_command::lane_text;
use crate::server::{CONTROL_SOCKET, queue_settings};

/// Why it cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The configuration cannot be used.
    #[error("the configuration cannot be used")]
    Configuration(Problems),
    /// Neither a domain nor an address.
    #[error("`{0}` is neither a domain nor an address")]
    Recipient(String),
    /// The routes contradict each other.
    #[error("the routes cannot be used: {0}")]
    Routes(String),
    /// The answer cannot be written.
    #[error("{0}")]
    Output(#[from] std::io::Error),
}

/// The answer.
#[derive(Debug, Serialize)]
struct Answer {
    #[serde(flatten)]
    routing: queue::Explanation,
    /// The place of the rule in the configuration.
    place: Option<String>,
    /// Whether mail for the domain is accepted from everybody, and the line that says so.
    accepted: bool,
    accepted_by: Option<String>,
    /// What the running server knows of the destination; nothing if no server runs.
    running: Option<Known>,
}

/// Explains on standard output.
pub fn run(path: &Path, recipient: &str, json: bool) -> Result<(), ExplainError> {
    let loaded = config::load(path).map_err(ExplainError::Configuration)?;
    let host = host_of(recipient).ok_or_else(|| ExplainError::Recipient(output::harmless(recipient)))?;
    let settings = queue_settings(&loaded.configuration).map_err(|error| ExplainError::Routes(error.to_string()))?;
    let routing = settings.explain(&host).map_err(|error| ExplainError::Routes(error.to_string()))?;
    let accepted_by = accepting_rule(&loaded, &host);
    let answer = Answer {
        place: rule_place(&loaded, &routing),
        accepted: accepted_by.is_some(),
        accepted_by: accepted_by.and_then(|path| loaded.places.describe(&path)),
        running: ask(&loaded, &routing),
        routing,
    };
    if json {
        output::json(&answer)?
    } else {
        output::print(text(&answer))?
    }
    Ok(())
}

/// The host of an address, or the text itself as a domain or literal.
fn host_of(text: &str) -> Option<Host> {
    match Mailbox::parse(text, Utf8::Allowed) {
        Ok(mailbox) => Some(mailbox.host),
        Err(_) => Host::parse(text).ok(),
    }
}

/// Where the pattern that matched stands.
fn rule_place(loaded: &Loaded, routing: &queue::Explanation) -> Option<String> {
    let (name, rule) = (routing.route.as_deref()?, routing.rule.as_deref()?);
    let at = loaded.configuration.route.iter().position(|route| route.called() == name)?;
    let patterns = &loaded.configuration.route[at].domains.0;
    let item = patterns.iter().position(|pattern| pattern.to_string() == rule)?;
    let listed = loaded.places.describe(&format!("route[{at}].domains[{item}]"));
    listed.or_else(|| loaded.places.describe(&format!("route[{at}].domains")))
}

/// The path of the entry of `domains` that takes mail for the host.
fn accepting_rule(loaded: &Loaded, host: &Host) -> Option<String> {
    let domain = config::Pattern::Exact(host.domain()?.clone());
    let at = loaded.configuration.domains.iter().position(|pattern| pattern.covers(&domain))?;
    Some(format!("domains[{at}]"))
}

/// What the running server says, if one runs and lets us ask.
fn ask(loaded: &Loaded, routing: &queue::Explanation) -> Option<Known> {
    let socket = loaded.configuration.store.path.join(CONTROL_SOCKET);
    let mut client = Client::connect(&socket).ok()?;
    let known = client.ask(&Request::Destination { name: routing.destination.clone() }).ok()?;
    serde_json::from_value(known).ok()
}

fn text(answer: &Answer) -> String {
    let routing = &answer.routing;
    let mut text = format!("mail for {}\n", routing.domain);
    let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:12} {value}\n"));
    match (&routing.route, &routing.rule) {
        (Some(route), Some(rule)) => {
            let place = answer.place.as_deref().unwrap_or("the configuration");
            line("route", &format!("{route} (`{rule}` at {place})"));
        }
        _ => line("route", "none matches, so the default holds: its mail exchanges"),
    }
    line("goes to", &routing.to);
    line("from source", &routing.source);
    line("over TLS", &routing.tls);
    line("scheduled as", routing.destination.as_str());
    match &answer.accepted_by {
        Some(place) => line("accepted", &format!("from everybody ({place})")),
        None => line("accepted", "only from the configured networks"),
    }
    match &answer.running {
        Some(running) => line("right now", &summary(running)),
        None => line("right now", "no server runs here, or it is not ours to ask"),
    }
    text
}

/// One line on the state of a destination.
fn summary(known: &Known) -> String {
    let Some(counts) = &known.counts else { return "nothing waits for it".to_owned() };
    let now = SystemClock.now();
    let mut text = format!("{} queued, {} held", counts.queued, counts.held);
    for lane in &known.lanes {
        text.push_str(&format!("; {}, {} of {} connections", lane_text(lane, now), lane.connections, lane.allowed));
    }
    text
}
