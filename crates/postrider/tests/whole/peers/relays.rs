//! A real Postfix on either side.

use super::postfix::{Postfix, Tree};
use super::{SOON, behind_trace, run, wait_for};
use crate::harness::{Client, Postrider, Setup, Sink};

const MAIL: &str = "From: a@back.test\r\nSubject: hi\r\n\r\nhello\r\n.a dot\r\n..two\r\nend\r\n";

/// All mail for these domains into one Maildir, but for two recipients.
fn takes_mail(setup: &Setup) -> String {
    format!(
        "virtual_mailbox_domains = example.net, xn--bcher-kva.example\nvirtual_mailbox_base = {}\n\
         virtual_mailbox_maps = static:all/\nvirtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\n\
         smtpd_recipient_restrictions = check_recipient_access \
         inline:{{ {{ nobody@example.net = 550 5.1.1 no such person }}, {{ full@example.net = 452 4.2.2 full }} }}",
        setup.folder().join("postfix/mail").display()
    )
}

/// What Postfix's `virtual` writes is found behind the fields that it adds.
fn arrived(postfix: &Postfix, content: &str) -> String {
    let wanted = content.replace("\r\n", "\n");
    wait_for("the message in the Maildir", || postfix.delivered().into_iter().find(|mail| mail.ends_with(&wanted)))
}

#[test]
fn postfix_relays_to_us() {
    let Some(tree) = Tree::runnable() else { return };
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink));
    let address = server.setup().address;
    let relay = format!("relayhost = [{}]:{}", address.ip(), address.port());
    let postfix = Postfix::start(&tree, &server.setup().folder().join("postfix"), &relay);

    Client::connect(postfix.address).deliver("a@back.test", &["b@example.net", "c@example.net"], MAIL.as_bytes());
    let mail = sink.next();
    assert_eq!(mail.to, ["b@example.net", "c@example.net"]);
    let theirs = behind_trace(&mail.raw);
    assert!(mail.content.contains("from postfix.test"), "{}", mail.content);
    assert_eq!(String::from_utf8_lossy(behind_trace(theirs)), MAIL);

    let source = format!("inet:{}", postfix.address);
    run(tree.program("smtp-source").args([
        "-s",
        "10",
        "-m",
        "60",
        "-l",
        "5000",
        "-f",
        "a@back.test",
        "-t",
        "many@example.net",
        &source,
    ]));
    for _ in 0..60 {
        let mail = sink.next();
        assert_eq!(mail.to, ["many@example.net"]);
        assert_eq!(mail.content.matches("\r\nReceived: ").count(), 1, "{}", mail.content);
    }
    // Postfix says "sent" when it has read our 250; nothing of it comes a second time.
    wait_for("Postfix's word on all of them", || (postfix.log().matches("status=sent").count() == 62).then_some(()));
    server.stop();
    assert!(sink.is_empty());
}

#[test]
fn postfix_takes_our_refusals_for_what_they_are() {
    let Some(tree) = Tree::runnable() else { return };
    let sink = Sink::start();
    let setup = Setup::to(&sink).networks("192.0.2.0/24").top("domains = [\"ours.test\"]");
    let server = Postrider::start(&setup);
    let address = server.setup().address;
    let relay = format!("relayhost = [{}]:{}", address.ip(), address.port());
    let postfix = Postfix::start(&tree, &server.setup().folder().join("postfix"), &relay);
    Client::connect(postfix.address).deliver("a@ours.test", &["b@example.net", "c@ours.test"], MAIL.as_bytes());
    let mut mails = [sink.next(), sink.next()];
    mails.sort_by(|one, other| one.to.cmp(&other.to));
    let [report, mail] = mails;
    assert_eq!((report.from.as_str(), report.to.as_slice()), ("", ["a@ours.test".to_owned()].as_slice()));
    assert!(report.content.contains("b@example.net") && report.content.contains("550 5.7.1"), "{}", report.content);
    assert_eq!(mail.to, ["c@ours.test"]);
}

#[test]
fn we_deliver_to_postfix() {
    let Some(tree) = Tree::runnable() else { return };
    let reports = Sink::start();
    let setup = Setup::new();
    let postfix = Postfix::start(&tree, &setup.folder().join("postfix"), &takes_mail(&setup));
    let setup = setup.route("back.test", &reports.address().to_string()).route("*", &postfix.address.to_string());
    let server = Postrider::start(&setup.table(SOON));
    let to = ["b@example.net", "nobody@example.net", "full@example.net", "\"quoted one\"@example.net"];
    let id = server.client().send("a@back.test", &to, MAIL);
    let mail = arrived(&postfix, MAIL);
    assert!(mail.contains("by mx.test") && mail.contains(&id), "{mail}");
    for (recipient, event, reply) in [
        (to[0], "delivered", "250 2.0.0"),
        (to[1], "failed", "550 5.1.1"),
        (to[2], "deferred", "452 4.2.2"),
        (to[3], "delivered", "250 2.0.0"),
    ] {
        let line = server.wait(&format!("{event} for {recipient}"), |line| {
            line["event"] == event && line["message"] == id.as_str() && line["recipient"] == recipient
        });
        assert!(line["reply"].as_str().is_some_and(|text| text.contains(reply)), "{line}");
    }
    let report = reports.next();
    assert!(
        report.content.contains("nobody@example.net") && report.content.contains("no such person"),
        "{}",
        report.content
    );
    assert!(!report.content.contains("full@example.net"), "{}", report.content);
}

#[test]
fn internationalised_and_eight_bit_mail_passes_to_postfix() {
    let Some(tree) = Tree::runnable() else { return };
    let setup = Setup::new();
    let postfix = Postfix::start(&tree, &setup.folder().join("postfix"), &takes_mail(&setup));
    let server = Postrider::start(&setup.route("*", &postfix.address.to_string()));
    let mut client = server.client();
    let content = "From: ä@back.test\r\nSubject: grüße\r\n\r\nß€\r\n";
    client.say("MAIL FROM:<ä@back.test> SMTPUTF8 BODY=8BITMIME", 250);
    client.say("RCPT TO:<ö@bücher.example>", 250);
    client.say("DATA", 354);
    client.write(content.as_bytes());
    client.say(".", 250);
    let mail = arrived(&postfix, content);
    assert!(mail.contains("Return-Path: <ä@back.test>"), "{mail}");
    assert!(mail.contains("Delivered-To: ö@"), "{mail}");
    server.wait("the delivery", |line| line["event"] == "delivered");
}

#[test]
fn postfix_may_discard() {
    let Some(tree) = Tree::runnable() else { return };
    let setup = Setup::new();
    let settings = "default_transport = discard\nrelay_domains = example.net";
    let postfix = Postfix::start(&tree, &setup.folder().join("postfix"), settings);
    let server = Postrider::start(&setup.route("*", &postfix.address.to_string()));
    let mut client = server.client();
    for n in 0..50 {
        client.send("a@example.org", &[&format!("b{n}@example.net")], MAIL);
    }
    for n in 0..50 {
        let recipient = format!("b{n}@example.net");
        server.wait("a delivery", |line| line["event"] == "delivered" && line["recipient"] == recipient.as_str());
    }
    server.stop();
}
