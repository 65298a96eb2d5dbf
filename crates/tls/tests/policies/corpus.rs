//! Vectors of others for MTA-STS records and policies and for TLS-RPT records.

use std::path::Path;

use serde::Deserialize;
use tls::mtasts::{StsPolicy, StsRecord};
use tls::report::ReportRecord;

#[derive(Deserialize)]
struct Vector {
    kind: String,
    text: String,
    valid: bool,
    why: String,
}

#[test]
fn the_vectors_of_mox_are_judged_as_there() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/mtasts/mox-vectors.json");
    let Ok(text) = std::fs::read_to_string(&file) else {
        println!("skipped: ../shared/data/mtasts is not installed");
        return;
    };
    let vectors: Vec<Vector> = serde_json::from_str(&text).unwrap();
    for Vector { kind, text, valid, why } in &vectors {
        let judged = match kind.as_str() {
            "mta-sts-record" => StsRecord::find([text.as_str()]).is_ok(),
            "mta-sts-policy" => StsPolicy::parse(text.as_bytes()).is_ok(),
            "tlsrpt-record" => ReportRecord::find([text.as_str()]).is_ok(),
            other => panic!("an unknown kind: {other}"),
        };
        assert_eq!(judged, *valid, "{kind} {text:?} {why}");
    }
    assert_eq!(vectors.len(), 62);
}

#[test]
fn the_reports_of_others_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/reports/parsedmarc");
    if !folder.is_dir() {
        println!("skipped: ../shared/data/reports is not installed");
        return;
    }
    for (name, organization, domain, good, bad) in [
        ("smtp_tls-google.com_smtp_tls_report.eml", "Google Inc.", "cardinalhealth.ca", 48, 0),
        ("smtp_tls-mail.ru.json", "Mail.ru", "example.com", 0, 1),
        ("smtp_tls-rfc8460.json", "Company-X", "company-y.example", 5326, 303),
        ("smtp_tls-smtp_tls.json", "Example Inc.", "example.com", 0, 3),
    ] {
        let octets = std::fs::read(folder.join(name)).unwrap();
        let mail = if name.ends_with(".eml") {
            octets
        } else {
            [b"MIME-Version: 1.0\r\nContent-Type: application/tlsrpt+json\r\n\r\n".as_slice(), &octets].concat()
        };
        let report = tls::report::read_mail(&mail).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!((report.organization_name.as_str(), report.domains()), (organization, vec![domain]), "{name}");
        let totals = report.totals();
        assert_eq!((totals.total_successful_session_count, totals.total_failure_session_count), (good, bad), "{name}");
    }
}
