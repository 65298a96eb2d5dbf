//! The TXT record that says that there is a policy, and which (RFC 8461 §3.1).

use crate::tags::{self, Tags};

/// The record of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsRecord {
    /// Changes whenever the policy does: 1 to 32 letters and digits.
    pub id: String,
}

/// Why a domain's TXT records announce no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// None of the texts is such a record.
    #[error("there is no v=STSv1 record")]
    None,
    /// Several are.
    #[error("there are {0} v=STSv1 records instead of one")]
    Several(usize),
    /// The one there is is broken.
    #[error("the v=STSv1 record is broken: {0}")]
    Broken(&'static str),
}

impl StsRecord {
    /// The record among all TXT records of `_mta-sts.` and the domain, the strings of each put together.
    ///
    /// Texts of other versions are passed over; if not exactly one is left, there is no policy.
    pub fn find<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, RecordError> {
        match tags::of_version(texts, "STSv1").as_slice() {
            [] => Err(RecordError::None),
            [text] => Self::parse(text),
            several => Err(RecordError::Several(several.len())),
        }
    }

    /// Reads one record.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let tags = Tags::parse(text, "STSv1").map_err(RecordError::Broken)?;
        let id = tags.first("id").ok_or(RecordError::Broken("it has no id"))?;
        let proper = (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
        if !proper {
            return Err(RecordError::Broken("its id is not 1 to 32 letters and digits"));
        }
        Ok(Self { id: id.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_record_counts() {
        let (good, other) = ("v=STSv1; id=1", "v=spf1 -all");
        assert_eq!(StsRecord::find([other, good]).unwrap().id, "1");
        assert_eq!(StsRecord::find([good, "v=STSv1; id=2"]), Err(RecordError::Several(2)));
        assert_eq!(StsRecord::find([other, "v=STSv2; id=2"]), Err(RecordError::None));
        assert!(matches!(StsRecord::find(["v=STSv1; id=-"]), Err(RecordError::Broken(_))));
    }

    #[test]
    fn the_version_comes_first() {
        assert!(StsRecord::parse("id=1; v=STSv1").is_err());
    }
}
