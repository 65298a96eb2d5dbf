//! How SASL travels over SMTP (RFC 4954 §4): mechanisms by name, messages as lines of base64.

use std::fmt;
use std::ops::Deref;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

/// The longest line of an exchange, its line end included (RFC 4954 §4).
pub const MAX_LINE: usize = 12_288;
/// The longest name of a mechanism (RFC 4422 §3.1).
const MAX_MECHANISM: usize = 20;

/// What a client or server proves itself with. It is wiped when it is dropped, and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Deref for Secret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Secret {
    fn from(octets: Vec<u8>) -> Self {
        Self(Zeroizing::new(octets))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} octets)", self.0.len())
    }
}

/// What is wrong with the argument of AUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No mechanism, or more than an initial response behind it.
    #[error("AUTH takes a mechanism and perhaps an initial response")]
    Syntax,
    /// A message that is no base64.
    #[error("not base64")]
    Base64,
}

/// The argument of AUTH: the mechanism in upper case, and the initial response; `=` is one of no octets.
pub fn auth(argument: &str) -> Result<(String, Option<Secret>), AuthError> {
    let (mechanism, initial) = match argument.split_once(' ') {
        Some((mechanism, initial)) => (mechanism, Some(initial.trim_start_matches(' '))),
        None => (argument, None),
    };
    if !is_mechanism(mechanism) || initial.is_some_and(|initial| initial.contains(' ')) {
        return Err(AuthError::Syntax);
    }
    let initial = match initial {
        None => None,
        Some("=") => Some(Vec::new().into()),
        Some(initial) => Some(decode(initial.as_bytes())?),
    };
    Ok((mechanism.to_ascii_uppercase(), initial))
}

/// One message from its line: canonical base64 with its padding and nothing else (RFC 4648 §4).
pub fn decode(line: &[u8]) -> Result<Secret, AuthError> {
    BASE64_STANDARD.decode(line).map(Secret::from).map_err(|_| AuthError::Base64)
}

/// One message as it stands on its line.
pub fn encode(message: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(BASE64_STANDARD.encode(message))
}

/// `sasl-mech` of RFC 4422 §3.1, in any case.
pub fn is_mechanism(name: &str) -> bool {
    (1..=MAX_MECHANISM).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn initial(argument: &str) -> Result<Option<Vec<u8>>, AuthError> {
        auth(argument).map(|(_, initial)| initial.map(|secret| secret.to_vec()))
    }

    #[test]
    fn an_initial_response_of_nothing_is_an_equals_sign() {
        assert_eq!(initial("external ="), Ok(Some(Vec::new())));
        assert_eq!(initial("EXTERNAL"), Ok(None));
        assert_eq!(auth("scram-sha-256-plus").unwrap().0, "SCRAM-SHA-256-PLUS");
    }

    #[test]
    fn base64_is_read_strictly() {
        assert_eq!(initial("PLAIN AGEAYg=="), Ok(Some(b"\0a\0b".to_vec())));
        // No padding, too much of it, other alphabets, bits that are left over, octets around it.
        for bad in ["AGEAYg", "AGEAYg=", "AGEAYg===", "AGEAYh==", "AGE-Yg==", "==", "*", "A", "AGEA\u{e4}"] {
            assert_eq!(initial(&format!("PLAIN {bad}")), Err(AuthError::Base64), "{bad}");
        }
        for bad in ["", " ", "PLAIN AGEAYg== x", "PLA!N", "A-NAME-OF-TWENTY-ONE-"] {
            assert_eq!(initial(bad), Err(AuthError::Syntax), "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let printed = format!("{:?}", auth("PLAIN AGEAYg==").unwrap());
        assert_eq!(printed, "(\"PLAIN\", Some(Secret(4 octets)))");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(octets in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(&*decode(encode(&octets).as_bytes()).unwrap(), &octets[..]);
        }

        #[test]
        fn arbitrary_arguments_never_panic(text in any::<String>(), octets in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (auth(&text), auth(&format!("PLAIN {text}")), decode(&octets));
        }
    }
}
