//! MTA-STS from end to end: policies over real HTTPS, mail hosts over real TLS, what becomes of the mail, what its sender
//! is told, and what the domain would be told.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use dns::testing::DnsServer;
use serde_json::Value;

use crate::harness::{Postrider, Setup, Sink, is_root, own_address, skipped, wait_for};

#[path = "../../../tls/tests/policies/web.rs"]
mod web;
use web::{Certificate, Web, respond, text};

const MAIL: &str = "From: a@back.test\r\nSubject: hi\r\n\r\nhello\r\n";

/// What becomes of mail for a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It arrives; how the host's certificate was verified.
    Arrives(&'static str),
    /// It waits, and goes back to its sender in the end, for this reason.
    Waits(&'static str),
}
use Fate::{Arrives, Waits};

/// A domain: its mail host, how its policy host proves itself and answers, what becomes of mail for it, and the line in the
/// report: policy, result.
type Case = (&'static str, &'static str, Certificate, fn() -> String, Fate, (&'static str, &'static str));

const GOOD: &str = "mx.good.test";
/// At the same address, with a certificate that nobody vouches for.
const SELF: &str = "mx.self.test";
/// At the same address, but the certificate is not for these names: one for each domain, whose lines none other shares.
const BAD: &str = "*.bad.test";

const CASES: [Case; 12] = [
    ("enforce.test", GOOD, Certificate::Good, || of("enforce", GOOD), Arrives("web_pki"), ("sts", "good")),
    (
        "untrusted.test",
        BAD,
        Certificate::Good,
        || of("enforce", BAD),
        Waits("untrusted.bad.test"),
        ("sts", "certificate-host-mismatch"),
    ),
    (
        "selfmade.test",
        SELF,
        Certificate::Good,
        || of("enforce", SELF),
        Waits("no trusted authority vouches for its certificate"),
        ("sts", "certificate-not-trusted"),
    ),
    (
        "mismatch.test",
        GOOD,
        Certificate::Good,
        || of("enforce", "mx.else.test"),
        Waits("mx.good.test"),
        ("sts", "certificate-host-mismatch"),
    ),
    (
        "testing.test",
        BAD,
        Certificate::Good,
        || of("testing", BAD),
        Arrives("no"),
        ("sts", "certificate-host-mismatch"),
    ),
    (
        "trial.test",
        BAD,
        Certificate::Good,
        || of("testing", "mx.else.test"),
        Arrives("no"),
        ("sts", "certificate-host-mismatch"),
    ),
    ("none.test", BAD, Certificate::Good, || of("none", BAD), Arrives("no"), ("no-policy-found", "good")),
    ("badhost.test", BAD, Certificate::SelfSigned, || of("enforce", BAD), Arrives("no"), ("sts", "sts-webpki-invalid")),
    (
        "missing.test",
        BAD,
        Certificate::Good,
        || respond("404 Gone", "", ""),
        Arrives("no"),
        ("sts", "sts-policy-fetch-error"),
    ),
    (
        "moved.test",
        BAD,
        Certificate::Good,
        || respond("301 Moved", "Location: https://mta-sts.enforce.test/.well-known/mta-sts.txt\r\n", ""),
        Arrives("no"),
        ("sts", "sts-policy-fetch-error"),
    ),
    (
        "huge.test",
        BAD,
        Certificate::Good,
        || text(&format!("{}{}", of("enforce", BAD), "x: y\r\n".repeat(20_000))),
        Arrives("no"),
        ("sts", "sts-policy-invalid"),
    ),
    (
        "changed.test",
        BAD,
        Certificate::Good,
        || of("testing", BAD),
        Arrives("no"),
        ("sts", "certificate-host-mismatch"),
    ),
];

fn of(mode: &str, mx: &str) -> String {
    text(&format!("version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: 86400\r\n"))
}

/// A sender, a receiver, and what both need of the world.
struct World {
    dns: DnsServer,
    web: Web,
    web_ip: IpAddr,
    mail_ip: IpAddr,
    back: Sink,
    _arrived: Sink,
    _receiver: Postrider,
    sender: Setup,
    _runtime: tokio::runtime::Runtime,
}

impl World {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
        let (web_ip, mail_ip) = (own_address(), own_address());
        let web = runtime.block_on(Web::at(SocketAddr::new(web_ip, 443)));
        let (arrived, back, dns) = (Sink::start(), Sink::start(), DnsServer::start());
        let receiver = Setup::to(&arrived);
        let ((chain, key), (self_chain, self_key)) = (web::pem(GOOD), web::self_signed_pem(SELF));
        let own = [("self.pem", self_chain), ("self-key.pem", self_key), ("authority.pem", web::authority_pem())];
        let files = [("chain.pem", chain), ("key.pem", key)].into_iter().chain(own);
        for (name, content) in files {
            std::fs::write(receiver.folder().join(name), content).expect("a file");
        }
        let folder = receiver.folder().to_owned();
        let file = |name: &str| folder.join(name).display().to_string();
        let receiver = receiver.table(&format!(
            "[[listener]]\nname = \"mx\"\naddress = \"{mail_ip}:25\"\n[[certificate]]\nchain = \"{}\"\nkey = \"{}\"\n\
             [[certificate]]\nchain = \"{}\"\nkey = \"{}\"",
            file("chain.pem"),
            file("key.pem"),
            file("self.pem"),
            file("self-key.pem")
        ));
        let authority = file("authority.pem");
        let receiver = Postrider::start(&receiver);
        let sender = Setup::new().route("back.test", &back.address().to_string()).table(&format!(
            "[dns]\nservers = [\"{}\"]\n[tls]\nroots = \"{authority}\"\n[tls_reports]\nsend = true\n[retry]\nintervals = \
             [\"1s\"]\njitter = 0\nexpire = \"3s\"\n[delivery]\nrest_first = \"500ms\"\nrest_most = \"500ms\"",
            dns.address()
        ));
        Self { dns, web, web_ip, mail_ip, back, _arrived: arrived, _receiver: receiver, sender, _runtime: runtime }
    }

    fn publish(&self, (domain, host, certificate, answer, ..): &Case) {
        let host = host.replace("*.bad", &domain.replace(".test", ".bad"));
        self.dns.mx(domain, 10, &host).host(&host, &self.mail_ip.to_string());
        self.announce(domain, "1");
        let policy_host = format!("mta-sts.{domain}");
        self.dns.host(&policy_host, &self.web_ip.to_string());
        self.web.host(&policy_host, *certificate, answer());
    }

    fn announce(&self, domain: &str, id: &str) {
        let name = format!("_mta-sts.{domain}");
        self.dns.forget(&name).text(&name, &format!("v=STSv1; id={id};")).ttl(&name, 0);
    }
}

