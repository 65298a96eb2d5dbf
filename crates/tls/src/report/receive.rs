//! Reports of others: out of a mail, out of its compression, within bounds.

use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use flate2::read::MultiGzDecoder;
use mail_parser::{MessageParser, MessagePart, MimeHeaders};

use super::json::Report;

/// How much of a mail is looked into.
pub const MAX_MAIL: usize = 8 << 20;
/// The largest report, out of its compression; and what all that may be reports in one mail come to, if the first is none.
const MAX_REPORT: u64 = 10 << 20;
/// The most parts of a mail that are looked at.
const MAX_PARTS: usize = 50;
/// The most kinds of failures of one report that are kept.
const MAX_ALL_DETAILS: usize = 2000;
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
    let mut left = MAX_REPORT;
    for part in message.parts.iter().take(MAX_PARTS).filter(|part| may_be_report(part)) {
        match from_octets(part.contents(), &mut left) {
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

/// A report from its file, compressed or not, of at most `left` octets out of its compression.
pub(super) fn from_octets(file: &[u8], left: &mut u64) -> Result<Report, String> {
    let mut text = Vec::new();
    let read = match file.starts_with(&[0x1f, 0x8b]) {
        true => MultiGzDecoder::new(file).take(*left + 1).read_to_end(&mut text),
        false => file.take(*left + 1).read_to_end(&mut text),
    };
    let too_long = text.len() as u64 > *left;
    *left = left.saturating_sub(text.len() as u64);
    if too_long {
        return Err(format!("the report has more than {} MiB", MAX_REPORT >> 20));
    }
    read.map_err(|error| format!("the compression is broken: {error}"))?;
    let mut report: Report =
        serde_json::from_slice(&text).map_err(|error| format!("this is no TLS report: {error}"))?;
    if report.policies.is_empty() && report.report_id.is_empty() {
        return Err("this is no TLS report: it has no id and no policies".to_owned());
    }
    bound(&mut report);
    Ok(report)
}

/// A report as it was kept.
pub(super) fn from_kept(file: &[u8]) -> Option<Report> {
    from_octets(file, &mut { MAX_REPORT }).ok()
}

/// Cuts what was not cut while it was read, and takes control characters out.
fn bound(report: &mut Report) {
    let Report { organization_name, date_range, contact_info, report_id, policies } = report;
    for text in
        [organization_name, &mut date_range.start_datetime, &mut date_range.end_datetime, contact_info, report_id]
    {
        *text = clean(text);
    }
    let mut details = MAX_ALL_DETAILS;
    for result in policies {
        let policy = &mut result.policy;
        policy.policy_type = clean(&policy.policy_type);
        policy.policy_domain = clean(&policy.policy_domain).to_ascii_lowercase();
        for texts in [&mut policy.policy_string, &mut policy.mx_host] {
            texts.iter_mut().for_each(|text| *text = clean(text));
        }
        result.failure_details.truncate(details);
        details -= result.failure_details.len();
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

    use super::super::json::{MAX_DETAILS, MAX_LINES, MAX_POLICIES};
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
        assert!(from_octets(&bomb, &mut { MAX_REPORT }).unwrap_err().contains("more than 10 MiB"));
    }

    #[test]
    fn what_is_long_is_cut_and_cleaned() {
        let name = format!("a\\u001b[31m{}", "x".repeat(5000));
        let details = vec![r#"{"result-type":"other","failed-session-count":1}"#; 600].join(",");
        let text = format!(
            r#"{{"organization-name":"{name}","report-id":"1","policies":[{{"failure-details":[{details}]}}]}}"#
        );
        let report = from_kept(&gzip(text.as_bytes())).unwrap();
        assert_eq!((report.organization_name.len(), report.policies[0].failure_details.len()), (MAX_TEXT, MAX_DETAILS));
        assert!(!report.organization_name.contains('\u{1b}'));
    }

    #[test]
    fn lists_without_end_are_cut_while_they_are_read() {
        let (empty, zeros) = (vec!["{}"; 100_000].join(","), vec!["\"\""; 100_000].join(","));
        let policy = format!(r#"{{"policy":{{"policy-string":[{zeros}]}},"failure-details":[{empty}]}}"#);
        let text = format!(r#"{{"report-id":"1","policies":[{}]}}"#, vec![policy; 5].join(","));
        let report: Report = serde_json::from_str(&text).unwrap();
        let first = &report.policies[0];
        assert_eq!((first.failure_details.len(), first.policy.policy_string.len()), (MAX_DETAILS, MAX_LINES));
        let report = from_kept(&gzip(text.as_bytes())).unwrap();
        let details: usize = report.policies.iter().map(|result| result.failure_details.len()).sum();
        assert_eq!((report.policies.len(), details), (5, MAX_ALL_DETAILS));
        let text = format!(r#"{{"report-id":"1","policies":[{empty}]}}"#);
        assert_eq!(from_kept(text.as_bytes()).unwrap().policies.len(), MAX_POLICIES);
        let text = format!(r#"{{"policies":[{{"summary":{{"total-failure-session-count":[{zeros}]}}}}]}}"#);
        assert!(from_kept(text.as_bytes()).is_none());
    }

    #[test]
    fn all_parts_of_a_mail_together_have_a_bound() {
        let part = |octets: &[u8]| {
            use base64::Engine as _;
            let text = base64::engine::general_purpose::STANDARD.encode(octets);
            format!(
                "--b\r\nContent-Type: application/tlsrpt+gzip\r\nContent-Transfer-Encoding: base64\r\n\r\n{text}\r\n"
            )
        };
        let (bad, good) = (gzip(&vec![b' '; 6 << 20]), gzip(br#"{"report-id":"1"}"#));
        let mail = |parts: &[&[u8]]| {
            let parts: String = parts.iter().map(|octets| part(octets)).collect();
            format!("Subject: x\r\nContent-Type: multipart/report; boundary=b\r\n\r\n{parts}--b--\r\n")
        };
        assert!(read_mail(mail(&[&bad, &good]).as_bytes()).is_ok());
        assert!(read_mail(mail(&[&bad, &bad, &good]).as_bytes()).is_err());
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
            let _ = from_kept(&octets);
            let _ = from_kept(&gzip(&octets));
        }
    }
}
