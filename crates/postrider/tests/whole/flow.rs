//! Mail in, mail out.

use crate::harness::{Postrider, Script, Setup, Sink};

const HELLO: &str = "From: a@example.org\r\nSubject: hi\r\n\r\nhello\r\n.dots stay\r\n";

#[test]
fn a_message_passes_through_unchanged_with_one_trace_field() {
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink));
    let id = server.client().send("a@example.org", &["b@example.net", "c@example.net"], HELLO);
    let mail = sink.next();
    assert_eq!((mail.from.as_str(), mail.to.len()), ("a@example.org", 2));
    assert!(mail.content.starts_with("Received: from client.test"), "{}", mail.content);
    assert!(mail.content.contains(&id) && mail.content.ends_with(HELLO), "{}", mail.content);
    assert_eq!(mail.content.matches("Received:").count(), 1);
    server.stop();
    assert!(sink.is_empty());
}

#[test]
fn the_story_of_a_message_is_in_the_log() {
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink));
    let id = server.client().send("a@example.org", &["b@example.net"], HELLO);
    server.wait("the end of the story", |line| line["event"] == "finished" && line["message"] == id.as_str());
    let accepted = server.wait("accepted", |line| line["event"] == "accepted" && line["message"] == id.as_str());
    assert_eq!((&accepted["sender"], &accepted["recipients"]), (&"a@example.org".into(), &1.into()));
    let delivered = server.wait("delivered", |line| line["event"] == "delivered" && line["message"] == id.as_str());
    assert_eq!(delivered["recipient"], "b@example.net");
    assert!(delivered["reply"].as_str().is_some_and(|reply| reply.contains("taken")), "{delivered}");
}

#[test]
fn strangers_may_not_relay() {
    let sink = Sink::start();
    let setup = Setup::to(&sink).top("domains = [\"ours.test\", \"*.ours.test\"]");
    // The harness's own network may relay; here it may not.
    let server = Postrider::start(&setup.networks("192.0.2.0/24"));
    let mut client = server.client();
    client.say("MAIL FROM:<a@example.org>", 250);
    for stranger in
        ["x@example.net", "x%example.net@ours.test", "@ours.test:x@example.net", "\"x@example.net\"@ours.test"]
    {
        let reply = client.say(&format!("RCPT TO:<{stranger}>"), 550);
        assert!(reply.contains("5.7.1"), "{stranger}: {reply}");
    }
    client.say("RCPT TO:<x@ours.test>", 250);
    client.say("RCPT TO:<x@sub.ours.test>", 250);
}

#[test]
fn a_refused_recipient_is_reported_to_the_sender() {
    let sink = Sink::scripted(Script {
        recipient: vec![("nobody@".into(), "550 5.1.1 no such person".into())],
        ..Script::default()
    });
    let server = Postrider::start(&Setup::to(&sink));
    let id = server.client().send("a@example.org", &["nobody@example.net"], HELLO);
    let report = sink.next();
    assert_eq!((report.from.as_str(), report.to.as_slice()), ("", ["a@example.org".to_owned()].as_slice()));
    assert!(report.content.contains("multipart/report"), "{}", report.content);
    assert!(report.content.contains("no such person"), "{}", report.content);
    server.wait("the end", |line| line["event"] == "finished" && line["message"] == id.as_str());
}

#[test]
fn a_deferred_message_is_tried_again() {
    let sink = Sink::scripted(Script { end: Some("451 4.3.0 later".into()), ..Script::default() });
    let server = Postrider::start(&Setup::to(&sink).table("[retry]\nfirst = \"1s\"\nmost = \"1s\""));
    server.client().send("a@example.org", &["b@example.net"], HELLO);
    let deferred = server.event("deferred");
    assert!(deferred["next"].is_string(), "{deferred}");
    sink.answer(Script::default());
    assert_eq!(sink.next().to, ["b@example.net"]);
}

#[test]
fn lmtp_answers_for_each_recipient() {
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink).lmtp());
    let mut client = crate::harness::Client::open(server.setup().address);
    client.expect(220);
    client.say("LHLO client.test", 250);
    client.say("MAIL FROM:<a@example.org>", 250);
    client.say("RCPT TO:<b@example.net>", 250);
    client.say("RCPT TO:<c@example.net>", 250);
    client.say("DATA", 354);
    client.write(HELLO.replace("\r\n.dots", "\r\n..dots").as_bytes());
    client.say(".", 250);
    client.expect(250);
    assert_eq!(sink.next().to.len(), 2);
}

#[test]
fn the_first_route_that_matches_wins() {
    let (exact, below, lmtp, any) = (Sink::start(), Sink::start(), Sink::start(), Sink::start());
    let setup = Setup::new()
        .route("ours.test", &exact.address().to_string())
        .route("*.ours.test", &format!("smtp://{}", below.address()))
        .route("store.test", &format!("lmtp://{}", lmtp.address()))
        .route("*", &any.address().to_string());
    let server = Postrider::start(&setup);
    let to = ["a@ours.test", "b@x.ours.test", "c@store.test", "d@else.test"];
    server.client().send("a@example.org", &to, HELLO);
    let got: Vec<String> = [&exact, &below, &lmtp, &any].into_iter().flat_map(|sink| sink.next().to).collect();
    assert_eq!(got, to);
}

#[test]
fn a_host_that_cannot_be_reached_gives_way_to_the_next() {
    let sink = Sink::start();
    let nobody = crate::harness::own_socket();
    let route = format!("[[route]]\ndomains = \"*\"\nto = [\"{nobody}\", \"{}\"]", sink.address());
    let server = Postrider::start(&Setup::new().table(&route));
    server.client().send("a@example.org", &["b@example.net"], HELLO);
    assert_eq!(sink.next().to, ["b@example.net"]);
}

#[test]
fn whoever_speaks_for_others_does_not_lend_them_its_rights() {
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink).listener("proxies = [\"127.0.0.0/8\"]"));
    let mut client = crate::harness::Client::open(server.setup().address);
    client.write(b"PROXY TCP4 198.51.100.7 192.0.2.1 4321 25\r\n");
    client.expect(220);
    client.say("EHLO client.test", 250);
    client.say("MAIL FROM:<a@example.org>", 250);
    client.say("RCPT TO:<b@example.net>", 550);

    let server = Postrider::start(&Setup::to(&sink).listener("xclient = [\"127.0.0.0/8\"]"));
    let mut client = server.client();
    client.say("XCLIENT ADDR=198.51.100.7", 220);
    client.say("EHLO client.test", 250);
    client.say("MAIL FROM:<a@example.org>", 250);
    client.say("RCPT TO:<b@example.net>", 550);
}

#[test]
fn limits_of_the_configuration_hold() {
    let sink = Sink::start();
    let limits =
        "[limits]\nmessage_size = \"1KiB\"\nheader_size = \"1KiB\"\nrecipients = 100\n[connections]\ntotal = 2";
    let server = Postrider::start(&Setup::to(&sink).table(limits));
    let mut client = server.client();
    client.say("MAIL FROM:<a@example.org> SIZE=2000", 552);
    client.say("MAIL FROM:<a@example.org>", 250);
    for at in 0..100 {
        client.say(&format!("RCPT TO:<b{at}@example.net>"), 250);
    }
    client.say("RCPT TO:<more@example.net>", 452);
    let _second = server.client();
    crate::harness::Client::open(server.setup().address).expect(421);
}