#[test]
fn the_policy_of_a_domain_decides_over_its_mail() {
    if !is_root() {
        return skipped("ports 25 and 443 of loopback addresses need root");
    }
    let world = World::new();
    CASES.iter().for_each(|case| world.publish(case));
    let server = Postrider::start(&world.sender);
    let ids: BTreeMap<&str, String> = CASES.iter().map(|case| (case.0, send(&server, case.0))).collect();
    for (domain, _, _, _, fate, told) in &CASES {
        let id = &ids[domain];
        match fate {
            Arrives(verified) => {
                let line = outcome(&server, "delivered", id);
                assert_eq!(line["verified"], *verified, "{domain}: {line}");
            }
            Waits(reason) => {
                let line = outcome(&server, "deferred", id);
                assert!(line["reply"].as_str().is_some_and(|reply| reply.contains(reason)), "{domain}: {line}");
            }
        }
        let lines = wait_for("the count", || Some(server.tls_counts(domain)).filter(|lines| !lines.is_empty()));
        assert!(lines.contains(&(told.0.to_owned(), told.1.to_owned())), "{domain}: {lines:?}");
    }
    let waits = |case: &Case| match case.4 {
        Waits(reason) => Some((case.0, reason)),
        Arrives(_) => None,
    };
    let mut waiting: BTreeMap<&str, &str> = CASES.iter().filter_map(waits).collect();
    while !waiting.is_empty() {
        failed(&world.back.next().content, &mut waiting);
    }

    // A new id, and what was only told is enforced.
    world.announce("changed.test", "2");
    world.web.answer("mta-sts.changed.test", of("enforce", BAD));
    server.stop();
    let server = Postrider::start(&world.sender);
    let id = send(&server, "changed.test");
    let line = outcome(&server, "deferred", &id);
    assert!(line["reply"].as_str().is_some_and(|reply| reply.contains("changed.bad.test")), "{line}");
    failed(&world.back.next().content, &mut [("changed.test", "changed.bad.test")].into());
    let counted = server.tls_counts("changed.test");
    assert!(counted.contains(&("sts".into(), "certificate-host-mismatch".into())), "{counted:?}");
    assert_eq!(world.web.asked("mta-sts.changed.test"), 2);
    // Kept over the restart, without another fetch.
    let id = send(&server, "enforce.test");
    outcome(&server, "delivered", &id);
    assert_eq!(world.web.asked("mta-sts.enforce.test"), 1);
    server.stop();
}

