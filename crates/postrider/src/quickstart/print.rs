//! What a person reads: one stage after the other, each with what to do.

use super::Outcome;
use super::ask::FirstAccount;
use super::machine::{Finding, State};
use super::names::{Published, Record};
use super::plan::Plan;
use crate::output::harmless;

/// The password, to be told once.
pub fn exposed(account: &FirstAccount) -> String {
    account.password.reveal().to_owned()
}

/// What comes after, in order.
pub fn next(plan: &Plan, machine: &[Finding]) -> Vec<String> {
    let config = plan.configuration();
    let config = config.display();
    let mut next = Vec::new();
    if machine.iter().any(|finding| finding.state == State::Bad) {
        next.push(format!("mend what is bad above, and look again: postrider quickstart {}", plan.hostname));
    }
    next.push(format!("postrider check --config {config}"));
    next.push(format!("systemctl enable --now postrider, or: postrider serve --config {config}"));
    let domain = &plan.domain;
    next.push(format!("postrider dns-records {domain} --config {config}: the records for TLS, as soon as mail flows"));
    next
}

/// All stages.
pub fn text(outcome: &Outcome) -> String {
    let mut text = format!("\nPostrider for {}, mail server of {}\n", outcome.hostname, outcome.domain);
    text.push_str("\n1. Files\n");
    for made in &outcome.files {
        let word = if made.new { "made" } else { "kept" };
        text.push_str(&format!("   {word}   {}: {}\n", made.path.display(), made.note));
    }
    if let Some(password) = &outcome.password {
        text.push_str(&format!("   The account's password, which is told only now: {password}\n"));
    }
    text.push_str("\n2. This machine\n");
    for finding in &outcome.machine {
        let word = match finding.state {
            State::Good => "good",
            State::Unsure => "?   ",
            State::Bad => "bad ",
        };
        text.push_str(&format!("   {word}   {}: {}\n", finding.subject, harmless(&finding.text)));
        if let Some(cure) = &finding.cure {
            text.push_str(&format!("          {cure}\n"));
        }
    }
    records(&outcome.records, &mut text);
    text.push_str("\n4. Next\n");
    for step in &outcome.next {
        text.push_str(&format!("   {step}\n"));
    }
    text
}

fn records(records: &[Record], text: &mut String) {
    text.push_str("\n3. The DNS, first of all\n");
    if records.is_empty() {
        text.push_str("   not looked at\n");
    }
    for record in records {
        let (word, found) = match &record.state {
            Published::Right => ("good", None),
            Published::Missing => ("bad ", Some("publish it".to_owned())),
            Published::Other(found) => ("bad ", Some(format!("now it says {}", harmless(found)))),
            Published::Unknown(why) => ("?   ", Some(format!("could not be looked up: {}", harmless(why)))),
        };
        text.push_str(&format!("   {word}   {} {} {}\n", record.name, record.kind, record.value));
        if let Some(found) = found {
            text.push_str(&format!("          {}; {found}\n", record.why));
        }
    }
}
