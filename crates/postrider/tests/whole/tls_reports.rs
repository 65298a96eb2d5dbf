//! TLS reports: those of others come in and are found again, ours go out.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dns::testing::DnsServer;
use futures_util::future::BoxFuture;
use mail::{Clock, Domain, Randomness, SystemClock, Timestamp};
use mail_parser::{MessageParser, MimeHeaders};
use store::Tables;
use tls::report::{
    Failure, FailureType, PolicyApplied, Post, Report, ReportMail, Sender, SenderParts, SessionReports, Tally,
    TlsSession,
};

use crate::harness::{Postrider, Setup, Sink, is_root, skipped, wait_for};

const REPORT: &str = r#"{"organization-name":"Them","date-range":{"start-datetime":"2026-11-20T00:00:00Z",
"end-datetime":"2026-11-20T23:59:59Z"},"contact-info":"them@them.test","report-id":"1","policies":[{"policy":{
"policy-type":"sts","policy-string":["version: STSv1"],"policy-domain":"us.test"},"summary":{
"total-successful-session-count":7,"total-failure-session-count":2},"failure-details":[{
"result-type":"certificate-expired","receiving-mx-hostname":"mx.us.test","failed-session-count":2}]}]}"#;

#[test]
fn reports_of_others_are_kept_and_found() {
    let sink = Sink::start();
    let setup = Setup::to(&sink).top("domains = [\"us.test\"]").table("[tls_reports]\naddress = \"tls@us.test\"");
    let server = Postrider::start(&setup);
    let mail = format!(
        "From: them@them.test\r\nSubject: Report Domain: us.test\r\nMIME-Version: 1.0\r\nContent-Type: \
         application/tlsrpt+json\r\n\r\n{}\r\n",
        REPORT.replace('\n', "\r\n")
    );
    server.client().send("them@them.test", &["TLS@us.test", "a@us.test"], &mail);
    server.client().send("shop@them.test", &["tls@us.test"], "Subject: Offer\r\n\r\nBuy!\r\n");
    let others = [sink.next(), sink.next()];
    assert!(others.iter().any(|mail| mail.to == ["a@us.test"]), "other mail of the domain goes its way");
    let back = others.iter().find(|mail| mail.to == ["shop@them.test"]).expect("what is no report goes back");
    assert!(back.content.contains("Status: 5.7.1\r\n"), "{}", back.content);
    let kept = wait_for("two mails to be kept", || {
        let kept = server.command(&["tlsrpt", "list", "--json"]).json();
        (kept.len() == 2).then_some(kept)
    });
    let of_them = kept.iter().find(|one| one["sender"] == "them@them.test").expect("the report");
    assert_eq!(of_them["report"]["organization-name"], "Them");
    let other = kept.iter().find(|one| one["sender"] == "shop@them.test").expect("the other mail");
    assert_eq!((&other["report"], &other["subject"]), (&serde_json::Value::Null, &"Offer".into()));

    let summary = server.command(&["tlsrpt", "summary", "--domain", "us.test", "--since", "1h", "--json"]).json();
    assert_eq!((&summary[0]["successful"], &summary[0]["failed"]), (&7.into(), &2.into()));
    let id = of_them["id"].as_str().expect("an id");
    let shown = server.command(&["tlsrpt", "show", id]).good();
    assert!(shown.contains("2 × certificate-expired, at mx.us.test"), "{shown}");
    assert!(server.command(&["tlsrpt", "list", "--domain", "other.test"]).good().contains("nothing"));
    wait_for("an empty queue", || server.command(&["queue", "list", "--json"]).json().is_empty().then_some(()));
    server.stop();

    let server = Postrider::start(&setup);
    assert_eq!(server.command(&["tlsrpt", "list", "--json"]).json().len(), 2, "they outlive a restart");
    server.stop();
    assert!(sink.is_empty());
}

#[test]
fn our_reports_go_out_and_others_can_read_them() {
    let (sink, dns) = (Sink::start(), DnsServer::start());
    dns.text("_smtp._tls.them.test", "v=TLSRPTv1; rua=mailto:reports@them.test");
    let setup = Setup::to(&sink)
        .table(&format!("[tls_reports]\nsend = true\norganization = \"Us\"\n[dns]\nservers = [\"{}\"]", dns.address()));
    count_the_day_before_yesterday(&setup);
    let server = Postrider::start(&setup);
    let mail = sink.next();
    assert_eq!(
        (mail.from.as_str(), mail.to.as_slice()),
        ("tls-reports@mx.test", ["reports@them.test".to_owned()].as_slice())
    );
    assert_eq!(mail.header("TLS-Required"), Some("No"));
    assert_eq!(mail.header("TLS-Report-Domain"), Some("them.test"));
    assert_eq!(mail.header("TLS-Report-Submitter"), Some("mx.test"));
    let report = read(&mail.raw);
    assert_eq!(report.organization_name, "Us");
    assert_eq!(report.policies[0].policy.policy_type, "no-policy-found");
    assert_eq!(report.totals().total_failure_session_count, 1);
    assert_eq!(report.policies[0].failure_details[0].result_type, "starttls-not-supported");

    let sent = wait_for("the report to be finished", || {
        let sent = server.command(&["tlsrpt", "sent", "--json"]).json();
        sent.first().filter(|sent| sent["finished"] == true).cloned()
    });
    assert_eq!(sent["places"][0]["sent"], true);
    assert!(server.command(&["tlsrpt", "counts", "--json"]).json().is_empty());
    server.stop();
    assert!(sink.is_empty(), "once");
    parsedmarc_reads(&mail.raw);
}

