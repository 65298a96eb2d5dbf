//! `postrider acme`: the certificate that the running server gets from an authority.

use std::path::Path;

use serde_json::Value;

use crate::cli::AcmeCommand;
use crate::control::{Client, ClientError, Request};
use crate::output;

/// Carries out a command.
pub fn run(socket: &Path, command: AcmeCommand) -> Result<(), ClientError> {
    let mut client = Client::connect(socket)?;
    let status = client.ask(&Request::Acme { renew: matches!(command, AcmeCommand::Renew) })?;
    match command {
        AcmeCommand::Status { json: true } => return Ok(output::json(&status)?),
        _ if status.is_null() => output::line("no certificate is wanted from an authority: [acme] has no names")?,
        AcmeCommand::Renew => output::line("asked for; the log and `postrider acme status` tell how it goes")?,
        AcmeCommand::Status { json: false } => output::print(describe(&status))?,
    }
    Ok(())
}

fn describe(status: &Value) -> String {
    let text = |key: &str| output::harmless(status[key].as_str().unwrap_or_default());
    let time = |key: &str| {
        let millis = status[key].as_u64();
        millis.map(|millis| mail::Timestamp::from_millis(millis).to_string())
    };
    let names: Vec<&str> = status["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut page = format!(
        "certificate for {}\n  authority    {}\n  proof        {}\n  good until   {}\n  next         {}\n",
        output::harmless(&names.join(", ")),
        text("directory"),
        text("challenge"),
        time("expires").unwrap_or_else(|| "there is none yet".to_owned()),
        time("next").filter(|_| status["next"].as_u64() > Some(0)).unwrap_or_else(|| "now".to_owned()),
    );
    if let Some(failures) = status["failures"].as_u64().filter(|failures| *failures > 0) {
        page.push_str(&format!("  failed       {failures} times; last: {}\n", text("error")));
    }
    page
}
