//! `postrider queue`, `status` and `metrics`: what is asked of the running server, and how its answers look.

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use mail::{Clock, SystemClock, Timestamp};
use queue::{Acted, Action, DeliverySummary, DestinationSummary, LaneSummary, MessageSummary, State, Summary};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cli::{Change, QueueCommand};
use crate::config::{Period, Size};
use crate::control::{Client, ClientError, Request};
use crate::output;

/// Carries out a queue command.
pub fn run(socket: &Path, command: &QueueCommand) -> Result<(), ClientError> {
    told_on_what(command)?;
    let mut client = Client::connect(socket)?;
    match command {
        QueueCommand::List { filter, limit, json } => {
            let selection = filter.to_selection(filter.is_empty());
            list(&mut client, &Request::List { selection, limit: *limit }, *json)
        }
        QueueCommand::Summary { limit, json } => summary(&mut client, *limit, *json),
        QueueCommand::Show { id, content: true, .. } => client.copy(&Request::Content { id: *id }, &mut io::stdout()),
        QueueCommand::Show { id, json, .. } => {
            let shown = client.ask(&Request::Show { id: *id })?;
            if *json {
                output::json(&shown)?;
            } else {
                output::print(message(&read(shown)?))?;
            }
            Ok(())
        }
        QueueCommand::Hold(change) => act(&mut client, Action::Hold, change),
        QueueCommand::Release(change) => act(&mut client, Action::Release, change),
        QueueCommand::Retry(change) => act(&mut client, Action::Retry, change),
        QueueCommand::Remove { change, yes } => {
            if !yes {
                confirm(&mut client, change)?;
            }
            act(&mut client, Action::Remove, change)
        }
    }
}

/// An action on the whole queue must be meant.
fn told_on_what(command: &QueueCommand) -> Result<(), ClientError> {
    let change = match command {
        QueueCommand::Hold(change) | QueueCommand::Release(change) | QueueCommand::Retry(change) => change,
        QueueCommand::Remove { change, .. } => change,
        QueueCommand::List { .. } | QueueCommand::Summary { .. } | QueueCommand::Show { .. } => return Ok(()),
    };
    match change.filter.is_empty() && !change.all {
        true => Err(ClientError::Refused("say which messages are meant, or --all for the whole queue".to_owned())),
        false => Ok(()),
    }
}

/// Tells how the server is.
pub fn status(socket: &Path, json: bool) -> Result<(), ClientError> {
    let status = Client::connect(socket)?.ask(&Request::Status)?;
    if json {
        return Ok(output::json(&status)?);
    }
    let store = &status["store"];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let text = |value: &Value| output::harmless(value.as_str().unwrap_or_default());
    let listening: Vec<String> = status["listening"].as_array().into_iter().flatten().map(text).collect();
    let uptime = Period(std::time::Duration::from_secs(number(&status["uptime_seconds"])));
    let intake = match store["closed"].as_str() {
        None => "open".to_owned(),
        Some(why) => format!("closed: {}", output::harmless(why)),
    };
    output::print(format!(
        "postrider {} on {}, up {uptime}\n  listening    {}\n  intake       {intake}\n  queue        {} messages, {} deliveries\n  \
         disk         {} of log, {} of it live, {} free\n  memory       {} of content, {} deliveries\n  \
         connections  {} out, {} sites resting\n  quarantined  {}\n",
        text(&status["version"]),
        text(&status["hostname"]),
        listening.join(", "),
        number(&store["messages"]),
        number(&store["deliveries"]),
        about(number(&store["log_bytes"])),
        about(number(&store["live_bytes"])),
        about(number(&store["free_bytes"])),
        about(number(&store["content_memory"])),
        number(&status["in_memory"]),
        number(&status["connections"]),
        number(&status["resting_lanes"]),
        number(&store["quarantined"]),
    ))?;
    Ok(())
}

/// Prints the metrics.
pub fn metrics(socket: &Path) -> Result<(), ClientError> {
    let text = Client::connect(socket)?.ask(&Request::Metrics)?;
    Ok(output::print(text.as_str().unwrap_or_default())?)
}

fn list(client: &mut Client, request: &Request, json: bool) -> Result<(), ClientError> {
    let mut empty = true;
    client.each(request, |item| {
        if json {
            return output::line(item);
        }
        let message: MessageSummary = read(item)?;
        if empty {
            output::line(format_args!("{:26}  {:>6}  {:>7}  {:9}  FROM and TO", "ID", "AGE", "SIZE", "STATE"))?;
        }
        empty = false;
        output::print(row(&message))
    })?;
    if empty && !json {
        output::line("no message")?;
    }
    Ok(())
}

