//! Reports of others: out of a mail, out of its compression, within bounds.

use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use flate2::read::MultiGzDecoder;
use mail_parser::{MessageParser, MessagePart, MimeHeaders};

use super::json::Report;

/// How much of a mail is looked into.
pub const MAX_MAIL: usize = 8 << 20;
/// The largest report, out of its compression.
const MAX_REPORT: u64 = 10 << 20;
/// The most parts of a mail that are looked at.
const MAX_PARTS: usize = 50;
/// The most policies of a report that are kept.
const MAX_POLICIES: usize = 200;
/// The most kinds of failures of one policy that are kept.
const MAX_DETAILS: usize = 500;
/// The most lines of a policy that are kept.
const MAX_LINES: usize = 300;
/// The longest text that is kept.
const MAX_TEXT: usize = 1000;

/// A mail that came for reports.
#[derive(Clone, Debug)]
pub(super) struct Looked {
    /// Its subject, without control characters.
    pub subject: String,
    /// What is in it.
    pub read: Read,
}

/// What was found in a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// A report, cut to its bounds.
    Report(Report),
    /// None, and why not.
    Other(String),
}

/// The report in a mail, or why there is none.
pub fn read_mail(mail: &[u8]) -> Result<Report, String> {
    match read(mail).read {
        Read::Report(report) => Ok(report),
        Read::Other(why) => Err(why),
    }
}

/// Looks for a report in a mail.
pub(super) fn read(mail: &[u8]) -> Looked {
    // The parser is not ours, and the mail is anybody's.
    catch_unwind(AssertUnwindSafe(|| look(mail))).unwrap_or_else(|_| Looked {
        subject: String::new(),
        read: Read::Other("the mail cannot be taken apart".to_owned()),
    })
}

fn look(mail: &[u8]) -> Looked {
    let Some(message) = MessageParser::default().parse(mail) else {
        return Looked { subject: String::new(), read: Read::Other("the mail cannot be taken apart".to_owned()) };
    };
    let subject = clean(message.subject().unwrap_or_default());
    let mut why = "no part of the mail is a TLS report".to_owned();
    for part in message.parts.iter().take(MAX_PARTS).filter(|part| may_be_report(part)) {
        match from_octets(part.contents()) {
            Ok(report) => return Looked { subject, read: Read::Report(report) },
            Err(error) => why = error,
        }
    }
    // It may quote all of what it is about.
    Looked { subject, read: Read::Other(clean(&why)) }
}

/// Whether a part's type or file name lets a report be expected (RFC 8460 §5.1, §6.4; some use general types).
fn may_be_report(part: &MessagePart<'_>) -> bool {
    let named = part.attachment_name().is_some_and(|name| {
        let name = name.to_ascii_lowercase();
        name.ends_with(".json") || name.ends_with(".json.gz")
    });
    let typed =
        part.content_type().and_then(|kind| Some((kind.ctype(), kind.subtype()?))).is_some_and(|(kind, sub)| {
            kind.eq_ignore_ascii_case("application")
                && ["tlsrpt+gzip", "tlsrpt+json", "json", "gzip", "x-gzip"]
                    .iter()
                    .any(|one| sub.eq_ignore_ascii_case(one))
        });
    named || typed
}

/// A report from its file, compressed or not.
pub(super) fn from_octets(file: &[u8]) -> Result<Report, String> {
    let mut text = Vec::new();
    if file.starts_with(&[0x1f, 0x8b]) {
        let decoder = MultiGzDecoder::new(file);
        decoder
            .take(MAX_REPORT + 1)
            .read_to_end(&mut text)
            .map_err(|error| format!("the compression is broken: {error}"))?;
    } else {
        text.extend_from_slice(file);
    }
    if text.len() as u64 > MAX_REPORT {
        return Err(format!("the report has more than {} MiB", MAX_REPORT >> 20));
    }
    let mut report: Report =
        serde_json::from_slice(&text).map_err(|error| format!("this is no TLS report: {error}"))?;
    if report.policies.is_empty() && report.report_id.is_empty() {
        return Err("this is no TLS report: it has no id and no policies".to_owned());
    }
    bound(&mut report);
    Ok(report)
}

/// Cuts everything that has no end of its own, and takes control characters out.
fn bound(report: &mut Report) {
    let Report { organization_name, date_range, contact_info, report_id, policies } = report;
    for text in
        [organization_name, &mut date_range.start_datetime, &mut date_range.end_datetime, contact_info, report_id]
    {
        *text = clean(text);
    }
    policies.truncate(MAX_POLICIES);
    for result in policies {
        let policy = &mut result.policy;
        policy.policy_type = clean(&policy.policy_type);
        policy.policy_domain = clean(&policy.policy_domain).to_ascii_lowercase();
        for texts in [&mut policy.policy_string, &mut policy.mx_host] {
            texts.truncate(MAX_LINES);
            texts.iter_mut().for_each(|text| *text = clean(text));
        }
        result.failure_details.truncate(MAX_DETAILS);
        for detail in &mut result.failure_details {
            detail.result_type = clean(&detail.result_type);
            for text in [
                &mut detail.sending_mta_ip,
                &mut detail.receiving_mx_hostname,
                &mut detail.receiving_mx_helo,
                &mut detail.receiving_ip,
                &mut detail.additional_information,
                &mut detail.failure_reason_code,
            ] {
                *text = text.take().map(|text| clean(&text));
            }
        }
    }
}

fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;

    use super::*;

    fn gzip(octets: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(octets).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_report_that_swells_is_refused() {
        let bomb = gzip(&vec![b' '; 11 << 20]);
        assert!(bomb.len() < 20_000);
        assert!(from_octets(&bomb).unwrap_err().contains("more than 10 MiB"));
    }

    #[test]
    fn what_is_long_is_cut_and_cleaned() {
        let name = format!("a\\u001b[31m{}", "x".repeat(5000));
        let details = vec![r#"{"result-type":"other","failed-session-count":1}"#; 600].join(",");
        let text = format!(
            r#"{{"organization-name":"{name}","report-id":"1","policies":[{{"failure-details":[{details}]}}]}}"#
        );
        let report = from_octets(&gzip(text.as_bytes())).unwrap();
        assert_eq!((report.organization_name.len(), report.policies[0].failure_details.len()), (MAX_TEXT, MAX_DETAILS));
        assert!(!report.organization_name.contains('\u{1b}'));
    }

    #[test]
    fn other_mail_is_told_apart() {
        let mail = b"From: a@example.org\r\nSubject: Hello\r\n\r\nAre you there?\r\n";
        let looked = read(mail);
        assert_eq!(looked.subject, "Hello");
        assert!(matches!(looked.read, Read::Other(_)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn arbitrary_octets_never_panic(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&octets);
            let _ = from_octets(&octets);
            let _ = from_octets(&gzip(&octets));
        }
    }
}
