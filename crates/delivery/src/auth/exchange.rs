//! One exchange of AUTH, by the client side of a SASL library.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use mail::Fault;
use rsasl::callback::{Context, Request, SessionCallback, SessionData};
use rsasl::config::SASLConfig;
use rsasl::mechname::Mechname;
use rsasl::prelude::{Registry, SASLClient, Session, SessionError};
use rsasl::property::{AuthId, AuthzId, ChannelBindingName, ChannelBindings, OAuthBearerToken, Password};
use rsasl::validate::NoValidation;
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::{Mechanism, unproven};

/// An exchange under way.
pub(crate) struct Exchange {
    session: Session<NoValidation>,
    mechanism: Mechanism,
    /// What was said, as it stands on the line.
    said: Vec<Zeroizing<String>>,
}

static BINDING: [rsasl::prelude::Mechanism; 1] = [rsasl::mechanisms::scram::SCRAM_SHA256_PLUS];

/// What the mechanisms ask for.
struct Answers {
    user: String,
    secret: SecretString,
    mechanism: Mechanism,
    /// The channel's own data (RFC 9266 `tls-exporter`), if there is any.
    binding: Option<[u8; 32]>,
    /// Whether we say that we can bind the channel.
    binds: bool,
}

impl Exchange {
    /// An exchange by this mechanism; `binding`: the exporter of the TLS session; `offered`: what the host offers.
    pub fn new(
        mechanism: Mechanism,
        user: &str,
        secret: SecretString,
        binding: Option<[u8; 32]>,
        offered: &[String],
    ) -> Result<Self, Fault> {
        let offers_binding = offered.iter().any(|name| name.eq_ignore_ascii_case(Mechanism::ScramSha256Plus.name()));
        // RFC 5802 §6: that we could bind the channel is said only if the host does not offer it: so it learns of an attacker
        // who hides its offer.
        let binds = match mechanism {
            Mechanism::ScramSha256Plus => true,
            Mechanism::ScramSha256 => binding.is_some() && !offers_binding,
            _ => false,
        };
        let answers = Answers { user: user.to_owned(), secret, mechanism, binding, binds };
        let registry = match mechanism {
            // Left to choose, the library takes the mechanism without binding for it.
            Mechanism::ScramSha256Plus => Registry::with_mechanisms(&BINDING),
            _ => Registry::default(),
        };
        let config = SASLConfig::builder().with_registry(registry).with_callback(answers);
        let config = config.map_err(unproven)?;
        let name = Mechname::parse(mechanism.name().as_bytes()).map_err(unproven)?;
        let session = SASLClient::new(config).start_suggested(&[name]).map_err(unproven)?;
        Ok(Self { session, mechanism, said: Vec::new() })
    }

    /// The mechanism's name.
    pub fn name(&self) -> &'static str {
        self.mechanism.name()
    }

    /// What goes with AUTH itself, for mechanisms in which the client speaks first.
    pub fn initial(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, Fault> {
        if self.session.are_we_first() { self.step(None).map(Some) } else { Ok(None) }
    }

    /// A host's reply without what we said to it: some quote the line that they did not like, and a reply goes to logs and
    /// reports.
    pub fn veil(&self, reply: &str) -> String {
        self.said.iter().fold(reply.to_owned(), |reply, said| reply.replace(said.as_str(), "(not shown)"))
    }

    /// The answer to a challenge.
    pub fn answer(&mut self, challenge: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        match self.mechanism {
            // What the host says is why it refuses the token; the verdict comes behind it (RFC 7628 §3.2.3).
            Mechanism::XOAuth2 => Ok(Zeroizing::new(Vec::new())),
            Mechanism::OAuthBearer => Ok(Zeroizing::new(b"\x01".to_vec())),
            _ => self.step(Some(challenge)),
        }
    }

    fn step(&mut self, input: Option<&[u8]>) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let mut output = Zeroizing::new(Vec::new());
        // A host that does not know the password cannot sign for it (RFC 5802 §3): that is an error here.
        self.session.step(input, &mut *output).map_err(unproven)?;
        if !output.is_empty() {
            self.said.push(Zeroizing::new(BASE64_STANDARD.encode(&*output)));
        }
        Ok(output)
    }
}

