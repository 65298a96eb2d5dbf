//! Mail out to `smtp-sink`, well and ill.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::postfix::Tree;
use super::{Peer, SOON, folder_in, wait_for};
use crate::harness::{PATIENCE, Postrider, Setup, Sink, own_socket};

const MAIL: &str = "From: a@back.test\r\nSubject: hi\r\n\r\nhello\r\n.a dot\r\n";

/// An `smtp-sink` that can be stopped and started anew with other options at the same address.
struct SmtpSink {
    options: &'static str,
    address: SocketAddr,
    folder: PathBuf,
    running: Option<Peer>,
}

impl SmtpSink {
    fn start(tree: &Tree, setup: &Setup, name: &str, options: &'static str) -> Self {
        let folder = folder_in(setup, name);
        let mut sink = Self { options, address: own_socket(), folder, running: None };
        sink.run(tree, options);
        sink
    }

    fn run(&mut self, tree: &Tree, options: &str) {
        let mut command = tree.program("smtp-sink");
        command.args(options.split_whitespace()).arg("-d").arg(self.folder.join("mail."));
        if crate::harness::is_root() {
            command.args(["-u", "nobody"]);
        }
        command.arg(format!("inet:{}", self.address)).arg("100");
        self.running = Some(Peer::listening(&mut command, self.address));
    }

    /// From now on it takes everything.
    fn recover(&mut self, tree: &Tree) {
        self.running = None;
        // What it refused at the end of the content is there, too.
        for entry in std::fs::read_dir(&self.folder).expect("our own folder").flatten() {
            std::fs::remove_file(entry.path()).expect("a dump");
        }
        self.run(tree, "");
    }

    /// The messages it has taken, with the lines that it puts in front.
    fn dumps(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.folder).expect("our own folder").flatten();
        let text = |path: PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        entries.map(|entry| text(entry.path())).filter(|text| text.contains(".a dot")).collect()
    }
}

