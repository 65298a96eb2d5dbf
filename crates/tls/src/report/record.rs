//! The TXT record that says where a domain wants its reports (RFC 8460 §3).

use std::fmt;

use mail::{Mailbox, Utf8};
use url::Url;

use crate::tags::{self, Tags};

/// The most places of one record that are served.
const MAX_PLACES: usize = 10;

/// The record of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportRecord {
    /// Where reports go, in the record's order; at least one.
    pub places: Vec<ReportPlace>,
}

/// Where a report goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportPlace {
    /// By mail.
    Mail(Mailbox),
    /// By HTTPS POST.
    Https(Url),
}

impl fmt::Display for ReportPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReportPlace::Mail(mailbox) => write!(f, "mailto:{mailbox}"),
            ReportPlace::Https(url) => url.fmt(f),
        }
    }
}

/// Why a domain's TXT records name no place for reports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// None of the texts is such a record.
    #[error("there is no v=TLSRPTv1 record")]
    None,
    /// Several are (§3: then there is none).
    #[error("there are {0} v=TLSRPTv1 records instead of one")]
    Several(usize),
    /// The one there is is broken.
    #[error("the v=TLSRPTv1 record is broken: {0}")]
    Broken(&'static str),
}

impl ReportRecord {
    /// The record among all TXT records of `_smtp._tls.` and the domain, the strings of each put together.
    pub fn find<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, RecordError> {
        match tags::of_version(texts, "TLSRPTv1").as_slice() {
            [] => Err(RecordError::None),
            [text] => Self::parse(text),
            several => Err(RecordError::Several(several.len())),
        }
    }

    /// Reads one record. Places of other schemes than `mailto:` and `https:` are passed over.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let tags = Tags::parse(text, "TLSRPTv1").map_err(RecordError::Broken)?;
        let mut places = Vec::new();
        for uri in tags.all("rua").flat_map(|uris| uris.split(',')) {
            places.extend(place(uri.trim_matches([' ', '\t']))?);
        }
        places.truncate(MAX_PLACES);
        if places.is_empty() {
            return Err(RecordError::Broken("it names no mailto: or https: address"));
        }
        Ok(Self { places })
    }
}

fn place(uri: &str) -> Result<Option<ReportPlace>, RecordError> {
    const BAD: RecordError = RecordError::Broken("an address in it is no URI");
    let percents_are_codes = uri.split('%').skip(1).all(|rest| {
        let code = rest.as_bytes().get(..2);
        code.is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit))
    });
    if uri.contains([' ', '\t']) || !percents_are_codes {
        return Err(BAD);
    }
    let url = Url::parse(uri).map_err(|_| BAD)?;
    match url.scheme() {
        "mailto" => {
            let address = decoded(url.path()).ok_or(BAD)?;
            Ok(Some(ReportPlace::Mail(Mailbox::parse(&address, Utf8::Refused).map_err(|_| BAD)?)))
        }
        "https" => Ok(Some(ReportPlace::Https(url))),
        _ => Ok(None),
    }
}

/// Percent codes undone (RFC 3986 §2.1); they are known to be whole.
fn decoded(text: &str) -> Option<String> {
    let mut pieces = text.split('%');
    let mut octets = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        octets.push(u8::from_str_radix(piece.get(..2)?, 16).ok()?);
        octets.extend_from_slice(piece.get(2..)?.as_bytes());
    }
    String::from_utf8(octets).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mail_and_https_are_served_and_others_passed_over() {
        let record = ReportRecord::parse(
            "v=TLSRPTv1; rua=mailto:tls%2breports@example.com, ftp://a.example/x,https://example.com/v1/tlsrpt",
        );
        let places: Vec<_> = record.unwrap().places.iter().map(ToString::to_string).collect();
        assert_eq!(places, ["mailto:tls+reports@example.com", "https://example.com/v1/tlsrpt"]);
        assert!(matches!(ReportRecord::parse("v=TLSRPTv1;rua=http://a.example/"), Err(RecordError::Broken(_))));
    }

    #[test]
    fn exactly_one_record_counts() {
        let good = "v=TLSRPTv1;rua=mailto:a@example.org";
        assert!(ReportRecord::find(["v=spf1 -all", good]).is_ok());
        assert_eq!(ReportRecord::find([good, good]), Err(RecordError::Several(2)));
        assert_eq!(ReportRecord::find([]), Err(RecordError::None));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in any::<String>(), rest in "[ -~]{0,60}") {
            let _ = ReportRecord::parse(&text);
            let _ = ReportRecord::parse(&format!("v=TLSRPTv1; rua={rest}"));
        }
    }
}
