//! The server's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677; channel binding RFC 9266).
//!
//! ```text
//! C: n,,n=user,r=fyko…                             ClientFirst
//! S: r=fyko…3rfc…,s=QSXCR…,i=4096                  Challenge::message
//! C: c=biws,r=fyko…3rfc…,p=v0X8v…                  Challenge::verify
//! S: v=rmF9p…                                      … its answer
//! ```

use base64::prelude::{BASE64_STANDARD, Engine};
use subtle::ConstantTimeEq;

use super::Malformed;
use crate::password::{Verifier, hmac, random, sha256};

/// The longest nonce of a client, in octets.
const MAX_NONCE: usize = 512;
/// The only binding there is for TLS 1.3 (RFC 9266).
const TLS_EXPORTER: &str = "tls-exporter";

/// What the client says of channel binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// `n`: it cannot bind.
    Unsupported,
    /// `y`: it could, and thinks that the server cannot.
    NotOffered,
    /// `p=…`: it binds to this.
    To(String),
}

/// The client's first message.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientFirst {
    /// What it says of channel binding.
    pub binding: Binding,
    /// As whom it wants to act; empty: as itself.
    pub authzid: String,
    /// Who it is.
    pub name: String,
    nonce: String,
    /// `gs2-header`, as it was sent.
    header: String,
    /// `client-first-message-bare`, as it was sent.
    bare: String,
}

/// What the server asks for, and what it needs to judge the answer.
#[derive(Debug)]
pub struct Challenge {
    nonce: String,
    message: String,
    /// What `c=` must hold.
    binding: Vec<u8>,
    bare: String,
}

/// Why a proof is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The message breaks the grammar.
    Malformed,
    /// Another nonce, another channel, or another password.
    Wrong,
}

impl ClientFirst {
    /// `client-first-message = gs2-header client-first-message-bare`
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(message).map_err(|_| Malformed)?;
        let (flag, rest) = text.split_once(',').ok_or(Malformed)?;
        let (authzid, bare) = rest.split_once(',').ok_or(Malformed)?;
        let binding = match flag {
            "n" => Binding::Unsupported,
            "y" => Binding::NotOffered,
            _ => Binding::To(flag.strip_prefix("p=").filter(|name| is_binding_name(name)).ok_or(Malformed)?.to_owned()),
        };
        let authzid = match authzid {
            "" => String::new(),
            _ => saslname(authzid.strip_prefix("a=").ok_or(Malformed)?)?,
        };
        // `m=` is reserved for extensions that must be understood; there are none, so it is no `n=`.
        let mut attributes = bare.split(',');
        let name = attributes.next().and_then(|part| part.strip_prefix("n=")).ok_or(Malformed)?;
        let nonce = attributes.next().and_then(|part| part.strip_prefix("r=")).ok_or(Malformed)?;
        if !is_printable(nonce) || nonce.len() > MAX_NONCE {
            return Err(Malformed);
        }
        Ok(Self {
            binding,
            authzid,
            name: saslname(name)?,
            nonce: nonce.to_owned(),
            header: text[..text.len() - bare.len()].to_owned(),
            bare: bare.to_owned(),
        })
    }

    /// Whether what it says of channel binding fits the mechanism and what was offered.
    pub fn binds_soundly(&self, plus: bool, plus_offered: bool) -> bool {
        match &self.binding {
            Binding::To(name) => plus && name == TLS_EXPORTER,
            // RFC 5802 §6: a client that could bind and did not see the offer has been shown another list.
            Binding::NotOffered => !plus && !plus_offered,
            Binding::Unsupported => !plus,
        }
    }
}

impl Challenge {
    /// The question that follows a client's first message; `channel` are the octets that a client of -PLUS binds to.
    pub fn new(first: ClientFirst, verifier: &Verifier, channel: Option<&[u8; 32]>) -> Self {
        Self::with_nonce(first, verifier, channel, &BASE64_STANDARD.encode(random::<24>()))
    }

    fn with_nonce(first: ClientFirst, verifier: &Verifier, channel: Option<&[u8; 32]>, ours: &str) -> Self {
        let nonce = format!("{}{ours}", first.nonce);
        let salt = BASE64_STANDARD.encode(verifier.salt());
        let message = format!("r={nonce},s={salt},i={}", verifier.iterations());
        let mut binding = first.header.into_bytes();
        if matches!(first.binding, Binding::To(_)) {
            binding.extend_from_slice(channel.map_or(&[][..], |octets| octets));
        }
        Self { nonce, message, binding, bare: first.bare }
    }

    /// `server-first-message`
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Holds the client's proof against each of the verifiers: which it fits, and the `server-final-message`.
    pub fn verify(&self, client_final: &[u8], verifiers: &[&Verifier]) -> Result<(usize, String), Refused> {
        let text = std::str::from_utf8(client_final).map_err(|_| Refused::Malformed)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(Refused::Malformed)?;
        let proof: [u8; 32] =
            BASE64_STANDARD.decode(proof).ok().and_then(|octets| octets.try_into().ok()).ok_or(Refused::Malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|part| part.strip_prefix("c=")).ok_or(Refused::Malformed)?;
        let binding = BASE64_STANDARD.decode(binding).map_err(|_| Refused::Malformed)?;
        let nonce = attributes.next().and_then(|part| part.strip_prefix("r=")).ok_or(Refused::Malformed)?;

        let auth_message = format!("{},{},{without_proof}", self.bare, self.message);
        // All of them are looked at, so that the time does not tell which it was.
        let fits = |verifier: &Verifier| {
            let signature = hmac(verifier.stored_key(), auth_message.as_bytes());
            let mut key = proof;
            key.iter_mut().zip(signature).for_each(|(octet, other)| *octet ^= other);
            verifier.has_stored_key(&sha256(&key))
        };
        let found = verifiers.iter().enumerate().fold(None, |found, (at, verifier)| match fits(verifier) {
            true => found.or(Some(at)),
            false => found,
        });
        let same_channel = bool::from(binding.ct_eq(&self.binding));
        match found {
            Some(at) if same_channel && nonce == self.nonce => {
                let signature = hmac(verifiers[at].server_key(), auth_message.as_bytes());
                Ok((at, format!("v={}", BASE64_STANDARD.encode(signature))))
            }
            _ => Err(Refused::Wrong),
        }
    }
}

