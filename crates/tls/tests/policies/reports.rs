//! Counting, sending and receiving reports.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use mail::{Clock, Domain, MessageIds, Randomness};
use tls::mtasts::{Mode, MxPattern, StsPolicy};
use tls::report::{
    Archive, Failure, FailureType, Metrics, PolicyApplied, Post, Report, ReportMail, Sender, SenderParts,
    SessionReports, Submitter, Tally, TlsSession, Wanted,
};

use crate::house::{DAY, HOUR, House, MINUTE, Moved};
use crate::web::{Certificate, respond};

struct Office {
    house: House,
    tally: Tally,
    posted: Arc<Posted>,
}

/// A post office that keeps what it is given, unless it is closed.
#[derive(Default)]
struct Posted {
    mails: Mutex<Vec<ReportMail>>,
    closed: Mutex<bool>,
}

impl Post for Posted {
    fn post(&self, mail: ReportMail) -> BoxFuture<'_, Result<(), String>> {
        let result = if *self.closed.lock().unwrap() {
            Err("closed".to_owned())
        } else {
            self.mails.lock().unwrap().push(mail);
            Ok(())
        };
        Box::pin(std::future::ready(result))
    }
}

impl Office {
    async fn new() -> Self {
        let house = House::new().await;
        let tally = Tally::new(house.tables.clone(), Arc::clone(&house.clock) as Arc<dyn Clock>, Metrics::default());
        Self { house, tally, posted: Arc::default() }
    }

    fn sender(&self) -> Sender {
        Sender::new(SenderParts {
            tally: self.tally.clone(),
            resolver: Arc::new(self.house.dns.clone()),
            https: self.house.https.clone(),
            post: Arc::clone(&self.posted) as Arc<dyn Post>,
            tables: self.house.tables.clone(),
            submitter: Submitter {
                host: domain("mail.us.example"),
                organization: "Us".to_owned(),
                contact: "mailto:postmaster@us.example".to_owned(),
                from: "tls-reports@us.example".parse().unwrap(),
            },
            randomness: Randomness::seeded(1),
            metrics: Metrics::default(),
        })
    }

    fn count(&self, of: &str, policy: PolicyApplied, failure: Option<Failure>) {
        self.tally.session(TlsSession {
            domain: domain(of),
            policy,
            mx_host: Some(domain("mx.example.net")),
            receiving_ip: Some("192.0.2.1".parse().unwrap()),
            sending_ip: Some("198.51.100.1".parse().unwrap()),
            failure,
        });
    }

    /// Lets time go by minute by minute, as the sender does in service.
    async fn live(&self, sender: &Sender, minutes: u32) {
        for _ in 0..minutes {
            self.house.clock.advance(MINUTE);
            sender.tick().await.unwrap();
        }
    }