#[test]
fn our_own_policy_is_served_and_announced() {
    let listen = SocketAddr::new(own_address(), 8443);
    let setup = Setup::new();
    let (chain, key) = web::pem("mta-sts.us.test");
    for (name, content) in [("chain.pem", chain), ("key.pem", key), ("authority.pem", web::authority_pem())] {
        std::fs::write(setup.folder().join(name), content).expect("a file");
    }
    let file = |name: &str| setup.folder().join(name).display().to_string();
    let policy = |mode: &str| {
        format!(
            "[[certificate]]\nchain = \"{}\"\nkey = \"{}\"\n[mta_sts]\ndomains = [\"us.test\"]\nmode = \"{mode}\"\nlisten = \
             \"{listen}\"",
            file("chain.pem"),
            file("key.pem")
        )
    };
    let top = "domains = [\"us.test\"]";
    let with = |mode: &str| setup.instead().top(top).route("us.test", "lmtp:/nowhere").table(&policy(mode));
    let server = Postrider::start(&with("testing"));
    let fetched = |host: &str| curl(host, listen, &file("authority.pem"));
    let Some(first) = fetched("mta-sts.us.test") else { return };
    assert_eq!(first, "version: STSv1\r\nmode: testing\r\nmx: mx.test\r\nmax_age: 604800\r\n");
    let announced = |server: &Postrider| {
        let records = server.command(&["dns-records", "--json"]).json();
        let record = records.into_iter().find(|record| record["name"] == "_mta-sts.us.test").expect("the record");
        record["value"].as_str().expect("its text").to_owned()
    };
    let before = announced(&server);
    assert!(before.starts_with("\"v=STSv1; id="), "{before}");

    with("enforce").write();
    server.signal("HUP");
    server.event("configuration reloaded");
    let second = fetched("mta-sts.us.test").expect("the policy");
    assert!(second.contains("mode: enforce"), "{second}");
    assert_ne!(announced(&server), before, "another policy, another id");
    server.stop();
}

/// What a host serves, by a client that nobody here wrote.
fn curl(host: &str, at: SocketAddr, authority: &str) -> Option<String> {
    let curl = crate::harness::tool("curl")?;
    let resolve = format!("{host}:{}:{}", at.port(), at.ip());
    let url = format!("https://{host}:{}/.well-known/mta-sts.txt", at.port());
    let output = Command::new(curl)
        .args(["-sS", "--fail", "--cacert", authority, "--resolve", &resolve, &url])
        .stdin(Stdio::null())
        .output()
        .expect("curl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("text"))
}

fn send(server: &Postrider, domain: &str) -> String {
    let mut client = server.client();
    client.send("a@back.test", &[&format!("b@{domain}")], MAIL)
}

/// A report about a recipient at one of these domains, for the reason there; takes it out.
fn failed(report: &str, waiting: &mut BTreeMap<&str, &str>) {
    let flat = report.replace("\r\n ", " ");
    let domain = waiting.keys().copied().find(|domain| flat.contains(&format!("Final-Recipient: rfc822; b@{domain}")));
    let domain = domain.unwrap_or_else(|| panic!("a report about nobody: {flat}"));
    let reason = waiting.remove(domain).unwrap_or_default();
    assert!(flat.contains("Action: failed"), "{domain}: {flat}");
    assert!(reason.split(' ').all(|word| flat.contains(word)), "{domain}: {flat}");
}

fn outcome(server: &Postrider, word: &str, id: &str) -> Value {
    server.wait(&format!("{id} {word}"), |line| line["event"] == word && line["message"] == id)
}