/// `saslname`: `=2C` and `=3D` stand for `,` and `=`, which cannot stand themselves.
fn saslname(text: &str) -> Result<String, Malformed> {
    let mut name = String::with_capacity(text.len());
    let mut pieces = text.split('=');
    name.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        match (piece.strip_prefix("2C"), piece.strip_prefix("3D")) {
            (Some(rest), _) => {
                name.push(',');
                name.push_str(rest);
            }
            (_, Some(rest)) => {
                name.push('=');
                name.push_str(rest);
            }
            _ => return Err(Malformed),
        }
    }
    if name.is_empty() || name.contains('\0') { Err(Malformed) } else { Ok(name) }
}

/// `cb-name = 1*(ALPHA / DIGIT / "." / "-")`
fn is_binding_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-'))
}

/// `printable = %x21-2B / %x2D-7E`, at least one.
fn is_printable(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b',')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::password::Password;
    use proptest::prelude::*;

    /// The example of RFC 7677 §3.
    const FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const OURS: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const FINAL: &str =
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn pencil() -> Verifier {
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        Verifier::new(&Password::new("pencil").unwrap(), salt, 4096)
    }

    fn challenge(first: &str, channel: Option<&[u8; 32]>) -> Challenge {
        Challenge::with_nonce(ClientFirst::parse(first.as_bytes()).unwrap(), &pencil(), channel, OURS)
    }

    #[test]
    fn the_example_of_the_rfc() {
        let challenge = challenge(FIRST, None);
        assert_eq!(
            challenge.message(),
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let (right, other) = (pencil(), pencil().decoy(pencil().salt().to_vec()));
        let last = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_owned();
        assert_eq!(challenge.verify(FINAL.as_bytes(), &[&right]), Ok((0, last.clone())));
        assert_eq!(challenge.verify(FINAL.as_bytes(), &[&other, &right]), Ok((1, last)));
        assert_eq!(challenge.verify(FINAL.as_bytes(), &[&other]), Err(Refused::Wrong));
    }

    #[test]
    fn a_proof_for_another_dialogue_or_channel_is_refused() {
        let right = pencil();
        let verify = |challenge: &Challenge, text: &str| challenge.verify(text.as_bytes(), &[&right]).map(|(at, _)| at);
        let elsewhere = challenge("n,,n=user,r=another", None);
        assert_eq!(verify(&elsewhere, FINAL), Err(Refused::Wrong));
        // The header that is proven is the one that was sent.
        let downgraded = challenge("y,,n=user,r=rOprNGfwEbeRWgbNEkqO", None);
        assert_eq!(verify(&downgraded, FINAL), Err(Refused::Wrong));
        for bad in ["", "c=biws", "c=biws,p=AAAA", &FINAL.replace("c=", "d="), &FINAL.replace("p=d", "p=!")] {
            assert_eq!(verify(&challenge(FIRST, None), bad), Err(Refused::Malformed), "{bad}");
        }
    }

    #[test]
    fn first_messages_are_read() {
        let first = ClientFirst::parse(b"p=tls-exporter,a=x=3Dy,n=a=2Cb=3Dc,r=abc,ext=1").unwrap();
        assert_eq!((first.binding, first.authzid.as_str()), (Binding::To("tls-exporter".into()), "x=y"));
        assert_eq!((first.name.as_str(), first.header.as_str()), ("a,b=c", "p=tls-exporter,a=x=3Dy,"));
        for bad in [
            "",
            "n",
            "n,",
            "n,,",
            "x,,n=a,r=b",
            "p=,,n=a,r=b",
            "n,b=c,n=a,r=b",
            "n,,m=x,n=a,r=b",
            "n,,n=,r=b",
            "n,,n=a=2c,r=b",
            "n,,n=a,r=",
            "n,,n=a,r=b\u{7f}",
            "n,,r=b,n=a",
        ] {
            assert_eq!(ClientFirst::parse(bad.as_bytes()), Err(Malformed), "{bad}");
        }
    }

    #[test]
    fn bindings_must_fit_the_offer() {
        let sound = |flag: &str, plus, offered| {
            ClientFirst::parse(format!("{flag},,n=a,r=b").as_bytes()).unwrap().binds_soundly(plus, offered)
        };
        assert!(sound("p=tls-exporter", true, true) && !sound("p=tls-unique", true, true));
        assert!(!sound("p=tls-exporter", false, true), "binding without the name of -PLUS");
        assert!(!sound("y", false, true), "somebody hid -PLUS from the client");
        assert!(sound("y", false, false) && sound("n", false, true) && !sound("n", true, true));
    }

    proptest! {
        #[test]
        fn foreign_octets_never_panic(octets in proptest::collection::vec(any::<u8>(), 0..80), text in "[nyp=,ar.a-c]{0,30}") {
            let _ = ClientFirst::parse(&octets);
            let _ = ClientFirst::parse(text.as_bytes());
            let _ = challenge(FIRST, None).verify(&octets, &[]);
        }
    }
}
