//! DANE against Postfix, with zones signed by ldns, served by nsd and validated by unbound or by us.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PublicKeyData, date_time_ymd};

use super::name_servers::{NameServers, Validates};
use super::postfix::{Postfix, Tree};
use super::{SOON, folder_in};
use crate::harness::{Client, Postrider, Setup, Sink, own_address, skipped, wait_for};

const MAIL: &str = "From: a@back.test\r\nSubject: hi\r\n\r\nhello\r\n";

/// What becomes of mail for a domain.
enum Fate {
    /// It goes over TLS, with the certificate verified so.
    Delivered(&'static str),
    /// It waits, for this reason, and comes back with it in the end.
    Deferred(&'static str),
}
use Fate::{Deferred, Delivered};

const MISMATCH: &str = "its certificate fits none of its TLSA records; DANE demands it";
const DEMANDED: &str = "has no TLSA record that DNSSEC vouches for; the route demands DANE";

/// What is told of TLS with a domain: policy and result. Nothing where no host is found, or where the mail may go over a
/// line that was open for another domain.
type Told = Option<(&'static str, &'static str)>;

/// Domains, what becomes of their mail, and what they are told. Each but those of `plain.test` has a host of its own,
/// `mx.` and its name.
const FATES: [(&str, Fate, Told); 13] = [
    ("ee.dane.test", Delivered("dane_ee"), Some(("tlsa", "good"))),
    ("ta.dane.test", Delivered("dane_ta"), Some(("tlsa", "good"))),
    ("oldee.dane.test", Delivered("dane_ee"), Some(("tlsa", "good"))),
    (
        "oldta.dane.test",
        Deferred("451 4.7.5 mx.oldta.dane.test: its certificate has expired; DANE demands it"),
        Some(("tlsa", "certificate-expired")),
    ),
    ("mismatch.dane.test", Deferred(MISMATCH), Some(("tlsa", "tlsa-invalid"))),
    (
        "forged.dane.test",
        Deferred("the look-up of _25._tcp.mx.forged.dane.test failed"),
        Some(("no-policy-found", "dnssec-invalid")),
    ),
    ("forgedmx.dane.test", Deferred("451 4.4.3 the mail hosts of forgedmx.dane.test could not be looked up"), None),
    (
        "notls.dane.test",
        Deferred("451 4.7.4 mx.notls.dane.test: it does not offer STARTTLS; DANE demands it"),
        Some(("tlsa", "starttls-not-supported")),
    ),
    ("unusable.dane.test", Delivered("no"), Some(("tlsa", "tlsa-invalid"))),
    ("bare.dane.test", Delivered("no"), Some(("no-policy-found", "good"))),
    ("demanded.dane.test", Deferred(DEMANDED), Some(("no-policy-found", "dane-required"))),
    // RFC 7672 §2.2.1: what the host proves counts, but is not told as proven for the domain.
    ("unsigned.plain.test", Delivered("no"), None),
    ("unsignedbad.plain.test", Deferred(MISMATCH), Some(("tlsa", "tlsa-invalid"))),
];

/// An authority and a host's certificates, written where Postfix finds them.
struct Certificates {
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self { authority: CertifiedIssuer::self_signed(params, key).expect("a certificate") }
    }

    /// Writes key and chain of a host; gives the digest of its public key, and the lines of master.cf for it.
    fn host(&self, folder: &Path, name: &str, ip: IpAddr) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("parameters");
        if name.contains(".old") {
            (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        }
        let certificate = params.signed_by(&key, &self.authority).expect("a certificate");
        let file = folder.join(format!("{name}.pem"));
        fs::write(&file, key.serialize_pem() + &certificate.pem() + &self.authority.pem()).expect("a file");
        let level = match name {
            "mx.notls.dane.test" => "none",
            "mx.bare.dane.test" => "encrypt",
            _ => "may",
        };
        let service = format!(
            "{ip}:25 inet n - n - - smtpd\n -o smtpd_tls_security_level={level}\n -o smtpd_tls_chain_files={}\n",
            file.display()
        );
        (hex(digest(&SHA256, &key.subject_public_key_info()).as_ref()), service)
    }

    fn authority_digest(&self) -> String {
        hex(digest(&SHA256, self.authority.der()).as_ref())
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Postfix with a host for each domain, and the name servers that tell of them.
fn world(setup: &Setup, tree: &Tree, validates: Validates) -> Option<(Postfix, NameServers)> {
    let (keys, folder) = (folder_in(setup, "keys"), folder_in(setup, "names"));
    let certificates = Certificates::new();
    let (mut zone, mut services) = (String::new(), String::new());
    for (domain, ..) in &FATES {
        let Some(label) = domain.strip_suffix(".dane.test") else { continue };
        let ip = own_address();
        let (spki, service) = certificates.host(&keys, &format!("mx.{domain}"), ip);
        services += &service;
        let tlsa = match label {
            "ta" | "oldta" => Some(format!("2 0 1 {}", certificates.authority_digest())),
            "mismatch" => Some(format!("3 1 1 {}", "00".repeat(32))),
            "unusable" => Some(format!("1 1 1 {spki}")),
            "bare" | "demanded" => None,
            _ => Some(format!("3 1 1 {spki}")),
        };
        writeln!(zone, "{label} MX 10 mx.{label}\nmx.{label} A {ip}").expect("a string");
        if let Some(tlsa) = tlsa {
            writeln!(zone, "_25._tcp.mx.{label} TLSA {tlsa}").expect("a string");
        }
    }
    let plain = "unsigned MX 10 mx.ee.dane.test.\nunsignedbad MX 10 mx.mismatch.dane.test.\n";
    let forged = ["_25._tcp.mx.forged.dane.test TLSA", "forgedmx.dane.test MX"];
    let names = NameServers::signed(&folder, plain, &zone, &forged, validates)?;
    let domains: Vec<&str> = FATES.iter().map(|(domain, ..)| *domain).collect();
    let settings = format!(
        "virtual_mailbox_domains = {}\nvirtual_mailbox_base = {}\nvirtual_mailbox_maps = static:all/\n\
         virtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\nsmtpd_tls_loglevel = 1",
        domains.join(", "),
        setup.folder().join("postfix/mail").display()
    );
    let postfix = Postfix::with_services(tree, &setup.folder().join("postfix"), &settings, &services);
    Some((postfix, names))
}

#[test]
fn each_domain_gets_what_its_records_demand_if_unbound_validates() {
    each_domain_gets_what_its_records_demand(Validates::Unbound);
}

#[test]
fn each_domain_gets_what_its_records_demand_if_we_validate() {
    each_domain_gets_what_its_records_demand(Validates::Postrider);
}

fn each_domain_gets_what_its_records_demand(validates: Validates) {
    let Some(tree) = Tree::runnable() else { return };
    let setup = Setup::new();
    let Some((postfix, names)) = world(&setup, &tree, validates) else { return };
    let reports = Sink::start();
    let dns = names.table(validates);
    let soon = SOON.replace("[retry]\n", "[retry]\nexpire = \"8s\"\n");
    let setup = setup.route("back.test", &reports.address().to_string()).table(&dns).table(&soon);
    let setup = setup.table("[tls_reports]\nsend = true");
    let setup = setup.table("[[route]]\ndomains = \"demanded.dane.test\"\nto = \"mx\"\ntls = \"dane-only\"");
    let server = Postrider::start(&setup);
    let mut waiting = Vec::new();
    for (domain, fate, told) in &FATES {
        let to = format!("b@{domain}");
        let id = server.client().send("a@back.test", &[&to], MAIL);
        let word = if matches!(fate, Delivered(_)) { "delivered" } else { "deferred" };
        let line = server.wait(&format!("{word} for {to}"), |line| line["event"] == word && line["message"] == *id);
        match fate {
            Delivered(verified) => {
                assert_eq!((line["recipient"].as_str(), line["verified"].as_str()), (Some(&*to), Some(*verified)));
                assert!(line["tls"].as_str().is_some_and(|tls| tls.starts_with("TLSv1.3 TLS_")), "{line}");
            }
            Deferred(reason) => {
                assert!(line["reply"].as_str().is_some_and(|reply| reply.contains(reason)), "{line}");
                waiting.push((to, *reason));
            }
        }
        let counted = |lines: &Vec<(String, String)>| !lines.is_empty() || told.is_none();
        let lines = wait_for("the count", || Some(server.tls_counts(domain)).filter(counted));
        let of_others = |(policy, result): &(String, String)| Some((&**policy, &**result)) != *told;
        assert!(told.is_none() || !lines.iter().any(of_others), "{domain}: {lines:?}");
    }
    assert!(server.tls_counts("forgedmx.dane.test").is_empty(), "there was no session");
    // What was deferred comes back in the end, with the reason, and never went anywhere in clear.
    while !waiting.is_empty() {
        let report = reports.next();
        let flat = report.content.replace("\r\n ", " ");
        let at = waiting.iter().position(|(to, _)| flat.contains(&format!("rfc822; {to}")));
        let (to, reason) = waiting.swap_remove(at.unwrap_or_else(|| panic!("a report about nobody: {flat}")));
        let words: Vec<&str> = reason.split([' ', ';', ':']).filter(|word| word.len() > 3).collect();
        assert!(words.iter().all(|word| flat.contains(word)), "{to}: {flat}");
    }
    let delivered = FATES.iter().filter(|(_, fate, _)| matches!(fate, Delivered(_))).count();
    assert_eq!(postfix.delivered().len(), delivered);
    // Mail of the unsigned domain may have gone over a line that was open to the same host.
    let hosts = FATES.iter().filter(|(domain, fate, _)| domain.ends_with(".dane.test") && matches!(fate, Delivered(_)));
    let secured = postfix.log().matches("TLS connection established from").count();
    assert!(secured >= hosts.count(), "{}", postfix.log());
}

/// Postfix that sends all it gets to us, by these rules.
fn sends_to(server: &Postrider, tree: &Tree, settings: &str) -> Postfix {
    let address = server.setup().address;
    let relay = format!("relayhost = [{}]:{}\nsmtp_tls_loglevel = 1\n{settings}", address.ip(), address.port());
    Postfix::start(tree, &server.setup().folder().join("postfix"), &relay)
}

#[test]
fn postfix_that_demands_tls_sends_to_us() {
    let Some(tree) = Tree::runnable() else { return };
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink));
    let postfix = sends_to(&server, &tree, "smtp_tls_security_level = encrypt");
    Client::connect(postfix.address).deliver("a@back.test", &["b@example.net"], MAIL.as_bytes());
    let mail = sink.next();
    assert!(mail.content.contains("with ESMTPS"), "{}", mail.content);
    assert!(postfix.log().contains("TLS connection established to"), "{}", postfix.log());
}

/// Where the inner test finds the file that stands in for /etc/resolv.conf.
const RESOLV_CONF: &str = "POSTRIDER_TEST_RESOLV_CONF";

/// Postfix asks the name server of /etc/resolv.conf at port 53, and for DANE goes to port 25: it gets a network and a
/// /etc/resolv.conf of its own, with all others of this test.
#[test]
fn postfix_with_dane_sends_to_us() {
    let Some(_) = Tree::runnable() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("resolv.conf");
    fs::write(&file, "").expect("a file");
    crate::harness::open_to_everybody(folder.path(), 0o755);
    crate::harness::open_to_everybody(&file, 0o644);
    let enter = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "sh", "-c", script, "sh"]).env(RESOLV_CONF, &file);
        command
    };
    let prepare = format!("ip link set lo up && mount --bind \"${RESOLV_CONF}\" /etc/resolv.conf");
    match enter(&prepare).output() {
        Ok(output) if output.status.success() => {}
        _ => return skipped("namespaces for a network and mounts are not permitted here (unshare, ip)"),
    }
    let mut inner = enter(&format!("{prepare} && exec \"$@\""));
    inner.arg(std::env::current_exe().expect("this program"));
    let name = concat!(module_path!(), "::postfix_with_dane_sends_to_us_inside");
    let name = name.split_once("::").map_or(name, |(_, name)| name);
    let output = inner.args(["--exact", name, "--ignored", "--nocapture"]).output().expect("it runs");
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    out.lines().filter(|line| line.starts_with("skipped: ")).for_each(|line| println!("{line}"));
}

