//! What the DNS says decides what becomes of mail: asked of a scripted server, and of unbound in front of nsd.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};

use dns::testing::{Behaviour, DnsServer};
use serde_json::Value;

use super::name_servers::NameServers;
use super::{SOON, folder_in, skipped};
use crate::harness::{Mail, Postrider, Script, Setup, Sink, own_address};

const MAIL: &str = "From: a@back.test\r\nSubject: hi\r\n\r\nhello\r\n";

/// Hosts in this world, their records and how a server may be told of them.
struct World {
    /// Listens; all exchanges of a domain that lead here share its port.
    good: Sink,
    /// Listens elsewhere.
    other: Sink,
    /// Listens on `::1`, if there is IPv6.
    six: Option<Sink>,
    /// Listens and sends everybody away.
    full: Sink,
    /// Nobody listens there.
    nobody: IpAddr,
    reports: Sink,
}

impl World {
    fn new() -> Self {
        let six = IpAddr::V6(Ipv6Addr::LOCALHOST);
        let has_six = TcpListener::bind((six, 0)).is_ok();
        if !has_six {
            skipped("IPv6 is not installed");
        }
        Self {
            good: Sink::start(),
            other: Sink::start(),
            six: has_six.then(|| Sink::at(six, Script::default())),
            full: Sink::scripted(Script { greeting: Some("421 4.3.2 full".into()), ..Script::default() }),
            nobody: own_address(),
            reports: Sink::start(),
        }
    }

    /// The zone `test`, one record a line: `name TYPE data`, names relative to it.
    fn records(&self) -> String {
        let (good, other, nobody, full) =
            (self.good.address().ip(), self.other.address().ip(), self.nobody, self.full.address().ip());
        format!(
            "pref MX 20 other\npref MX 10 good\npref MX 30 other\n\
             next MX 10 nobody\nnext MX 15 absent\nnext MX 20 good\n\
             null MX 0 .\n\
             alias CNAME aliased\naliased MX 10 hostalias\nhostalias CNAME good\n\
             six MX 10 hostsix\nhostsix AAAA ::1\n\
             bare A {good}\n\
             textonly TXT \"no host\"\n\
             unknown MX 10 absent\n\
             ours MX 5 good\nours MX 10 mx\nours MX 20 other\n\
             self MX 10 mx\nself MX 20 other\nmx A {nobody}\n\
             good A {good}\nother A {other}\nnobody A {nobody}\nfull A {full}\n"
        )
    }

    /// The same for the scripted server.
    fn script(&self, server: &DnsServer) {
        let full = |name: &str| if name == "." { ".".to_owned() } else { format!("{name}.test") };
        for record in self.records().lines() {
            let words: Vec<&str> = record.split(' ').collect();
            let name = full(words[0]);
            match words[1] {
                "MX" if words[3] == "." => server.null_mx(&name),
                "MX" => server.mx(&name, words[2].parse().expect("a preference"), &full(words[3])),
                "CNAME" => server.alias(&name, &full(words[2])),
                "TXT" => server.exists(&name),
                _ => server.host(&name, words[2]),
            };
        }
        server.behave("broken.test", Behaviour::ServFail);
    }

    /// A server that finds its way by the DNS; each domain has the port at which its hosts listen here.
    fn server(&self, setup: Setup, dns: SocketAddr) -> Postrider {
        let reports = self.reports.address().to_string();
        let mut setup = setup.route("back.test", &reports);
        let six = self.six.as_ref().map_or(1, |sink| sink.address().port());
        let good = self.good.address().port();
        let ports = [
            ("six", six),
            ("pref", good),
            ("next", good),
            ("alias", good),
            ("bare", good),
            ("ours", good),
            ("late", good),
        ];
        // All others go to the default port, which nobody needs: there is no host.
        for (name, port) in ports {
            setup = setup.route(&format!("{name}.test"), &format!("mx://{name}.test:{port}"));
        }
        let dns = format!("[dns]\nservers = [\"{dns}\"]\ntimeout = \"2s\"\nattempts = 1");
        Postrider::start(&setup.table(&dns).table(SOON))
    }