impl SessionCallback for Answers {
    fn enable_channel_binding(&self) -> bool {
        self.binds
    }

    fn callback(&self, _: &SessionData, context: &Context<'_>, request: &mut Request<'_>) -> Result<(), SessionError> {
        request.satisfy::<AuthId>(&self.user)?;
        match self.mechanism {
            Mechanism::OAuthBearer => {
                request.satisfy::<AuthzId>(&self.user)?.satisfy::<OAuthBearerToken>(self.secret.expose_secret())?;
            }
            Mechanism::XOAuth2 => {
                request.satisfy::<OAuthBearerToken>(self.secret.expose_secret())?;
            }
            Mechanism::ScramSha256Plus if context.get_ref::<ChannelBindingName>() == Some("tls-exporter") => {
                if let Some(binding) = &self.binding {
                    request.satisfy::<ChannelBindings>(binding)?;
                }
            }
            _ => {
                request.satisfy::<Password>(self.secret.expose_secret().as_bytes())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(mechanism: Mechanism) -> Exchange {
        scram(mechanism, Some([7; 32]), "SCRAM-SHA-256")
    }

    fn scram(mechanism: Mechanism, binding: Option<[u8; 32]>, offered: &str) -> Exchange {
        let offered: Vec<String> = offered.split(' ').map(str::to_owned).collect();
        Exchange::new(mechanism, "user", SecretString::from("pencil"), binding, &offered).unwrap()
    }

    fn initial(mechanism: Mechanism) -> Option<String> {
        let said = exchange(mechanism).initial().unwrap();
        said.map(|said| String::from_utf8(said.to_vec()).unwrap())
    }

    #[test]
    fn mechanisms_say_what_their_standards_say() {
        assert_eq!(initial(Mechanism::Plain).as_deref(), Some("\0user\0pencil"));
        assert_eq!(initial(Mechanism::XOAuth2).as_deref(), Some("user=user\x01auth=Bearer pencil\x01\x01"));
        assert_eq!(initial(Mechanism::OAuthBearer).as_deref(), Some("n,a=user,\x01auth=Bearer pencil\x01\x01"));
        assert_eq!(initial(Mechanism::Login), None);
        let mut login = exchange(Mechanism::Login);
        assert_eq!(*login.answer(b"Username:").unwrap(), b"user");
        assert_eq!(*login.answer(b"Password:").unwrap(), b"pencil");
        assert!(initial(Mechanism::ScramSha256).unwrap().starts_with("y,,n=user,r="));
        let plus = initial(Mechanism::ScramSha256Plus).unwrap();
        assert!(plus.starts_with("p=tls-exporter,,n=user,r="), "{plus}");
    }

    #[test]
    fn that_channels_could_be_bound_is_said_only_where_it_is_true_and_not_offered() {
        for (binding, offered, flag) in [
            (Some([7; 32]), "SCRAM-SHA-256", "y,,"),
            (Some([7; 32]), "SCRAM-SHA-256 SCRAM-SHA-256-PLUS", "n,,"),
            (None, "SCRAM-SHA-256 SCRAM-SHA-256-PLUS", "n,,"),
            (None, "SCRAM-SHA-256", "n,,"),
        ] {
            let first = scram(Mechanism::ScramSha256, binding, offered).initial().unwrap().unwrap();
            assert!(first.starts_with(flag.as_bytes()), "{offered}");
        }
    }

    #[test]
    fn a_host_that_does_not_know_the_password_is_found_out() {
        let mut scram = exchange(Mechanism::ScramSha256);
        let first = String::from_utf8(scram.initial().unwrap().unwrap().to_vec()).unwrap();
        let nonce = first.rsplit_once("r=").unwrap().1;
        let server_first = format!("r={nonce}more,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        scram.answer(server_first.as_bytes()).unwrap();
        assert!(scram.answer(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").is_err());
    }
}