#[test]
#[ignore = "the test of the same name runs it in namespaces"]
fn postfix_with_dane_sends_to_us_inside() {
    let resolv_conf = PathBuf::from(std::env::var_os(RESOLV_CONF).expect("this runs in the other test"));
    let Some(tree) = Tree::runnable() else { return };
    let (sink, host, resolver) = (Sink::start(), own_address(), SocketAddr::new(own_address(), 53));
    fs::write(resolv_conf, format!("nameserver {}\noptions trust-ad edns0\n", resolver.ip())).expect("a file");
    let domains = "domains = [\"us.dane.test\", \"other.dane.test\"]";
    let listener = format!("[[listener]]\nname = \"mx\"\naddress = \"{host}:25\"");
    let server = Postrider::start(&Setup::to(&sink).top(domains).table(&listener));
    let printed = server.command(&["dns-records", "--json"]).json();
    let tlsa = printed.iter().find(|record| record["type"] == "TLSA").expect("a TLSA record");
    let ours = tlsa["value"].as_str().expect("its text");
    let zone = format!(
        "us MX 10 mx.us\nmx.us A {host}\n_25._tcp.mx.us TLSA {ours}\n\
         other MX 10 mx.other\nmx.other A {host}\n_25._tcp.mx.other TLSA 3 1 1 {}\n",
        "00".repeat(32)
    );
    let folder = folder_in(server.setup(), "names");
    let Some(_names) = NameServers::signed_at(resolver, &folder, "", &zone, &[], Validates::Unbound) else { return };
    let settings = "smtp_tls_security_level = dane\nsmtp_dns_support_level = dnssec\nsmtp_host_lookup = dns\n\
                    smtp_tls_loglevel = 1";
    let postfix = Postfix::start(&tree, &server.setup().folder().join("postfix"), settings);
    for domain in ["us.dane.test", "other.dane.test"] {
        Client::connect(postfix.address).deliver("a@back.test", &[&format!("b@{domain}")], MAIL.as_bytes());
    }
    let mail = sink.next();
    assert_eq!(mail.to, ["b@us.dane.test"]);
    let log = wait_for("Postfix to put the other mail off", || {
        Some(postfix.log()).filter(|log| log.contains("to=<b@other.dane.test>") && log.contains("status=sent"))
    });
    let line = |with: &str| log.lines().find(|line| line.contains(with)).unwrap_or_else(|| panic!("{with}: {log}"));
    assert!(line("Verified TLS connection established").contains("mx.us.dane.test"), "{log}");
    assert!(line("to=<b@other.dane.test>").contains("status=deferred (Server certificate not"), "{log}");
    assert!(sink.is_empty(), "what Postfix cannot verify it does not send");
}
