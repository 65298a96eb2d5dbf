//! `postrider account usage` and `account release`: what accounts send, and ending the hold on one.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use mail::{Clock, SystemClock};
use reception::UseSummary;

use crate::control::{Client, ClientError, Request};
use crate::output;
use crate::queue_command::{age, author};

/// Tells what one account, or each of which anything is known, has sent.
pub fn usage(socket: &Path, account: Option<&str>, json: bool) -> Result<(), ClientError> {
    let mut empty = true;
    let request = Request::AccountUses { account: account.map(str::to_lowercase) };
    Client::connect(socket)?.each(&request, |item| {
        if json {
            return output::line(item);
        }
        let one: UseSummary = serde_json::from_value(item).map_err(io::Error::other)?;
        if std::mem::take(&mut empty) {
            output::line("   LAST HOUR       LAST DAY   USUAL DAY")?;
            output::line("  MSGS  RCPTS    MSGS  RCPTS      RCPTS  ACCOUNT")?;
        }
        let mut line = format!(
            "{:6} {:6}  {:6} {:6}  {:9}  {}",
            one.messages_hour,
            one.recipients_hour,
            one.messages_day,
            one.recipients_day,
            one.usual_day,
            output::harmless(&one.account)
        );
        if let Some(spike) = one.held {
            let since = age(SystemClock.now(), spike.at);
            let _ = write!(line, " (held for {since}: {} recipients, {} are like it)", spike.recipients, spike.usual);
        }
        output::line(line)
    })?;
    if empty && !json {
        output::line("no account has sent anything lately")?;
    }
    Ok(())
}

/// Ends the hold on an account, and lets its messages go.
pub fn release(socket: &Path, account: &str, reason: &str, json: bool) -> Result<(), ClientError> {
    let (account, reason) = (account.to_lowercase(), reason.to_owned());
    let request = Request::ReleaseAccount { account: account.clone(), author: author(), reason };
    let answer = Client::connect(socket)?.ask_patiently(&request, |_| Ok(()))?;
    if json {
        return Ok(output::json(&answer)?);
    }
    let changed = answer["changed"].as_u64().unwrap_or(0);
    Ok(output::line(format_args!("{account} may send again, and {changed} recipients are released"))?)
}
