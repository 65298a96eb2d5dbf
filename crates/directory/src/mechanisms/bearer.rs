//! The messages of OAUTHBEARER (RFC 7628) and XOAUTH2.

use zeroize::Zeroizing;

use super::Malformed;

/// What a client says in either.
#[derive(PartialEq, Eq)]
pub struct Bearer {
    /// Who it says it is; empty: the token says.
    pub name: String,
    /// The token.
    pub token: Zeroizing<String>,
}

/// `kvsep`
const SEPARATOR: char = '\u{1}';

impl Bearer {
    /// OAUTHBEARER: `n,a=user@example.com,^Ahost=…^Aport=…^Aauth=Bearer …^A^A`
    pub fn parse_oauthbearer(message: &[u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(message).map_err(|_| Malformed)?;
        let (header, pairs) = text.split_once(SEPARATOR).ok_or(Malformed)?;
        // gs2-header = ("n" / "y") "," ["a=" saslname] ","; there is no channel binding for this mechanism.
        let header = header.strip_prefix("n,").or_else(|| header.strip_prefix("y,")).ok_or(Malformed)?;
        let authzid = header.strip_suffix(',').ok_or(Malformed)?;
        let name = match authzid {
            "" => String::new(),
            _ => {
                let name = authzid.strip_prefix("a=").filter(|name| !name.is_empty()).ok_or(Malformed)?;
                name.replace("=2C", ",").replace("=3D", "=")
            }
        };
        Ok(Self { name, token: token(pairs)? })
    }

    /// XOAUTH2: `user=someone@example.com^Aauth=Bearer …^A^A`
    pub fn parse_xoauth2(message: &[u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(message).map_err(|_| Malformed)?;
        let (user, pairs) = text.split_once(SEPARATOR).ok_or(Malformed)?;
        let name = user.strip_prefix("user=").filter(|name| !name.is_empty()).ok_or(Malformed)?;
        Ok(Self { name: name.to_owned(), token: token(pairs)? })
    }
}

/// The token in `*kvpair kvsep`.
fn token(pairs: &str) -> Result<Zeroizing<String>, Malformed> {
    let pairs = pairs.strip_suffix(SEPARATOR).and_then(|pairs| pairs.strip_suffix(SEPARATOR)).ok_or(Malformed)?;
    let mut found = None;
    for pair in pairs.split(SEPARATOR) {
        let (key, value) = pair.split_once('=').ok_or(Malformed)?;
        if key == "auth" && found.replace(value).is_some() {
            return Err(Malformed);
        }
    }
    let (scheme, token) = found.and_then(|value| value.split_once(' ')).ok_or(Malformed)?;
    let token = token.trim_matches(' ');
    // RFC 6750 §2.1: b64token
    let is_token = |octet: u8| octet.is_ascii_alphanumeric() || b"-._~+/=".contains(&octet);
    if !scheme.eq_ignore_ascii_case("Bearer") || token.is_empty() || !token.bytes().all(is_token) {
        return Err(Malformed);
    }
    Ok(Zeroizing::new(token.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_rfc() {
        let message = "n,a=user@example.com,\u{1}host=server.example.com\u{1}port=587\u{1}auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\u{1}\u{1}";
        let bearer = Bearer::parse_oauthbearer(message.as_bytes()).ok().unwrap();
        assert_eq!(bearer.name, "user@example.com");
        assert_eq!(bearer.token.as_str(), "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==");
        let short = Bearer::parse_oauthbearer(b"n,,\x01auth=bearer abc\x01\x01").ok().unwrap();
        assert_eq!((short.name.as_str(), short.token.as_str()), ("", "abc"));
    }

    #[test]
    fn xoauth2_as_clients_send_it() {
        let bearer = Bearer::parse_xoauth2(b"user=joe@example.org\x01auth=Bearer ya29.a-b\x01\x01").ok().unwrap();
        assert_eq!((bearer.name.as_str(), bearer.token.as_str()), ("joe@example.org", "ya29.a-b"));
    }

    #[test]
    fn broken_messages_are_told() {
        for bad in [
            &b""[..],
            b"n,,\x01\x01",
            b"n,,\x01auth=Basic abc\x01\x01",
            b"n,,\x01auth=Bearer \x01\x01",
            b"n,,\x01auth=Bearer a b\x01\x01",
            b"n,,\x01auth=Bearer abc\x01",
            b"n,,\x01auth=Bearer abc\x01auth=Bearer abc\x01\x01",
            b"p=x,,\x01auth=Bearer abc\x01\x01",
            b"n,b=c,\x01auth=Bearer abc\x01\x01",
        ] {
            assert!(Bearer::parse_oauthbearer(bad).is_err(), "{bad:?}");
        }
        assert!(Bearer::parse_xoauth2(b"user=\x01auth=Bearer abc\x01\x01").is_err());
    }

    proptest! {
        #[test]
        fn foreign_octets_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (Bearer::parse_oauthbearer(&octets).is_ok(), Bearer::parse_xoauth2(&octets).is_ok());
        }
    }
}
