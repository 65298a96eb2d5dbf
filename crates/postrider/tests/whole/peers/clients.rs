//! Mail in from the clients that people use.

use std::process::Command;

use super::postfix::Tree;
use super::{behind_trace, folder_in, run, tool};
use crate::harness::{Postrider, Setup, Sink};

const MAIL: &str = "From: a@example.org\r\nSubject: hi\r\n\r\nhello\r\n.a dot\r\n..two\r\n.\r\nend\r\n";

#[test]
fn swaks_sends() {
    let Some(swaks) = tool("swaks") else { return };
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink));
    let address = server.setup().address;
    // It sends dots stuffed and takes line ends as they are.
    let said = run(Command::new(swaks)
        .args(["--server", &address.ip().to_string(), "--port", &address.port().to_string(), "--timeout", "20"])
        .args(["--from", "a@example.org", "--to", "b@example.net,c@example.net", "--ehlo", "swaks.test"])
        .args(["--pipeline", "--header", "X-Test: swaks", "--body", "hello\n.a dot\nend"]));
    assert!(said.contains("250 2.0.0") && said.contains("221 "), "{said}");
    let mail = sink.next();
    assert_eq!(
        (mail.from.as_str(), mail.to.as_slice()),
        ("a@example.org", ["b@example.net".into(), "c@example.net".into()].as_slice())
    );
    assert!(mail.content.contains("swaks.test") && mail.content.contains("X-Test: swaks\r\n"), "{}", mail.content);
    assert!(mail.body().starts_with("hello\r\n.a dot\r\nend\r\n"), "{}", mail.content);
}

#[test]
fn swaks_is_refused_as_a_stranger() {
    let Some(swaks) = tool("swaks") else { return };
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink).networks("192.0.2.0/24"));
    let address = server.setup().address;
    let output = Command::new(swaks)
        .args(["--server", &address.ip().to_string(), "--port", &address.port().to_string(), "--timeout", "20"])
        .args(["--from", "a@example.org", "--to", "b@example.net"])
        .output()
        .expect("swaks runs");
    // 24: no recipient was accepted.
    assert_eq!(output.status.code(), Some(24));
    assert!(String::from_utf8_lossy(&output.stdout).contains("550 5.7.1"));
    assert!(sink.is_empty());
}

#[test]
fn curl_uploads() {
    let Some(curl) = tool("curl") else { return };
    let sink = Sink::start();
    let setup = Setup::to(&sink);
    let file = folder_in(&setup, "client").join("mail");
    std::fs::write(&file, MAIL).expect("a file");
    let server = Postrider::start(&setup);
    run(Command::new(curl)
        .args(["--silent", "--show-error", "--max-time", "20", "--url", &format!("smtp://{}/curl.test", setup.address)])
        .args(["--mail-from", "a@example.org", "--mail-rcpt", "b@example.net", "--mail-rcpt", "c@example.net"])
        .arg("--upload-file")
        .arg(&file));
    let mail = sink.next();
    assert_eq!((mail.from.as_str(), mail.to.len()), ("a@example.org", 2));
    assert_eq!(String::from_utf8_lossy(behind_trace(&mail.raw)), MAIL);
    server.stop();
}

/// What Python's library does: several recipients of which one is refused, 8-bit content, SMTPUTF8, many messages over one
/// connection.
const SMTPLIB: &str = r#"
import smtplib, sys
s = smtplib.SMTP(sys.argv[1], int(sys.argv[2]), "python.test", timeout=20)
s.ehlo()
for name in ["size", "8bitmime", "smtputf8", "dsn", "pipelining", "enhancedstatuscodes", "chunking"]:
    assert s.has_extn(name), name
mail = "From: a@example.org\r\nSubject: {}\r\n\r\n{}\r\n"
refused = s.sendmail("a@example.org", ["b@example.net", "b\x40", "c@example.net"], mail.format("several", "hello"))
assert list(refused) == ["b@"] and refused["b@"][0] == 501, refused
eight = b"Subject: eight\r\n\r\n" + bytes(range(128, 256)) + b"\r\n"
assert s.sendmail("a@example.org", ["b@example.net"], eight, ["BODY=8BITMIME"]) == {}
utf8 = "From: ä@example.org\r\nSubject: ütf8\r\n\r\nß\r\n".encode()
assert s.sendmail("ä@example.org", ["ö@utf8.example"], utf8, ["SMTPUTF8", "BODY=8BITMIME"]) == {}
for n in range(20):
    assert s.sendmail("a@example.org", ["many@example.net"], mail.format("many %d" % n, "x")) == {}
assert s.verify("a")[0] == 252
assert s.docmd("EXPN", "a")[0] == 502
code, text = s.quit()
assert code == 221, text
"#;

#[test]
fn python_smtplib_sends() {
    let Some(python) = tool("python3") else { return };
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink));
    let address = server.setup().address;
    run(Command::new(python).args(["-c", SMTPLIB, &address.ip().to_string(), &address.port().to_string()]));
    let mails: Vec<_> = (0..22).map(|_| sink.next()).collect();
    let with = |subject: &str| {
        let found = mails.iter().find(|mail| mail.header("Subject").is_some_and(|header| header == subject));
        found.unwrap_or_else(|| panic!("no mail with the subject {subject}"))
    };
    assert_eq!(with("several").to, ["b@example.net", "c@example.net"]);
    let eight: Vec<u8> = [b"Subject: eight\r\n\r\n".as_slice(), &Vec::from_iter(128..=255), b"\r\n"].concat();
    assert_eq!(behind_trace(&with("eight").raw), eight);
    assert_eq!((0..20).filter(|n| with(&format!("many {n}")).to == ["many@example.net"]).count(), 20);
    // The sink does not offer SMTPUTF8, so the sender is told that the message can't pass, in a report without it.
    let failed = server.wait("the end of the UTF-8 message", |line| line["event"] == "failed");
    assert_eq!(failed["recipient"], "ö@utf8.example");
    assert!(failed["reply"].as_str().is_some_and(|reply| reply.contains("5.6.7")), "{failed}");
}

#[test]
fn smtp_source_sends_much() {
    let Some(tree) = Tree::found() else { return };
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink));
    // 20 sessions at a time, 100 messages with three recipients each, a connection for every message.
    run(tree
        .program("smtp-source")
        .args([
            "-s",
            "20",
            "-m",
            "100",
            "-l",
            "10240",
            "-r",
            "3",
            "-f",
            "a@example.org",
            "-t",
            "b@example.net",
            "-N",
            "-d",
        ])
        .arg(format!("inet:{}", server.setup().address)));
    let mut recipients = Vec::new();
    for _ in 0..100 {
        let mail = sink.next();
        assert!(behind_trace(&mail.raw).len() >= 10240, "{} octets", mail.raw.len());
        recipients.extend(mail.to);
    }
    recipients.sort();
    let all = recipients.len();
    recipients.dedup();
    assert_eq!((all, recipients.len()), (300, 300));
    server.stop();
    assert!(sink.is_empty());
}