/// The report as a reader of mail finds it.
fn read(mail: &[u8]) -> Report {
    let message = MessageParser::default().parse(mail).expect("a message");
    let kind = message.content_type().expect("a type");
    assert_eq!(
        (kind.ctype(), kind.subtype(), kind.attribute("report-type")),
        ("multipart", Some("report"), Some("tlsrpt"))
    );
    let part = message.attachment(0).expect("an attachment");
    let name = part.attachment_name().expect("a name");
    assert!(name.starts_with("mx.test!them.test!") && name.ends_with(".json.gz"), "{name}");
    let mut text = String::new();
    flate2::read::GzDecoder::new(part.contents()).read_to_string(&mut text).expect("gzip");
    serde_json::from_str(&text).expect("a report")
}

/// A reader that nobody here wrote, from PyPI.
fn parsedmarc_reads(mail: &[u8]) {
    const SCRIPT: &str = "import sys, json, parsedmarc\n\
        parsed = parsedmarc.parse_report_email(sys.stdin.buffer.read(), offline=True)\n\
        assert parsed['report_type'] == 'smtp_tls', parsed['report_type']\n\
        report = parsed['report']\n\
        assert report['organization_name'] == 'Us', report\n\
        policy = report['policies'][0]\n\
        assert policy['policy_domain'] == 'them.test' and policy['failed_session_count'] == 1, policy\n\
        assert policy['failure_details'][0]['result_type'] == 'starttls-not-supported', policy\n";
    let Some(python) = std::env::var_os("POSTRIDER_TEST_PARSEDMARC") else {
        return skipped("parsedmarc is not installed (POSTRIDER_TEST_PARSEDMARC names the Python that has it)");
    };
    let mut reader = Command::new(python);
    let mut reader = reader.args(["-c", SCRIPT]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("Python");
    std::io::Write::write_all(&mut reader.stdin.take().expect("a pipe"), mail).expect("it reads");
    let output = reader.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Fills the tables as a server does that counted a session two days ago and began the next day.
fn count_the_day_before_yesterday(setup: &Setup) {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let folder = setup.folder().join("queue");
    std::fs::create_dir_all(&folder).expect("a folder");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tables = Tables::open(&folder).expect("tables");
        let at =
            |clock: Arc<Still>| Tally::new(tables.clone(), clock as Arc<dyn Clock>, tls::report::Metrics::default());
        let tally = at(Arc::new(Still(SystemClock.now() - DAY * 2)));
        tally.session(TlsSession {
            domain: Domain::parse("them.test").expect("a name"),
            policy: PolicyApplied::NoPolicyFound,
            mx_host: Some(Domain::parse("mx.them.test").expect("a name")),
            receiving_ip: Some([192, 0, 2, 1].into()),
            sending_ip: None,
            failure: Some(Failure::new(FailureType::StarttlsNotSupported, "")),
        });
        tally.flush().await;
        let resolver: Arc<dyn dns::Resolve> = Arc::new(dns::testing::Fixed::default());
        let sender = Sender::new(SenderParts {
            tally: at(Arc::new(Still(SystemClock.now() - DAY))),
            resolver: Arc::clone(&resolver),
            https: tls::Https::new(resolver, tls::roots(None).expect("roots"), None).expect("a client"),
            post: Arc::new(Nobody),
            tables: tables.clone(),
            submitter: tls::report::Submitter {
                host: Domain::parse("mx.test").expect("a name"),
                organization: String::new(),
                contact: String::new(),
                from: "a@mx.test".parse().expect("an address"),
            },
            randomness: Randomness::seeded(1),
            metrics: tls::report::Metrics::default(),
        });
        sender.tick().await.expect("orders are made");
        tables.close().await;
    });
    if is_root() {
        // The server does not stay root.
        let owned = Command::new("chown").arg("-R").arg("nobody").arg(&folder).status().expect("chown");
        assert!(owned.success());
    }
}

/// Takes no mail.
struct Nobody;

impl Post for Nobody {
    fn post(&self, _: ReportMail) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(std::future::ready(Err("nobody".to_owned())))
    }
}

/// A clock that stands.
#[derive(Debug)]
struct Still(Timestamp);

impl Clock for Still {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}
