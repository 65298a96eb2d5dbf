//! `postrider ban`: who is refused at connect.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use mail::{Clock, SystemClock};
use reception::BanSummary;

use crate::cli::BanCommand;
use crate::control::{Client, ClientError, Request};
use crate::output;
use crate::queue_command::{age, author};

/// Carries out a ban command.
pub fn run(socket: &Path, command: &BanCommand) -> Result<(), ClientError> {
    let mut client = Client::connect(socket)?;
    match command {
        BanCommand::List { json } => list(&mut client, *json),
        BanCommand::Add { network, time, reason, json } => {
            let (time, reason) = (time.map(|time| time.0), reason.clone());
            let request = Request::Ban { network: network.to_string(), time, author: author(), reason };
            let answer = client.ask(&request)?;
            match json {
                true => Ok(output::json(&answer)?),
                false => Ok(output::line(format_args!("{network} is refused from now on"))?),
            }
        }
        BanCommand::Lift { network, reason, json } => {
            let request = Request::LiftBan { network: network.to_string(), author: author(), reason: reason.clone() };
            let answer = client.ask(&request)?;
            if *json {
                return Ok(output::json(&answer)?);
            }
            match answer["lifted"].as_bool() {
                Some(true) => Ok(output::line(format_args!("{network} is not refused any more"))?),
                _ => Err(ClientError::Refused(format!("{network} is not banned; postrider ban list tells who is"))),
            }
        }
    }
}

fn list(client: &mut Client, json: bool) -> Result<(), ClientError> {
    let mut empty = true;
    client.each(&Request::Bans, |item| {
        if json {
            return output::line(item);
        }
        let BanSummary { network, ban } = serde_json::from_value(item).map_err(io::Error::other)?;
        let now = SystemClock.now();
        if std::mem::take(&mut empty) {
            output::line(format_args!("{:43}  {:>6}  {:>6}  {:>5}  WHY", "NETWORK", "SINCE", "FOR", "TIMES"))?;
        }
        let left = ban.until.map_or_else(|| "ever".to_owned(), |until| age(until, now));
        let mut line = format!("{network:43}  {:>6}  {left:>6}  {:>5}  ", age(now, ban.since), ban.times);
        line.push_str(&output::harmless(&ban.reason));
        if let Some(author) = &ban.author {
            let _ = write!(line, " ({})", output::harmless(author));
        }
        output::line(line)
    })?;
    if empty && !json {
        output::line("nobody is banned")?;
    }
    Ok(())
}