    /// Sends to every domain and looks at what becomes of it.
    fn prove(&self, server: &Postrider) {
        for domain in ["pref", "next", "alias", "bare", "ours"] {
            let mail = self.delivered(server, domain, &self.good);
            assert_eq!(mail.to, [format!("b@{domain}.test")]);
        }
        if let Some(six) = &self.six {
            self.delivered(server, "six", six);
        }
        for (domain, reply, status) in [
            ("null", "556 5.1.10", "5.1.10"),
            ("gone", "550 5.1.2", "5.1.2"),
            ("textonly", "550 5.1.2", "5.1.2"),
            ("unknown", "550 5.4.4", "5.4.4"),
            ("self", "554 5.4.6", "5.4.6"),
        ] {
            self.bounced(server, domain, reply, status);
        }
        self.deferred(server, "broken", "451 4.4.3");
        assert!(self.other.is_empty(), "the host of lower preference is not needed");
        assert!(self.reports.is_empty(), "nothing else is reported");
    }

    fn delivered(&self, server: &Postrider, domain: &str, to: &Sink) -> Mail {
        let id = send(server, domain);
        let mail = to.next();
        assert!(mail.content.contains(&id), "{domain}: {}", mail.content);
        let line = outcome(server, "delivered", &id);
        assert_eq!(line["address"], to.address().ip().to_string().as_str(), "{line}");
        mail
    }

    fn bounced(&self, server: &Postrider, domain: &str, reply: &str, status: &str) {
        let id = send(server, domain);
        let line = outcome(server, "failed", &id);
        assert!(line["reply"].as_str().is_some_and(|text| text.starts_with(reply)), "{domain}: {line}");
        let report = self.reports.next();
        for wanted in [format!("Status: {status}\r\n"), format!("b@{domain}.test"), "Action: failed".to_owned()] {
            assert!(report.content.contains(&wanted), "{domain}: {wanted} in {}", report.content);
        }
    }

    fn deferred(&self, server: &Postrider, domain: &str, reply: &str) {
        let id = send(server, domain);
        let line = outcome(server, "deferred", &id);
        assert!(line["reply"].as_str().is_some_and(|text| text.starts_with(reply)), "{domain}: {line}");
        assert!(server.command(&["queue", "show", &id]).good().contains(reply));
    }
}

fn send(server: &Postrider, domain: &str) -> String {
    server.client().send("a@back.test", &[&format!("b@{domain}.test")], MAIL)
}

fn outcome(server: &Postrider, event: &str, id: &str) -> Value {
    server.wait(&format!("{event} for {id}"), |line| {
        let outcome = ["delivered", "deferred", "failed"].iter().any(|word| line["event"] == *word);
        assert!(!outcome || line["message"] != id || line["event"] == event, "not {event}: {line}");
        line["event"] == event && line["message"] == id
    })
}

#[test]
fn a_scripted_name_server_decides() {
    let world = World::new();
    let dns = DnsServer::start();
    world.script(&dns);
    let server = world.server(Setup::new(), dns.address());
    world.prove(&server);

    // What was put off goes on its way when the name server has recovered.
    dns.behave("late.test", Behaviour::ServFail);
    world.deferred(&server, "late", "451 4.4.4");
    dns.forget("late.test").mx("late.test", 10, "good.test");
    assert_eq!(world.good.next().to, ["b@late.test"]);
}

#[test]
fn unbound_and_nsd_decide() {
    let world = World::new();
    let setup = Setup::new();
    let Some(names) = NameServers::start(&folder_in(&setup, "names"), &world.records()) else { return };
    let server = world.server(setup, names.address);
    world.prove(&server);
}

#[test]
fn a_name_server_that_is_silent_or_absent_defers() {
    let world = World::new();
    let dns = DnsServer::start();
    dns.behave("broken.test", Behaviour::Silent);
    let server = world.server(Setup::new(), dns.address());
    world.deferred(&server, "broken", "451 4.4.3");
    drop(dns);
    world.deferred(&server, "elsewhere", "451 4.4.3");
}

#[test]
fn all_hosts_are_tried_before_the_mail_is_put_off() {
    let world = World::new();
    let dns = DnsServer::start();
    // `full` has its own port, so the other hosts of this domain do not answer there.
    dns.mx("pref.test", 10, "nobody.test").mx("pref.test", 20, "full.test");
    dns.host("nobody.test", &world.nobody.to_string()).host("full.test", &world.full.address().ip().to_string());
    let setup = Setup::new().route("pref.test", &format!("mx://pref.test:{}", world.full.address().port()));
    let dns_table = format!("[dns]\nservers = [\"{}\"]", dns.address());
    let server = Postrider::start(&setup.table(&dns_table).table(SOON));
    send(&server, "pref");
    let rests = server.wait("the rest", |line| line["event"] == "site rests" || line["event"] == "deferred");
    let said = rests.to_string();
    assert!(said.contains("421 4.3.2 full") || said.contains("refused"), "{said}");
    world.full.answer(Script::default());
    assert_eq!(world.full.next().to, ["b@pref.test"]);
}
