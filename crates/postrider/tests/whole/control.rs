//! The control commands against a running server.

use serde_json::Value;

use crate::harness::{Postrider, Script, Setup, Sink, postrider};

const HELLO: &str = "Subject: hi\r\n\r\nhello\r\n";

/// A server whose mail stays: the only host refuses everybody for now.
fn full_house() -> (Sink, Postrider, Vec<String>) {
    let sink = Sink::scripted(Script { end: Some("451 4.3.0 later".into()), ..Script::default() });
    let server = Postrider::start(&Setup::to(&sink));
    let mut client = server.client();
    let ids = vec![
        client.send("a@example.org", &["one@example.net"], HELLO),
        client.send("a@example.org", &["two@example.com"], HELLO),
        client.send("b@example.org", &["three@example.net"], HELLO),
    ];
    for id in &ids {
        server.wait("an attempt", |line| line["event"] == "deferred" && line["message"] == id.as_str());
    }
    (sink, server, ids)
}

fn ids(lines: &[Value]) -> Vec<String> {
    lines.iter().map(|line| line["id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn the_queue_is_listed_filtered_and_shown() {
    let (_sink, server, all) = full_house();
    assert_eq!(ids(&server.command(&["queue", "list", "--json"]).json()), all);
    let list = |filter: [&str; 2]| ids(&server.command(&["queue", "list", "--json", filter[0], filter[1]]).json());
    assert_eq!(list(["--domain", "example.net"]), [all[0].clone(), all[2].clone()]);
    assert_eq!(list(["--sender", "b@*"]), [all[2].clone()]);
    assert_eq!(list(["--recipient", "two@example.com"]), [all[1].clone()]);
    assert_eq!(list(["--id", &all[1]]), [all[1].clone()]);
    assert_eq!(list(["--older-than", "1h"]), Vec::<String>::new());
    assert_eq!(list(["--limit", "2"]), all[..2]);

    let table = server.command(&["queue", "list"]).good();
    assert!(all.iter().all(|id| table.contains(id)) && table.contains("one@example.net"), "{table}");
    let shown = server.command(&["queue", "show", &all[0]]).good();
    for wanted in ["a@example.org", "one@example.net", "451 4.3.0 later"] {
        assert!(shown.contains(wanted), "{wanted} in {shown}");
    }
    let content = server.command(&["queue", "show", &all[0], "--content"]).good();
    assert!(content.starts_with("Received:") && content.ends_with(HELLO), "{content}");
    let err = server.command(&["queue", "show", "00000000000000000000000000"]).bad(1);
    assert!(err.contains("not in the queue"), "{err}");
}

#[test]
fn held_mail_waits_until_it_is_released() {
    let (sink, server, all) = full_house();
    let done =
        server.command(&["queue", "hold", "--sender", "b@example.org", "--reason", "looks odd", "--json"]).json();
    assert_eq!(done[0]["messages"], 1, "{done:?}");
    let held = server.event("held");
    assert_eq!(
        (&held["message"], &held["author"], &held["reason"]),
        (&all[2].as_str().into(), &"tester".into(), &"looks odd".into())
    );
    assert!(server.command(&["queue", "show", &all[2]]).good().contains("looks odd"));

    sink.answer(Script::default());
    server.command(&["queue", "retry", "--all"]).good();
    let mut to: Vec<String> = (0..2).flat_map(|_| sink.next().to).collect();
    to.sort();
    assert_eq!(to, ["one@example.net", "two@example.com"]);

    server.command(&["queue", "release", "--id", &all[2]]).good();
    assert_eq!(sink.next().to, ["three@example.net"]);
}

#[test]
fn removing_shows_the_count_and_asks_first() {
    let (_sink, server, all) = full_house();
    // Standard input is no terminal, so there is nobody to ask.
    let err = server.command(&["queue", "remove", "--domain", "example.net"]).bad(1);
    assert!(err.contains("2 messages") && err.contains("--yes"), "{err}");
    assert_eq!(server.command(&["queue", "list", "--json"]).json().len(), 3);
    let out = server.command(&["queue", "remove", "--domain", "example.net", "--yes", "--reason", "spam"]).good();
    assert!(out.contains("2 messages"), "{out}");
    assert_eq!(ids(&server.command(&["queue", "list", "--json"]).json()), [all[1].clone()]);
    let removed = server.event("removed");
    assert_eq!((&removed["author"], &removed["reply"]), (&"tester".into(), &"spam".into()));
}

#[test]
fn an_action_needs_to_be_told_on_what() {
    let (_sink, server, _) = full_house();
    let err = server.command(&["queue", "remove", "--yes"]).bad(1);
    assert!(err.contains("--all"), "{err}");
    assert_eq!(server.command(&["queue", "list", "--json"]).json().len(), 3);
}

#[test]
fn summary_status_and_metrics_tell_how_it_is() {
    let (_sink, server, _) = full_house();
    let summary = server.command(&["queue", "summary"]).good();
    assert!(summary.contains("route:any") && summary.contains('3'), "{summary}");
    let status = &server.command(&["status", "--json"]).json()[0];
    assert_eq!(status["store"]["messages"], 3, "{status}");
    assert!(server.command(&["status"]).good().contains("3 messages"));
    let metrics = server.command(&["metrics"]).good();
    assert!(metrics.contains("postrider_store_") && metrics.ends_with("# EOF\n"), "{metrics}");
}

#[test]
fn explain_names_the_line_and_the_lane() {
    let (_sink, server, _) = full_house();
    let explained = server.command(&["explain", "someone@example.net"]).good();
    for wanted in ["`*` at ", "postrider.toml:", "route:any", "3 queued"] {
        assert!(explained.contains(wanted), "{wanted} in {explained}");
    }
    assert!(server.command(&["explain", "no domain"]).bad(1).contains("neither a domain nor an address"));
}

#[test]
fn without_a_server_the_cure_is_told() {
    let setup = Setup::new();
    setup.write();
    let config = setup.config();
    let err = postrider(&["queue", "list", "--config", config.to_str().expect("text")]).bad(1);
    assert!(err.contains("no server answers") && err.contains("postrider serve"), "{err}");
}

#[test]
fn the_control_socket_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink));
    let socket = server.setup().socket();
    let mode = std::fs::metadata(&socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.stop();
    assert!(!socket.exists());
}
