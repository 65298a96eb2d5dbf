//! PLAIN (RFC 4616).

use zeroize::Zeroizing;

use super::Malformed;

/// What a client says in PLAIN.
#[derive(PartialEq, Eq)]
pub struct Plain {
    /// As whom it wants to act; empty: as itself.
    pub authzid: String,
    /// Who it is.
    pub authcid: String,
    /// Its password.
    pub password: Zeroizing<String>,
}

impl Plain {
    /// `message = [authzid] UTF8NUL authcid UTF8NUL passwd`
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(message).map_err(|_| Malformed)?;
        let mut parts = text.split('\0');
        let (Some(authzid), Some(authcid), Some(password), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Malformed);
        };
        if authcid.is_empty() || password.is_empty() {
            return Err(Malformed);
        }
        let password = Zeroizing::new(password.to_owned());
        Ok(Self { authzid: authzid.to_owned(), authcid: authcid.to_owned(), password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(message: &[u8]) -> Option<(String, String, String)> {
        Plain::parse(message).ok().map(|plain| (plain.authzid, plain.authcid, plain.password.to_string()))
    }

    #[test]
    fn the_examples_of_the_rfc() {
        assert_eq!(parse(b"\0tim\0tanstaaftanstaaf"), Some(("".into(), "tim".into(), "tanstaaftanstaaf".into())));
        assert_eq!(parse(b"Ursel\0Kurt\0xipj3plmq"), Some(("Ursel".into(), "Kurt".into(), "xipj3plmq".into())));
    }

    #[test]
    fn broken_messages_are_told() {
        for bad in [&b""[..], b"tim", b"tim\0x", b"\0\0x", b"\0tim\0", b"a\0b\0c\0d", b"\0tim\0\xff"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
