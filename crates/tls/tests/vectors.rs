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
