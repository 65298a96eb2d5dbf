//! The others are away: name servers and hosts.

use dns::testing::{Behaviour, DnsServer};

use crate::SOON;
use crate::clients::{Ledger, until_empty};
use crate::harness::{Postrider, Script, Setup, Sink, is_root, own_address, own_socket, skipped, wait_for};

#[test]
fn mail_is_taken_without_name_servers_and_leaves_when_they_are_back() {
    let sink = Sink::start();
    let dns = DnsServer::start();
    dns.mx("example.net", 10, "mx.example.net").host("mx.example.net", &sink.address().ip().to_string());
    dns.behave("example.net", Behaviour::Silent).behave("mx.example.net", Behaviour::Silent);
    let route = format!("mx://example.net:{}", sink.address().port());
    let table = format!("[dns]\nservers = [\"{}\"]\ntimeout = \"200ms\"\nattempts = 1\n{SOON}", dns.address());
    let setup = Setup::new().route("example.net", &route).table(&table);
    let server = Postrider::start(&setup);
    let mut ledger = Ledger::default();
    ledger.post(setup.address, "one", "hello").expect("names are no reason to refuse");
    let deferred = server.event("deferred");
    assert!(deferred["reply"].as_str().is_some_and(|reply| reply.contains("could not be looked up")), "{deferred}");

    dns.behave("example.net", Behaviour::ServFail);
    ledger.post(setup.address, "two", "hello").expect("names are no reason to refuse");
    server.wait("the second", |line| line["event"] == "deferred" && line["recipient"] == "two@example.net");

    dns.behave("example.net", Behaviour::Answer).behave("mx.example.net", Behaviour::Answer);
    ledger.settle(&sink);
    until_empty(&server);
    server.stop();
}

#[test]
fn mail_waits_for_a_host_that_is_away() {
    let away = own_socket();
    let setup = Setup::new().route("*", &away.to_string()).table(SOON);
    let server = Postrider::start(&setup);
    let mut ledger = Ledger::default();
    for number in 0..20 {
        ledger.post(setup.address, &format!("n{number}"), "hello").expect("hosts are no reason to refuse");
    }
    let rests = server.event("site rests");
    assert!(rests.to_string().contains("refused"), "{rests}");
    let sink = Sink::on(away, Script::default());
    ledger.settle(&sink);
    until_empty(&server);
    server.stop();
}

#[test]
fn a_host_that_dies_in_the_middle_of_a_message_gets_it_when_it_is_back() {
    let host = Sink::start();
    let address = host.address();
    let mut server = Postrider::start(&Setup::to(&host).table(SOON));
    let mut ledger = Ledger::default();
    let to = server.setup().address;
    ledger.post(to, "alive", "hello").expect("a good server");
    std::mem::take(&mut ledger).settle(&host);

    // It has the content of one, and has not said what becomes of it, when it dies; more is on its way.
    host.answer(Script { silent_at_end: true, ..Script::default() });
    ledger.post(to, "open", "hello").expect("hosts are no reason to refuse");
    wait_for("a transfer that waits for its reply", || host.is_asked().then_some(()));
    for number in 0..20 {
        ledger.post(to, &format!("n{number}"), "hello").expect("hosts are no reason to refuse");
    }
    host.die();
    let cut = server.wait("the cut", |line| line["event"] == "deferred" && line["recipient"] == "open@example.net");
    assert!(cut["reply"].as_str().is_some_and(|reply| reply.starts_with("4")), "{cut}");
    let rests = server.event("site rests");
    assert!(rests.to_string().contains("refused"), "{rests}");
    ledger.post(to, "dead", "hello").expect("hosts are no reason to refuse");

    let host = Sink::on(address, Script::default());
    ledger.settle(&host);
    until_empty(&server);
    server.signal("TERM");
    assert!(server.wait_exit().success());
    assert!(!server.log_text().contains("\"event\":\"failed\""), "{}", server.log_text());
}

#[test]
fn mail_exchanges_are_found_on_port_25() {
    if !is_root() {
        return skipped("listening on port 25 needs root");
    }
    let sink = Sink::on((own_address(), 25).into(), Script::default());
    let dns = DnsServer::start();
    dns.mx("example.net", 10, "mx.example.net").host("mx.example.net", &sink.address().ip().to_string());
    let server = Postrider::start(&Setup::new().table(&format!("[dns]\nservers = [\"{}\"]", dns.address())));
    let mut ledger = Ledger::default();
    ledger.post(server.setup().address, "one", "hello").expect("a good server");
    ledger.settle(&sink);
    server.stop();
}
