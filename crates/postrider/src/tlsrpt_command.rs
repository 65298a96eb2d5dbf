//! `postrider tlsrpt`: TLS reports that came, and what is told to others.

use std::fmt::Write as _;
use std::path::Path;

use mail::{Clock, SystemClock};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tls::report::{PolicyResult, Report, Wanted};

use crate::cli::{About, TlsReportsCommand};
use crate::control::{Client, ClientError, ReportRequest, Request};
use crate::output::{self, harmless};

/// Carries out a command.
pub fn run(socket: &Path, command: &TlsReportsCommand) -> Result<(), ClientError> {
    let mut client = Client::connect(socket)?;
    match command {
        TlsReportsCommand::List { about, limit, json } => {
            let request = ReportRequest::Received { wanted: wanted(about), limit: *limit };
            list(&mut client, request, *json, received_row)
        }
        TlsReportsCommand::Show { id, json } => {
            let shown = client.ask(&Request::Reports { request: ReportRequest::Show { id: *id } })?;
            match json {
                true => output::json(&shown)?,
                false => output::print(received(&shown))?,
            }
            Ok(())
        }
        TlsReportsCommand::Summary { about, json } => {
            list(&mut client, ReportRequest::Summary { wanted: wanted(about) }, *json, summary)
        }
        TlsReportsCommand::Sent { domain, limit, json } => {
            list(&mut client, ReportRequest::Sent { domain: domain.clone(), limit: *limit }, *json, sent)
        }
        TlsReportsCommand::Counts { domain, limit, json } => {
            list(&mut client, ReportRequest::Counted { domain: domain.clone(), limit: *limit }, *json, counted)
        }
    }
}

fn wanted(about: &About) -> Wanted {
    let since = about.since.map(|period| SystemClock.now() - period.0);
    Wanted { domain: about.domain.clone(), since }
}

fn list(
    client: &mut Client,
    request: ReportRequest,
    json: bool,
    text: impl Fn(&Value) -> String,
) -> Result<(), ClientError> {
    let mut empty = true;
    client.each(&Request::Reports { request }, |item| {
        empty = false;
        if json { output::line(item) } else { output::print(text(&item)) }
    })?;
    if empty && !json {
        output::line("nothing")?;
    }
    Ok(())
}

fn received_row(item: &Value) -> String {
    let head = format!("{}  {}", word(&item["id"]), moment(&item["received_at"]));
    match part::<Report>(&item["report"]) {
        Some(report) => {
            let totals = report.totals();
            format!(
                "{head}  {} about {}: {} good, {} failed\n",
                harmless(&report.organization_name),
                harmless(&report.domains().join(", ")),
                totals.total_successful_session_count,
                totals.total_failure_session_count
            )
        }
        None => format!("{head}  no report from <{}>: {}\n", word(&item["sender"]), word(&item["trouble"])),
    }
}

fn received(item: &Value) -> String {
    let mut text = format!(
        "mail       {}\nreceived   {}\nsender     <{}>\nsubject    {}\n",
        word(&item["id"]),
        moment(&item["received_at"]),
        word(&item["sender"]),
        word(&item["subject"])
    );
    let Some(report) = part::<Report>(&item["report"]) else {
        let _ = writeln!(text, "no report  {}", word(&item["trouble"]));
        return text;
    };
    let _ = writeln!(text, "from       {}", harmless(&report.organization_name));
    let _ = writeln!(text, "contact    {}", harmless(&report.contact_info));
    let _ = writeln!(text, "report     {}", harmless(&report.report_id));
    let range = &report.date_range;
    let _ = writeln!(text, "time       {} to {}", harmless(&range.start_datetime), harmless(&range.end_datetime));
    report.policies.iter().for_each(|result| policy(&mut text, result));
    text
}

fn policy(text: &mut String, result: &PolicyResult) {
    let (policy, summary) = (&result.policy, &result.summary);
    let _ = writeln!(
        text,
        "  {} {}: {} good, {} failed",
        harmless(&policy.policy_domain),
        harmless(&policy.policy_type),
        summary.total_successful_session_count,
        summary.total_failure_session_count
    );
    for detail in &result.failure_details {
        let _ = write!(text, "    {} × {}", detail.failed_session_count, harmless(&detail.result_type));
        let facts = [
            ("at", &detail.receiving_mx_hostname),
            ("ip", &detail.receiving_ip),
            ("from", &detail.sending_mta_ip),
            ("because", &detail.failure_reason_code),
            ("see", &detail.additional_information),
        ];
        for (name, fact) in facts {
            if let Some(fact) = fact {
                let _ = write!(text, ", {name} {}", harmless(fact));
            }
        }
        text.push('\n');
    }
}

fn summary(item: &Value) -> String {
    let organizations = item["organizations"].as_array().map_or(0, Vec::len);
    let mut text = format!(
        "{}: {} good, {} failed, in {} reports of {organizations} organizations\n",
        word(&item["domain"]),
        item["successful"],
        item["failed"],
        item["reports"]
    );
    for (kind, count) in item["failures"].as_object().into_iter().flatten() {
        let _ = writeln!(text, "    {count} × {}", harmless(kind));
    }
    text
}

fn sent(item: &Value) -> String {
    let state = if item["finished"] == true { "finished" } else { "waits until" };
    let mut text = format!("{}  {}  {state} {}", word(&item["day"]), word(&item["domain"]), moment(&item["at"]));
    if item["finished"] == true {
        let _ = write!(text, ": {} good, {} failed", item["successful"], item["failed"]);
    }
    text.push('\n');
    for place in item["places"].as_array().into_iter().flatten() {
        let end = if place["sent"] == true { "sent".to_owned() } else { word(&place["trouble"]) };
        let _ = writeln!(text, "    {}: {end}", word(&place["place"]));
    }
    text
}

fn counted(item: &Value) -> String {
    let mut text = format!("{}  {}\n", word(&item["day"]), word(&item["domain"]));
    part::<Vec<PolicyResult>>(&item["results"]).iter().flatten().for_each(|result| policy(&mut text, result));
    text
}

fn part<T: DeserializeOwned>(value: &Value) -> Option<T> {
    serde_json::from_value(value.clone()).ok()
}

fn word(value: &Value) -> String {
    harmless(value.as_str().unwrap_or_default())
}

fn moment(value: &Value) -> String {
    mail::Timestamp::from_millis(value.as_u64().unwrap_or(0)).to_string()
}
