//! What a person reads: one stage after the other, each with what to do.

use super::ask::FirstAccount;
use super::machine::{Finding, State};
use super::names::{MANY, Published, Record, Stage};
use super::options::{Options, shell};
use super::plan::Plan;
use super::{Found, Written};
use crate::config::Configuration;
use crate::output::harmless;

/// The password, to be told once.
pub fn exposed(account: &FirstAccount) -> String {
    account.password.reveal().to_owned()
}

/// What comes after, in order.
pub fn next(options: &Options, plan: &Plan, machine: &[Finding]) -> Vec<String> {
    let config = plan.configuration();
    let config = shell(&config.to_string_lossy());
    let mut next = Vec::new();
    if machine.iter().any(|finding| finding.state == State::Bad) {
        next.push(format!("mend what is bad above, and look again: {}", options.again()));
    }
    next.push(format!("postrider check --config {config}"));
    next.push(format!("systemctl enable --now postrider, or: postrider serve --config {config}"));
    let domain = if plan.domains.len() == 1 { format!("{} ", plan.domains[0]) } else { String::new() };
    next.push(format!(
        "postrider dns-records {domain}--config {config}: all records again, whenever something changes"
    ));
    next
}

/// The first stage.
pub fn written(written: &Written<'_>) -> String {
    let mut text = format!("\nPostrider for {}\n\n1. Files\n", written.hostname);
    for made in written.files {
        let word = if made.new { "made" } else { "kept" };
        text.push_str(&format!("   {word}   {}: {}\n", made.path.display(), made.note));
    }
    if let Some(password) = &written.password {
        text.push_str(&format!("   The account's password, which is told only now: {password}\n"));
    }
    text
}

/// All other stages.
pub fn found(found: &Found, configuration: &Configuration, plan: &Plan) -> String {
    let mut text = "\n2. This machine\n".to_owned();
    for finding in &found.machine {
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
    first(found, configuration, &mut text);
    text.push_str("\n4. The DNS, before mail leaves\n");
    list(&found.records, Stage::BeforeSending, &mut text);
    settled(found, configuration, plan, &mut text);
    text.push_str("\n6. Next\n");
    for step in &found.next {
        text.push_str(&format!("   {step}\n"));
    }
    text
}

fn first(found: &Found, configuration: &Configuration, text: &mut String) {
    text.push_str("\n3. The DNS, first of all\n");
    if !found.records.iter().any(|record| record.kind.starts_with('A')) {
        text.push_str(&format!(
            "   {}. A and AAAA: the server's public addresses, which are not known here; say them by --address\n",
            configuration.hostname
        ));
    }
    list(&found.records, Stage::First, text);
    match found.domains.len() {
        0 => text.push_str("   No domain yet: set `domains`, or say --domain, to be told its MX and SPF records\n"),
        many if many > MANY => text.push_str(&format!("   Of {many} domains the first {MANY} are looked at\n")),
        _ => {}
    }
    if configuration.domains.is_empty() && !found.domains.is_empty() {
        text.push_str(
            "   The MX can wait: the server takes no mail for the domain before `domains` and a route say so\n",
        );
    }
}

fn settled(found: &Found, configuration: &Configuration, plan: &Plan, text: &mut String) {
    text.push_str("\n5. The DNS, once the certificate is settled\n");
    text.push_str(
        "   TLSA and MTA-STS make others insist on the certificate: wait with both until it is the one that stays.\n",
    );
    list(&found.records, Stage::Settled, text);
    if !found.records.iter().any(|record| record.kind == "TLSA") {
        text.push_str(
            "   TLSA (DANE: others know the server's key): once there is a certificate, by `postrider dns-records`\n",
        );
    }
    let path = plan.configuration();
    for (is_set, what) in [
        (
            !configuration.mta_sts.domains.is_empty(),
            "MTA-STS (others insist on a certificate that they trust): [mta_sts]",
        ),
        (configuration.tls_reports.address.is_some(), "TLS-RPT (others report how TLS with you went): [tls_reports]"),
    ] {
        if !is_set {
            text.push_str(&format!("   {what} in {}, then `postrider dns-records`\n", path.display()));
        }
    }
}

fn list(records: &[Record], stage: Stage, text: &mut String) {
    for record in records.iter().filter(|record| record.stage == stage) {
        let (word, found) = match &record.state {
            Published::Right => ("good", None),
            Published::Missing => ("bad ", Some("; publish it".to_owned())),
            // Another way may lead to the same.
            Published::Other(found) if stage == Stage::BeforeSending => {
                ("?   ", Some(format!("; now it says {}", harmless(found))))
            }
            Published::Other(found) => ("bad ", Some(format!("; now it says {}", harmless(found)))),
            Published::Unknown(why) => ("?   ", Some(format!("; could not be looked up: {}", harmless(why)))),
            Published::NotLooked => ("    ", Some(String::new())),
        };
        text.push_str(&format!("   {word}   {} {} {}\n", record.name, record.kind, record.value));
        if let Some(found) = found {
            text.push_str(&format!("          {}{found}\n", record.why));
        }
    }
}
