//! User names and passwords, prepared so that all ways to type one give the same characters.

use stringprep::saslprep;

/// The longest user name, in octets.
pub const MAX_NAME: usize = 320;

/// Why a text cannot be a user name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or nothing that can be seen.
    #[error("a user name must not be empty")]
    Empty,
    /// More than `MAX_NAME` octets.
    #[error("a user name has at most {MAX_NAME} octets")]
    TooLong,
    /// Characters that RFC 4013 prohibits.
    #[error("a user name cannot hold this: {0}")]
    Prohibited(String),
}

/// The one form of a user name: prepared by SASLprep (RFC 4013, as RFC 4616, 5802 and 7677 ask), then in lower case as
/// RFC 8265 §3.3 (`UsernameCaseMapped`) has it.
pub fn normalise(name: &str) -> Result<String, NameError> {
    if name.len() > MAX_NAME {
        return Err(NameError::TooLong);
    }
    let prepare = |text: &str| match saslprep(text) {
        Ok(prepared) => Ok(prepared.trim().to_owned()),
        Err(error) => Err(NameError::Prohibited(error.to_string())),
    };
    // Lower case may undo a composition, and some letters have theirs since a later Unicode than RFC 4013 knows.
    let folded = prepare(&prepare(name)?.to_lowercase())?;
    match folded.len() {
        0 => Err(NameError::Empty),
        1..=MAX_NAME => Ok(folded),
        _ => Err(NameError::TooLong),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_a_name_meet() {
        for (typed, one) in [
            ("Joe@Example.ORG", "joe@example.org"),
            ("I\u{00AD}X", "ix"),
            ("\u{2168}", "ix"),
            ("J\u{F6}RG", "j\u{F6}rg"),
            ("JO\u{308}RG", "j\u{F6}rg"),
            (" joe ", "joe"),
        ] {
            assert_eq!(normalise(typed).as_deref(), Ok(one), "{typed:?}");
        }
    }

    #[test]
    fn what_nobody_can_type_is_no_name() {
        assert_eq!(normalise(""), Err(NameError::Empty));
        assert_eq!(normalise(" \u{00AD}"), Err(NameError::Empty));
        assert_eq!(normalise(&"a".repeat(321)), Err(NameError::TooLong));
        for bad in ["\u{13A0}", "a\0b", "a\r\nb", "\u{7}", "\u{627}1", "\u{E000}"] {
            assert!(matches!(normalise(bad), Err(NameError::Prohibited(_))), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn the_one_form_is_its_own(text in any::<String>()) {
            if let Ok(name) = normalise(&text) {
                prop_assert!(!name.chars().any(char::is_control));
                prop_assert!(normalise(&name).is_ok());
            }
        }
    }
}