/// One server with a route, a domain and an `smtp-sink` for each kind of failure; reports go to a sink of ours.
fn house(tree: &Tree, kinds: &[&'static str], tables: &str) -> (Postrider, Vec<SmtpSink>, Sink) {
    let reports = Sink::start();
    let mut setup = Setup::new().route("back.test", &reports.address().to_string()).table(tables);
    let mut sinks = Vec::new();
    for (at, kind) in kinds.iter().enumerate() {
        let sink = SmtpSink::start(tree, &setup, &format!("sink{at}"), kind);
        setup = setup.route(&domain(at), &sink.address.to_string());
        sinks.push(sink);
    }
    (Postrider::start(&setup), sinks, reports)
}

fn domain(at: usize) -> String {
    format!("d{at}.test")
}

fn send(server: &Postrider, at: usize) -> String {
    server.client().send("a@back.test", &[&format!("b@{}", domain(at))], MAIL)
}

fn delivered(server: &Postrider, id: &str, what: &str) {
    server.wait(&format!("the delivery after {what}"), |line| line["event"] == "delivered" && line["message"] == id);
}

#[test]
fn soft_failures_are_survived() {
    let Some(tree) = Tree::found() else { return };
    let kinds = [
        "-r connect",
        "-r mail",
        "-r rcpt",
        "-r data",
        "-r .",
        "-r ehlo,helo",
        "-q connect",
        "-q ehlo",
        "-q mail",
        "-q rcpt",
        "-q data",
        "-q .",
        "-Q connect",
        "-Q ehlo",
        "-Q mail",
        "-Q rcpt",
        "-Q data",
        "-Q .",
    ];
    let (server, mut sinks, reports) = house(&tree, &kinds, SOON);
    let ids: Vec<String> = (0..kinds.len()).map(|at| send(&server, at)).collect();
    for ((at, id), sink) in ids.iter().enumerate().zip(&mut sinks) {
        let deferred = |line: &serde_json::Value| line["event"] == "deferred" && line["message"] == id.as_str();
        let rests = |line: &serde_json::Value| {
            line["event"] == "site rests"
                && line["site"].as_str().is_some_and(|site| site.contains(&sink.address.to_string()))
        };
        server.wait(&format!("a failure of {}", sink.options), |line| deferred(line) || rests(line));
        sink.recover(&tree);
        delivered(&server, id, kinds[at]);
        let dumps = wait_for("the message in smtp-sink", || Some(sink.dumps()).filter(|dumps| !dumps.is_empty()));
        assert_eq!(dumps.len(), 1, "{}: {dumps:#?}", sink.options);
        assert!(dumps[0].contains(&format!("X-Rcpt-Args: <b@{}>", domain(at))), "{}", dumps[0]);
        assert!(dumps[0].contains(&format!("\n{}", MAIL.replace("\r\n", "\n"))), "{}", dumps[0]);
    }
    server.stop();
    assert!(reports.is_empty(), "nobody is told about what went well in the end");
}

#[test]
fn hard_failures_are_reported() {
    let Some(tree) = Tree::found() else { return };
    let kinds = ["-f mail", "-f rcpt", "-f data", "-f .", "-A 0"];
    let (server, sinks, reports) = house(&tree, &kinds, SOON);
    for (at, sink) in sinks.iter().enumerate() {
        let id = send(&server, at);
        server.wait(&format!("the failure of {}", sink.options), |line| {
            line["event"] == "failed" && line["message"] == id.as_str()
        });
        let report = reports.next();
        assert_eq!((report.from.as_str(), report.to.as_slice()), ("", ["a@back.test".to_owned()].as_slice()));
        let said = if sink.options.starts_with("-A") { "550" } else { "500 5.3.0 Error: command failed" };
        for wanted in [said, &format!("b@{}", domain(at)), "Action: failed"] {
            assert!(report.content.contains(wanted), "{}: {wanted} in {}", sink.options, report.content);
        }
    }
    server.stop();
}

#[test]
fn mail_that_stays_refused_expires() {
    let Some(tree) = Tree::found() else { return };
    let times = "[retry]\nintervals = [\"1s\"]\nexpire = \"2s\"";
    let (server, _sinks, reports) = house(&tree, &["-r rcpt"], times);
    let id = send(&server, 0);
    server.wait("the expiry", |line| line["event"] == "expired" && line["message"] == id.as_str());
    let report = reports.next();
    assert!(report.content.contains("450 4.3.0 Error: command failed"), "{}", report.content);
    assert!(report.content.contains("Action: failed"), "{}", report.content);
    server.stop();
}

#[test]
fn odd_but_willing_servers_get_their_mail() {
    let Some(tree) = Tree::found() else { return };
    // EHLO refused, no ESMTP, a PIX in front, no pipelining, no extensions for content, hung up on at QUIT, slow.
    // `-W` goes with `-p`: smtp-sink offers PIPELINING and does not keep to it (RFC 2920 §3.2: replies come in the order of
    // the commands). To MAIL, RCPT, DATA in one piece, `-W mail:1` answers "503 need MAIL", "503 need RCPT" at once and
    // "250 Ok" a second later.
    let kinds =
        ["-f ehlo", "-e", "-P", "-p", "-8 -E -N", "-q quit", "-Q quit", "-f quit", "-w 1", "-p -W mail:1", "-H 1"];
    let (server, sinks, reports) = house(&tree, &kinds, SOON);
    let ids: Vec<String> = (0..kinds.len()).map(|at| send(&server, at)).collect();
    for (id, sink) in ids.iter().zip(&sinks) {
        delivered(&server, id, sink.options);
        let dumps = wait_for("the message in smtp-sink", || Some(sink.dumps()).filter(|dumps| !dumps.is_empty()));
        assert_eq!(dumps.len(), 1, "{}", sink.options);
        let proto = if matches!(sink.options, "-f ehlo" | "-e" | "-P") { "SMTP" } else { "ESMTP" };
        assert!(dumps[0].contains(&format!("X-Client-Proto: {proto}\n")), "{}: {}", sink.options, dumps[0]);
    }
    assert!(reports.is_empty() && sinks.iter().all(|sink| sink.dumps().len() == 1), "each message once");
    server.stop();
}

#[test]
fn too_slow_is_a_failure_that_passes() {
    let Some(tree) = Tree::found() else { return };
    let times = format!("{SOON}\nmail_time = \"300ms\"");
    let (server, mut sinks, _reports) = house(&tree, &["-p -W mail:20"], &times);
    let id = send(&server, 0);
    let began = std::time::Instant::now();
    server.wait("the time-out", |line| line["event"] == "deferred" && line["message"] == id.as_str());
    assert!(began.elapsed() < PATIENCE);
    sinks[0].recover(&tree);
    delivered(&server, &id, "the time-out");
}

#[test]
fn lmtp_delivers_too() {
    let Some(tree) = Tree::found() else { return };
    let setup = Setup::new();
    let sink = SmtpSink::start(&tree, &setup, "lmtp", "-L");
    let server = Postrider::start(&setup.clone().route("*", &format!("lmtp://{}", sink.address)));
    let id = server.client().send("a@back.test", &["b@example.net", "c@example.net"], MAIL);
    for recipient in ["b@example.net", "c@example.net"] {
        server.wait("the delivery", |line| {
            line["event"] == "delivered" && line["message"] == id.as_str() && line["recipient"] == recipient
        });
    }
    let dumps = sink.dumps();
    assert!(dumps.len() == 1 && dumps[0].contains("X-Client-Proto: LMTP"), "{dumps:#?}");
}
