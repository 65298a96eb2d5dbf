//! A report as mail (RFC 8460 §5.3).

use std::fmt::Write as _;
use std::io::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use mail::{Domain, Mailbox, Timestamp};

use super::day::Day;
use super::json::{DateRange, PolicyResult, Report};

/// The media type of a compressed report (RFC 8460 §6.4).
pub(super) const MEDIA_TYPE: &str = "application/tlsrpt+gzip";
/// Characters of a line of base64 (RFC 2045 §6.8).
const LINE: usize = 76;

/// As whom reports are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitter {
    /// The sending server.
    pub host: Domain,
    /// The organisation that runs it.
    pub organization: String,
    /// Whom to ask about reports.
    pub contact: String,
    /// Where report mails come from.
    pub from: Mailbox,
}

/// A message that carries a report: from us, to be queued. Whoever signs mail signs it as a whole.
#[derive(Clone, Debug)]
pub struct ReportMail {
    /// The reverse-path, and the author.
    pub from: Mailbox,
    /// Whom it is for.
    pub to: Mailbox,
    /// Header and body.
    pub content: Bytes,
}

/// A report that is ready to go, in both its forms.
#[derive(Clone, Debug)]
pub(super) struct Composed<'a> {
    submitter: &'a Submitter,
    domain: &'a Domain,
    day: Day,
    id: &'a str,
    report: Report,
    gzip: Vec<u8>,
}

impl<'a> Composed<'a> {
    pub fn new(
        submitter: &'a Submitter,
        domain: &'a Domain,
        day: Day,
        id: &'a str,
        policies: Vec<PolicyResult>,
    ) -> std::io::Result<Self> {
        let last = Timestamp::from_millis(day.end().as_millis() - 1000);
        let report = Report {
            organization_name: submitter.organization.clone(),
            date_range: DateRange { start_datetime: rfc3339(day.start()), end_datetime: rfc3339(last) },
            contact_info: submitter.contact.clone(),
            report_id: id.to_owned(),
            policies,
        };
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&serde_json::to_vec(&report)?)?;
        Ok(Self { submitter, domain, day, id, report, gzip: encoder.finish()? })
    }

    pub fn report(&self) -> &Report {
        &self.report
    }

    pub fn gzip(&self) -> &[u8] {
        &self.gzip
    }

    /// The mail to one address. `TLS-Required: No` lets it arrive where TLS is what is broken (RFC 8460 §3, RFC 8689 §3).
    pub fn mail(&self, to: &Mailbox, now: Timestamp) -> ReportMail {
        let Self { submitter: Submitter { host, from, .. }, domain, id, .. } = self;
        // The id has 80 random bits: no part can hold it.
        let boundary = format!("=_{}", self.unique());
        let mut text = String::new();
        let mut field = |name: &str, value: &dyn std::fmt::Display| {
            // Writing to a text does not fail.
            let _ = write!(text, "{name}: {value}\r\n");
        };
        field("From", &format_args!("<{from}>"));
        field("To", &format_args!("<{to}>"));
        field("Date", &now.rfc5322());
        field("Subject", &format_args!("Report Domain: {domain}\r\n Submitter: {host}\r\n Report-ID: <{id}>"));
        field("Message-ID", &format_args!("<{id}>"));
        field("TLS-Report-Domain", domain);
        field("TLS-Report-Submitter", host);
        field("TLS-Required", &"No");
        field("Auto-Submitted", &"auto-generated");
        field("MIME-Version", &"1.0");
        field("Content-Type", &format_args!("multipart/report; report-type=\"tlsrpt\";\r\n boundary=\"{boundary}\""));
        let _ = write!(
            text,
            "\r\nThis is a message in several parts.\r\n\r\n--{boundary}\r\n\
             Content-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n\r\n{}\r\n\
             --{boundary}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Transfer-Encoding: base64\r\n\
             Content-Disposition: attachment;\r\n filename=\"{}\"\r\n\r\n{}--{boundary}--\r\n",
            self.words(),
            self.file_name(),
            lines(&STANDARD.encode(&self.gzip)),
        );
        ReportMail { from: from.clone(), to: to.clone(), content: text.into() }
    }

    /// For people.
    fn words(&self) -> String {
        let totals = self.report.totals();
        format!(
            "This is a report about TLS from {}.\r\n\r\n\
             It tells how well this server could reach the mail hosts of\r\n{}\r\nover TLS on {} (UTC).\r\n\r\n\
             sessions as the policy asks: {}\r\nsessions that failed: {}\r\n",
            self.submitter.host,
            self.domain,
            self.day,
            totals.total_successful_session_count,
            totals.total_failure_session_count,
        )
    }

    /// What stands before the id's `@`.
    fn unique(&self) -> &str {
        self.id.split('@').next().unwrap_or_default()
    }

    /// RFC 8460 §5.1.
    fn file_name(&self) -> String {
        let unique = self.unique();
        let (begin, end) = (self.day.start().as_secs(), self.day.end().as_secs() - 1);
        format!("{}!{}!{begin}!{end}!{unique}.json.gz", self.submitter.host, self.domain)
    }
}

/// As `2026-11-21T00:00:00Z`.
fn rfc3339(moment: Timestamp) -> String {
    moment.to_string().replace(".000Z", "Z")
}

fn lines(base64: &str) -> String {
    let mut text = String::with_capacity(base64.len() + base64.len() / LINE * 2 + 2);
    let mut rest = base64;
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push_str("\r\n");
        rest = more;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::receive::{self, Read};
    use super::*;

    #[test]
    fn a_mail_says_what_the_rfc_wants_and_is_read_again() {
        let domain = Domain::parse(&format!("{}.example.org", "long-label-".repeat(5) + "x")).unwrap();
        let submitter = Submitter {
            host: Domain::parse("mail.us.example").unwrap(),
            organization: "Us & Söhne".to_owned(),
            contact: "mailto:postmaster@us.example".to_owned(),
            from: "tls-reports@us.example".parse().unwrap(),
        };
        let day: Day = "2026-11-20".parse().unwrap();
        let id = "2026-11-20.0123456789abcdef0123@mail.us.example";
        let composed = Composed::new(&submitter, &domain, day, id, vec![PolicyResult::default()]).unwrap();
        let mail = composed.mail(&"reports@example.org".parse().unwrap(), day.end());
        let text = String::from_utf8(mail.content.to_vec()).unwrap();
        assert!(text.is_ascii() && text.split("\r\n").all(|line| line.len() <= 998 && !line.contains(['\r', '\n'])));
        for field in [
            &format!("\r\nTLS-Report-Domain: {domain}\r\n"),
            "\r\nTLS-Report-Submitter: mail.us.example\r\n",
            "\r\nTLS-Required: No\r\n",
            "multipart/report; report-type=\"tlsrpt\"",
            &format!("\r\nSubject: Report Domain: {domain}\r\n Submitter: mail.us.example\r\n Report-ID: <{id}>\r\n"),
            &format!(
                "filename=\"mail.us.example!{domain}!1795132800!1795219199!2026-11-20.0123456789abcdef0123.json.gz\""
            ),
        ] {
            assert!(text.contains(field), "{field} in {text}");
        }
        match receive::read(&mail.content).read {
            Read::Report(read) => assert_eq!(read, *composed.report()),
            Read::Other(why) => panic!("{why}"),
        }
        assert_eq!(composed.report().date_range.start_datetime, "2026-11-20T00:00:00Z");
        assert_eq!(composed.report().date_range.end_datetime, "2026-11-20T23:59:59Z");
    }
}