fn row(message: &MessageSummary) -> String {
    let now = SystemClock.now();
    let states: Vec<State> = message.deliveries.iter().map(|delivery| delivery.state).collect();
    let state = match states.split_first() {
        Some((first, rest)) if rest.iter().all(|state| state == first) => state_word(*first),
        _ => "mixed",
    };
    let (age, size) = (age(now, message.received_at), about(message.size));
    let mut text = format!(
        "{:26}  {age:>6}  {size:>7}  {state:9}  {}\n",
        message.id.to_string(),
        output::harmless(&message.sender)
    );
    for delivery in &message.deliveries {
        for recipient in &delivery.recipients {
            let _ = writeln!(text, "{:56}{}", "", output::harmless(&recipient.address));
        }
        if let Some(last) = &delivery.last {
            let _ = writeln!(text, "{:58}{}", "", output::harmless(last));
        }
    }
    text
}

fn message(message: &MessageSummary) -> String {
    let now = SystemClock.now();
    let mut text = format!(
        "message    {}\nreceived   {} ({} ago)\nsender     {}\nsize       {}\n",
        message.id,
        message.received_at,
        age(now, message.received_at),
        output::harmless(&message.sender),
        about(message.size),
    );
    let names = [("tenant", &message.tenant), ("campaign", &message.campaign), ("account", &message.account)];
    for (name, value) in names {
        if let Some(value) = value {
            let _ = writeln!(text, "{name:10} {}", output::harmless(value));
        }
    }
    wishes(message, &mut text);
    for delivery in &message.deliveries {
        delivery_text(delivery, now, &mut text);
    }
    text
}

/// What the sender asks for.
fn wishes(message: &MessageSummary, text: &mut String) {
    for (name, value) in [("not before", message.release_at), ("deliver by", message.deliver_by)] {
        if let Some(time) = value {
            let _ = writeln!(text, "{name:10} {time}");
        }
    }
    if message.priority != 0 {
        let _ = writeln!(text, "priority   {}", message.priority);
    }
    if message.requires_tls {
        text.push_str("requires   TLS on the whole way\n");
    }
}

fn delivery_text(delivery: &DeliverySummary, now: Timestamp, text: &mut String) {
    let state = state_word(delivery.state);
    let _ = write!(
        text,
        "\ndelivery {} to {}: {state}, ",
        delivery.number,
        output::harmless(delivery.destination.as_str())
    );
    let _ = writeln!(text, "{} attempt{}", delivery.attempts, if delivery.attempts == 1 { "" } else { "s" });
    if let Some(due) = delivery.due.filter(|due| *due > now) {
        let _ = writeln!(text, "  next     {due} (in {})", age(due, now));
    }
    if let Some(held) = &delivery.held {
        let (author, reason) = (output::harmless(&held.author), output::harmless(&held.reason));
        let _ = writeln!(text, "  held     by {author} since {}: {reason}", held.at);
    }
    if let Some(last) = &delivery.last {
        let _ = writeln!(text, "  last     {}", output::harmless(last));
    }
    for recipient in &delivery.recipients {
        let _ = write!(text, "  {:8} {}", recipient.status, output::harmless(&recipient.address));
        if let Some(reply) = &recipient.reply {
            let _ = write!(text, ": {}", output::harmless(reply));
        }
        text.push_str(if recipient.report_owed { " (to be reported)\n" } else { "\n" });
    }
}

fn summary(client: &mut Client, limit: usize, json: bool) -> Result<(), ClientError> {
    let answer = client.ask(&Request::Summary { limit })?;
    let summary: Summary = read(answer)?;
    if json {
        for destination in &summary.destinations {
            output::line(serde_json::to_value(destination).map_err(io::Error::other)?)?;
        }
        for lane in &summary.lanes {
            output::line(serde_json::json!({ "lane": lane }))?;
        }
        let (destinations, queued, held) = (summary.total_destinations, summary.queued, summary.held);
        let total = serde_json::json!({ "destinations": destinations, "queued": queued, "held": held });
        output::line(serde_json::json!({ "total": total }))?;
        return Ok(());
    }
    let now = SystemClock.now();
    let mut text = format!("{:>9}  {:>9}  {:>9}  {:>9}  DESTINATION\n", "QUEUED", "HELD", "ACTIVE", "NEXT");
    for one in &summary.destinations {
        let next =
            one.earliest_due.map_or_else(String::new, |due| if due <= now { "now".to_owned() } else { age(due, now) });
        let name = output::harmless(one.destination.as_str());
        let _ = writeln!(text, "{:9}  {:9}  {:9}  {next:>9}  {name}", one.queued, one.held, one.active);
    }
    let (listed, total) = (summary.destinations.len() as u64, summary.total_destinations);
    if listed < total {
        let rest =
            |all: u64, of: fn(&DestinationSummary) -> u64| all - summary.destinations.iter().map(of).sum::<u64>();
        let (queued, held) = (rest(summary.queued, |one| one.queued), rest(summary.held, |one| one.held));
        let _ = writeln!(text, "{queued:9}  {held:9}  {:9}  {:>9}  {} others", "", "", total - listed);
    }
    let gauges = &summary.gauges;
    let _ = writeln!(text, "{:9}  {:9}  {:9}  {:>9}  total", summary.queued, summary.held, gauges.connections, "");
    if gauges.aside > 0 {
        let _ =
            writeln!(text, "\n{} could not be read or reported and wait to be tried; the log tells why", gauges.aside);
    }
    if !summary.lanes.is_empty() {
        let _ = writeln!(text, "\n{:>9}  {:>11}  LANE", "READY", "CONNECTIONS");
    }
    for lane in &summary.lanes {
        let connections = format!("{} of {}", lane.connections, lane.allowed);
        let _ = writeln!(text, "{:9}  {connections:>11}  {}", lane.ready, lane_text(lane, now));
    }
    if summary.lanes.len() < gauges.total_lanes {
        let _ = writeln!(text, "{:22}  {} others", "", gauges.total_lanes - summary.lanes.len());
    }
    Ok(output::print(text)?)
}