    fn mails(&self) -> Vec<ReportMail> {
        self.posted.mails.lock().unwrap().clone()
    }
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

fn sts() -> PolicyApplied {
    let mx = vec![MxPattern::parse("*.example.net").unwrap()];
    PolicyApplied::Sts(Some(Arc::new(StsPolicy::new(Mode::Testing, DAY, mx))))
}

fn untrusted() -> Option<Failure> {
    Some(Failure::new(FailureType::CertificateNotTrusted, "self-signed"))
}

fn gunzip(octets: &[u8]) -> Report {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(octets), &mut text).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn a_day_is_counted_and_reported_once_by_mail_and_https() {
    let office = Office::new().await;
    office.house.dns.text("_smtp._tls.a.example", "v=TLSRPTv1; rua=mailto:tls@a.example,https://collect.a.example/in");
    office.house.dns.host("collect.a.example", "127.0.0.1");
    office.house.web.host("collect.a.example", Certificate::Good, respond("201 Created", "", ""));
    for _ in 0..5 {
        office.count("a.example", sts(), None);
    }
    office.tally.flush().await;
    office.count("a.example", sts(), untrusted());
    office.count("a.example", sts(), untrusted());
    office.count("a.example", PolicyApplied::NoPolicyFound, None);
    office.count("nobody-asks.example", PolicyApplied::NoPolicyFound, None);
    let sender = office.sender();
    sender.tick().await.unwrap();
    office.live(&sender, 12 * 60).await;
    assert!(office.mails().is_empty(), "the day is not over for long enough");

    office.live(&sender, 5 * 60).await;
    let mails = office.mails();
    let [mail] = mails.as_slice() else { panic!("{} mails", mails.len()) };
    assert_eq!(
        (mail.from.to_string().as_str(), mail.to.to_string().as_str()),
        ("tls-reports@us.example", "tls@a.example")
    );
    let posts: Vec<_> =
        office.house.web.requests().into_iter().filter(|request| request.host == "collect.a.example").collect();
    assert_eq!(posts.len(), 1);
    assert_eq!(
        (posts[0].line.as_str(), posts[0].content_type.as_str()),
        ("POST /in HTTP/1.1", "application/tlsrpt+gzip")
    );
    let report = gunzip(&posts[0].body);
    assert_eq!(report.date_range.start_datetime, "2026-11-21T00:00:00Z");
    assert_eq!((report.totals().total_successful_session_count, report.totals().total_failure_session_count), (6, 2));
    let of_sts = report.policies.iter().find(|result| result.policy.policy_type == "sts").unwrap();
    assert_eq!(of_sts.policy.policy_string[1], "mode: testing");
    assert_eq!(of_sts.policy.mx_host, ["*.example.net"]);
    let [detail] = of_sts.failure_details.as_slice() else { panic!("{of_sts:?}") };
    assert_eq!((detail.result_type.as_str(), detail.failed_session_count), ("certificate-not-trusted", 2));
    assert_eq!(detail.receiving_mx_hostname.as_deref(), Some("mx.example.net"));

    office.live(&sender, 24 * 60).await;
    assert_eq!(office.mails().len(), 1, "once");
    let sent = sender.reports(None, 10).await.unwrap();
    assert_eq!(sent.len(), 1, "nobody asked for the other");
    assert!(sent[0].finished && sent[0].places.iter().all(|place| place.sent));
    assert!(office.tally.counted(None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_place_that_fails_is_tried_for_a_day_and_others_are_not_repeated() {
    let office = Office::new().await;
    office.house.dns.text("_smtp._tls.a.example", "v=TLSRPTv1; rua=https://collect.a.example/in,mailto:tls@a.example");
    office.house.dns.host("collect.a.example", "127.0.0.1");
    office.house.web.host("collect.a.example", Certificate::Good, respond("503 Later", "", ""));
    office.count("a.example", sts(), untrusted());
    office.tally.flush().await;
    let sender = office.sender();
    office.live(&sender, 17 * 60).await;
    assert_eq!(office.mails().len(), 1);
    let early = office.house.web.asked("collect.a.example");
    assert!(early >= 1);
    let waiting = &sender.reports(None, 10).await.unwrap()[0];
    assert_eq!((waiting.finished, waiting.places[0].trouble.as_deref()), (false, Some("status 503")));

    office.live(&sender, 26 * 60).await;
    let tries = office.house.web.asked("collect.a.example");
    assert!((4..=12).contains(&tries), "{tries}");
    assert_eq!(office.mails().len(), 1);
    let given_up = &sender.reports(None, 10).await.unwrap()[0];
    assert!(given_up.finished && !given_up.places[0].sent && given_up.places[1].sent);
    office.live(&sender, 26 * 60).await;
    assert_eq!(office.house.web.asked("collect.a.example"), tries);
}

#[tokio::test]
async fn a_restart_forgets_no_report_and_keeps_its_id() {
    let office = Office::new().await;
    office.house.dns.text("_smtp._tls.a.example", "v=TLSRPTv1; rua=mailto:tls@a.example");
    office.count("a.example", sts(), None);
    office.tally.flush().await;
    *office.posted.closed.lock().unwrap() = true;
    let before = office.sender();
    office.live(&before, 17 * 60).await;
    let id = before.reports(None, 10).await.unwrap()[0].report_id.clone();
    drop(before);

    *office.posted.closed.lock().unwrap() = false;
    let after = office.sender();
    office.live(&after, 5 * 60).await;
    let mails = office.mails();
    assert_eq!(mails.len(), 1);
    assert!(String::from_utf8_lossy(&mails[0].content).contains(&format!("Message-ID: <{id}>\r\n")));
}

#[tokio::test]
async fn a_domain_that_cannot_be_looked_up_is_asked_again() {
    let office = Office::new().await;
    office.house.dns.temporary("_smtp._tls.a.example");
    office.count("a.example", sts(), None);
    office.tally.flush().await;
    let sender = office.sender();
    office.live(&sender, 17 * 60).await;
    assert!(office.mails().is_empty());
    office
        .house
        .dns
        .forget("_smtp._tls.a.example")
        .text("_smtp._tls.a.example", "v=TLSRPTv1; rua=mailto:tls@a.example");
    office.live(&sender, 5 * 60).await;
    assert_eq!(office.mails().len(), 1);
}

#[tokio::test]
async fn hosts_without_end_do_not_make_counts_without_end() {
    let office = Office::new().await;
    for number in 0..2000 {
        let failure = Failure::new(FailureType::ValidationFailure, format!("reason {number} {}", "x".repeat(300)));
        office.count("a.example", sts(), Some(failure));
        if number % 50 == 0 {
            office.tally.flush().await;
        }
    }
    let counted = office.tally.counted(Some(&domain("a.example")), 10).await.unwrap();
    let result = &counted[0].results[0];
    assert_eq!(result.summary.total_failure_session_count, 2000);
    assert!(result.failure_details.len() <= 51);
    assert_eq!(result.failure_details.iter().map(|detail| detail.failed_session_count).sum::<u64>(), 2000);
}

#[tokio::test]
async fn received_reports_are_kept_found_and_summed_up() {
    let clock = Arc::new(Moved::default());
    let archive = Archive::new(store::Tables::in_memory(), Arc::clone(&clock) as Arc<dyn Clock>, Metrics::default());
    let ids = MessageIds::new(Randomness::seeded(1));
    let report = |org: &str, of: &str, good: u64, bad: u64| {
        format!(
            "From: x@y.example\r\nSubject: Report Domain: {of}\r\nMIME-Version: 1.0\r\nContent-Type: application/tlsrpt+json\r\n\r\n\
             {{\"organization-name\":\"{org}\",\"report-id\":\"1\",\"policies\":[{{\"policy\":{{\"policy-type\":\"sts\",\
             \"policy-domain\":\"{of}\"}},\"summary\":{{\"total-successful-session-count\":{good},\
             \"total-failure-session-count\":{bad}}},\"failure-details\":[{{\"result-type\":\"certificate-expired\",\
             \"failed-session-count\":{bad}}}]}}]}}\r\n"
        )
    };
    let mails =
        [report("One", "us.example", 10, 1), report("Two", "us.example", 20, 2), report("One", "them.example", 5, 0)];
    for mail in mails.iter().map(String::as_str).chain(["Subject: Offer\r\n\r\nBuy!\r\n"]) {
        clock.advance(HOUR);
        let id = ids.next(clock.now());
        for _ in 0..2 {
            archive.receive(id, "x@y.example".to_owned(), mail.to_owned().into(), 30 * DAY).await.unwrap();
        }
    }
    let all = archive.list(&Wanted::default(), None, 10).await.unwrap();
    assert_eq!(all.len(), 4, "each once");
    assert!(all[3].report.is_none() && all[3].trouble.is_some() && all[3].subject == "Offer");
    let ours = Wanted { domain: Some(domain("us.example")), since: Some(all[1].received_at) };
    let found = archive.list(&ours, None, 10).await.unwrap();
    assert_eq!(found, all[1..2]);
    assert_eq!(archive.show(all[0].id).await.unwrap().as_ref(), Some(&all[0]));

    let summary = archive.summary(&Wanted { domain: Some(domain("us.example")), since: None }).await.unwrap();
    assert_eq!(summary.len(), 1);
    assert_eq!((summary[0].reports, summary[0].successful, summary[0].failed), (2, 30, 3));
    assert_eq!(summary[0].failures["certificate-expired"], 3);
    clock.advance(31 * DAY);
    assert!(archive.list(&Wanted::default(), None, 10).await.unwrap().is_empty());
}