/// A lane with its rest, if it rests.
pub fn lane_text(lane: &LaneSummary, now: Timestamp) -> String {
    let mut text = output::harmless(&format!("{} from {}", lane.site, lane.source));
    if let Some(until) = lane.resting_until.filter(|until| *until > now) {
        let _ = write!(text, ", rests for {}", age(until, now));
        if let Some(fault) = &lane.fault {
            let _ = write!(text, ": {}", output::harmless(fault));
        }
    }
    text
}

fn act(client: &mut Client, action: Action, change: &Change) -> Result<(), ClientError> {
    let request = Request::Act {
        action,
        selection: change.filter.to_selection(change.all),
        author: author(),
        reason: change.reason.clone(),
    };
    let answer = client.ask_patiently(&request, |progress| {
        if io::stderr().is_terminal() {
            let acted: Acted = read(progress)?;
            eprint!("\r{} of {} recipients so far ", acted.changed, acted.recipients);
        }
        Ok(())
    })?;
    if change.json {
        return Ok(output::json(&answer)?);
    }
    let acted: Acted = read(answer)?;
    let done = match action {
        Action::Hold => "put on hold",
        Action::Release => "released",
        Action::Retry => "to be tried now",
        Action::Remove => "removed",
    };
    let mut text = format!("{}: {} of {} recipients {done}", messages(acted.messages), acted.changed, acted.recipients);
    if acted.in_flight > 0 {
        let _ = write!(
            text,
            "; {} are just being tried: it holds if the attempt leaves them in the queue",
            acted.in_flight
        );
    }
    if acted.busy > 0 {
        let _ = write!(text, "; {} could not be reached now: say it again", acted.busy);
    }
    Ok(output::line(text)?)
}

/// Shows what would be removed, and asks.
fn confirm(client: &mut Client, change: &Change) -> Result<(), ClientError> {
    let counted: Acted = read(client.ask(&Request::Count { selection: change.filter.to_selection(change.all) })?)?;
    let question =
        format!("{} with {} recipients would be removed for good", messages(counted.messages), counted.recipients);
    if !io::stdin().is_terminal() {
        return Err(ClientError::Refused(format!("{question}; say --yes if that is meant")));
    }
    eprint!("{question}. Remove? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(ClientError::Refused("nothing was removed".to_owned())),
    }
}

/// Who gives the command: behind sudo, the person and not root.
pub fn author() -> String {
    let named = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    named("SUDO_USER").or_else(|| named("USER")).unwrap_or_else(|| format!("uid {}", nix::unistd::getuid()))
}

fn read<T: DeserializeOwned>(value: Value) -> io::Result<T> {
    serde_json::from_value(value).map_err(io::Error::other)
}

fn messages(count: u64) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

fn state_word(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Due => "due",
        State::Scheduled => "scheduled",
        State::Deferred => "deferred",
        State::Held => "held",
        State::Reporting => "reporting",
        State::Finished => "finished",
    }
}

/// The time between, in its largest unit.
pub fn age(later: Timestamp, earlier: Timestamp) -> String {
    let seconds = later.since(earlier).as_secs();
    let (unit, name) = match seconds {
        0..120 => (1, "s"),
        120..7_200 => (60, "m"),
        7_200..172_800 => (3_600, "h"),
        _ => (86_400, "d"),
    };
    format!("{}{name}", seconds / unit)
}

/// A size, about.
fn about(octets: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut rest = octets;
    for unit in units {
        if rest < 10_240 || unit == "TiB" {
            return format!("{rest}{unit}");
        }
        rest /= 1024;
    }
    Size(octets).to_string()
}
