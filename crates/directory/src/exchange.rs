//! One dialogue of AUTH, step by step.

use std::net::SocketAddr;
use std::sync::Arc;

use tracing::debug;

use crate::account::Account;
use crate::admission::Admission;
use crate::directory::{Inner, Record};
use crate::dovecot::{Conversation, Said};
use crate::mechanisms::bearer::Bearer;
use crate::mechanisms::plain::Plain;
use crate::mechanisms::scram::{Challenge, ClientFirst, Refused};
use crate::mechanisms::{Malformed, Mechanism};
use crate::names::normalise;
use crate::oauth::TokenError;
use crate::password::{Matched, Password, Verifier};

/// The longest message of a client, in octets; RFC 4954 §4 asks for 12288 of base64 at least.
const MAX_MESSAGE: usize = 64 << 10;

/// What is known of the connection.
#[derive(Clone, Debug)]
pub struct ChannelFacts {
    /// Who connected.
    pub peer: SocketAddr,
    /// Whether it is inside TLS. Without, nothing is offered.
    pub tls: bool,
    /// What a client can bind to (RFC 9266); TLS 1.3 only.
    pub tls_exporter: Option<[u8; 32]>,
    /// The account that the client's certificate stands for, if it has shown one that does.
    pub certificate: Option<CertificateAccount>,
}

/// The account that a client's certificate was found to stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateAccount {
    /// Its name.
    pub account: String,
}

/// What follows from a client's message.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// 334 with this.
    Challenge(Vec<u8>),
    /// 235: this is who it is. `last` goes to the client first, where the mechanism has a last word.
    Done {
        /// Who.
        account: Arc<Account>,
        /// The mechanism's last word.
        last: Option<Vec<u8>>,
    },
    /// It is over.
    Failed(AuthFailure),
}

/// Why somebody is not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthFailure {
    /// 535 5.7.8: no such account, or not its password, token or certificate; which of them is not told.
    Credentials,
    /// 535 5.7.13: all was right, and the account is shut out.
    Disabled,
    /// 534 5.7.9: the password was right, but this server wants an app password.
    MustUpgrade,
    /// 501 5.5.2: the message breaks its grammar.
    Malformed,
    /// 454 4.7.0: it could not be found out. The reason is for the operator.
    Unavailable(String),
}

/// The mechanism is not known, or not to be had on this channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this mechanism is not offered")]
pub struct UnknownMechanism;

/// A dialogue under way.
pub struct Exchange {
    directory: Arc<Inner>,
    mechanism: Mechanism,
    facts: ChannelFacts,
    state: State,
    tried: Option<String>,
    /// What all names of the account have in common, as far as its backend tells.
    whose: Option<String>,
    admission: Option<Admission>,
    /// The client has been told why its token is not good.
    refused: bool,
}

enum State {
    Start,
    /// LOGIN: the password is awaited.
    LoginPassword,
    /// SCRAM: the proof is awaited.
    ScramProof(Challenge, ScramSide),
    /// Somebody else judges.
    Relayed(Box<Conversation>),
    /// OAUTHBEARER, XOAUTH2: the client has been told why, and has the last word before it fails.
    Refused,
    /// There is nothing more to be said.
    Over,
}

/// Against what a proof is held.
struct ScramSide {
    name: String,
    record: Option<Arc<Record>>,
    verifiers: Vec<(Matched, Verifier)>,
    authzid: String,
}

impl Exchange {
    pub(crate) fn new(directory: Arc<Inner>, mechanism: Mechanism, facts: ChannelFacts) -> Self {
        Self {
            directory,
            mechanism,
            facts,
            state: State::Start,
            tried: None,
            whose: None,
            admission: None,
            refused: false,
        }
    }

    /// Takes the client's message: `None` for the first step if AUTH had no initial response, the decoded octets
    /// otherwise.
    pub async fn step(&mut self, input: Option<&[u8]>) -> Step {
        let refused = self.refused;
        let step = match self.advance(input).await {
            Ok(step) => step,
            Err(failure) => Step::Failed(failure),
        };
        let result = match &step {
            Step::Challenge(_) if refused == self.refused => return step,
            Step::Challenge(_) => AuthFailure::Credentials.word(),
            Step::Done { .. } => "ok",
            Step::Failed(failure) => failure.word(),
        };
        if !matches!(step, Step::Challenge(_)) {
            self.state = State::Over;
        }
        // A refusal is counted when it is made, whether or not the client hears it out.
        if !refused {
            self.directory.metrics.ended(self.mechanism.as_str(), result);
        }
        step
    }

    /// Whether the challenge that was given last says why the client is refused (RFC 7628 §3.2.3): whatever it answers, and
    /// if it never does, it has failed.
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// How the client came in, once it has.
    pub fn admission(&self) -> Option<&Admission> {
        self.admission.as_ref()
    }

    /// The account that the client named, known or not, as soon as it did: for logs.
    pub fn tried(&self) -> Option<&str> {
        self.tried.as_deref()
    }

    /// By what its failures are to be counted: other names of the same account lead to the same, as far as the backend tells.
    pub fn counts_for(&self) -> Option<&str> {
        self.whose.as_deref().or(self.tried())
    }

    /// The mechanism.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    async fn advance(&mut self, input: Option<&[u8]>) -> Result<Step, AuthFailure> {
        let state = std::mem::replace(&mut self.state, State::Over);
        let Some(input) = input else {
            // Only the first step may come without a message: then the client waits for an empty challenge, or for the
            // question for its name.
            let (State::Start, opening) = (state, self.opening()) else { return Err(AuthFailure::Malformed) };
            self.state = State::Start;
            return Ok(Step::Challenge(opening.to_vec()));
        };
        if input.len() > MAX_MESSAGE {
            return Err(AuthFailure::Malformed);
        }
        let directory = Arc::clone(&self.directory);
        match (state, self.mechanism) {
            (State::Start, mechanism) if directory.relay(mechanism).is_some() => {
                self.tried = self.named(input);
                let relay = directory.relay(mechanism).ok_or(AuthFailure::Malformed)?;
                let (conversation, said) = relay.begin(mechanism, self.facts.peer, Some(input)).await?;
                self.relayed(Box::new(conversation), said)
            }
            (State::Relayed(mut conversation), _) => {
                let said = conversation.step(input).await?;
                self.relayed(conversation, said)
            }
            (State::Start, Mechanism::Plain) => self.plain(input).await,
            (State::Start, Mechanism::Login) => {
                let name = std::str::from_utf8(input).map_err(|_| AuthFailure::Malformed)?;
                self.tried = Some(normalise(name).map_err(|_| AuthFailure::Credentials)?);
                self.state = State::LoginPassword;
                Ok(Step::Challenge(b"Password:".to_vec()))
            }
            (State::LoginPassword, _) => {
                let password = String::from_utf8(input.to_vec()).map_err(|_| AuthFailure::Malformed)?;
                let admission = self.password(password).await?;
                Ok(self.done(admission, None))
            }
            (State::Start, Mechanism::ScramSha256 | Mechanism::ScramSha256Plus) => self.scram_first(input).await,
            (State::ScramProof(challenge, side), _) => self.scram_proof(input, &challenge, side),
            (State::Start, Mechanism::External) => self.external(input).await,
            (State::Start, Mechanism::OauthBearer | Mechanism::Xoauth2) => self.bearer(input).await,
            (State::Refused, _) => Err(AuthFailure::Credentials),
            _ => Err(AuthFailure::Malformed),
        }
    }

    fn opening(&self) -> &'static [u8] {
        match self.mechanism {
            Mechanism::Login => b"Username:",
            _ => b"",
        }
    }

    /// What the one who judges has said.
    fn relayed(&mut self, conversation: Box<Conversation>, said: Said) -> Result<Step, AuthFailure> {
        Ok(match said {
            Said::Challenge(text) => {
                self.state = State::Relayed(conversation);
                // To a token there is nothing to be asked: such a challenge is a refusal.
                self.refused = matches!(self.mechanism, Mechanism::OauthBearer | Mechanism::Xoauth2);
                Step::Challenge(text)
            }
            Said::Ok { account, last } => {
                self.directory.note(&account, &Matched::Main, &self.facts);
                let asked = account.name.clone();
                self.done(Admission::elsewhere(account, &asked), last)
            }
            Said::No { failure, user } => {
                self.whose = user;
                return Err(failure);
            }
        })
    }

    /// It is in.
    fn done(&mut self, admission: Admission, last: Option<Vec<u8>>) -> Step {
        let account = Arc::clone(&admission.account);
        self.tried = Some(account.name.clone());
        self.admission = Some(admission);
        Step::Done { account, last }
    }

    /// Whom a client's first message names.
    fn named(&self, input: &[u8]) -> Option<String> {
        let name = match self.mechanism {
            Mechanism::Plain => Plain::parse(input).ok()?.authcid,
            Mechanism::Login => std::str::from_utf8(input).ok()?.to_owned(),
            Mechanism::ScramSha256 | Mechanism::ScramSha256Plus => ClientFirst::parse(input).ok()?.name,
            Mechanism::OauthBearer => Bearer::parse_oauthbearer(input).ok()?.name,
            Mechanism::Xoauth2 => Bearer::parse_xoauth2(input).ok()?.name,
            Mechanism::External => return None,
        };
        normalise(&name).ok()
    }

    async fn plain(&mut self, input: &[u8]) -> Result<Step, AuthFailure> {
        let Plain { authzid, authcid, password } = Plain::parse(input)?;
        self.tried = Some(normalise(&authcid).map_err(|_| AuthFailure::Credentials)?);
        let admission = self.password(password.as_str().to_owned()).await?;
        self.may_act_as(&authzid, &admission.account)?;
        Ok(self.done(admission, None))
    }

    async fn password(&mut self, password: String) -> Result<Admission, AuthFailure> {
        let name = self.tried.as_deref().ok_or(AuthFailure::Malformed)?;
        let password = Password::new(password).map_err(|_| AuthFailure::Credentials)?;
        let checked = self.directory.check_password(name, password, &self.facts).await?;
        self.whose = checked.whose;
        checked.admission
    }

    async fn scram_first(&mut self, input: &[u8]) -> Result<Step, AuthFailure> {
        let first = ClientFirst::parse(input)?;
        let plus = self.mechanism == Mechanism::ScramSha256Plus;
        let plus_offered = self.directory.offers(Mechanism::ScramSha256Plus, &self.facts);
        if !first.binds_soundly(plus, plus_offered) {
            return Err(AuthFailure::Credentials);
        }
        let name = normalise(&first.name).map_err(|_| AuthFailure::Credentials)?;
        self.tried = Some(name.clone());
        let record = self.directory.record(&name).await?;
        self.whose = record.as_ref().map(|record| record.account.name.clone());
        let verifiers = self.directory.verifiers(&name, record.as_deref());
        let side = ScramSide { name, record, verifiers, authzid: first.authzid.clone() };
        let asked = &side.verifiers.first().ok_or(AuthFailure::Credentials)?.1;
        let challenge = Challenge::new(first, asked, self.facts.tls_exporter.as_ref());
        let message = challenge.message().as_bytes().to_vec();
        self.state = State::ScramProof(challenge, side);
        Ok(Step::Challenge(message))
    }

    fn scram_proof(&mut self, input: &[u8], challenge: &Challenge, side: ScramSide) -> Result<Step, AuthFailure> {
        let verifiers: Vec<&Verifier> = side.verifiers.iter().map(|(_, verifier)| verifier).collect();
        let (at, last) = challenge.verify(input, &verifiers).map_err(|refused| match refused {
            Refused::Malformed => AuthFailure::Malformed,
            Refused::Wrong => AuthFailure::Credentials,
        })?;
        // A decoy fits no proof; should it ever, there is still no account.
        let record = side.record.ok_or(AuthFailure::Credentials)?;
        self.may_act_as(&side.authzid, &record.account)?;
        let admission = self.directory.admit(&record, &side.name, &side.verifiers[at].0, &self.facts)?;
        Ok(self.done(admission, Some(last.into_bytes())))
    }

    async fn bearer(&mut self, input: &[u8]) -> Result<Step, AuthFailure> {
        let Bearer { name, token } = match self.mechanism {
            Mechanism::Xoauth2 => Bearer::parse_xoauth2(input)?,
            _ => Bearer::parse_oauthbearer(input)?,
        };
        self.tried = normalise(&name).ok();
        let oauth = self.directory.oauth.as_ref().ok_or(AuthFailure::Malformed)?;
        let named = match oauth.account_of(&token).await {
            Ok(named) => normalise(&named).ok(),
            Err(TokenError::Invalid(reason)) => {
                debug!(account = self.tried, reason, "a token was refused");
                None
            }
            Err(TokenError::Unavailable(why)) => return Err(AuthFailure::Unavailable(why)),
        };
        // The client may say who it is only as the token does.
        let proven = named.filter(|named| name.is_empty() || Some(named) == self.tried.as_ref());
        let admission = match &proven {
            Some(named) => self.directory.holder(named, oauth.any_account(), &self.facts).await,
            None => Err(AuthFailure::Credentials),
        };
        if proven.is_some() {
            self.tried = proven;
        }
        let refusal = oauth.refusal(self.mechanism);
        match admission {
            Ok(admission) => Ok(self.done(admission, None)),
            Err(AuthFailure::Credentials) => {
                self.state = State::Refused;
                self.refused = true;
                Ok(Step::Challenge(refusal))
            }
            Err(failure) => Err(failure),
        }
    }

    /// RFC 4422 appendix A: the message is the authorisation identity, empty: whoever the certificate stands for.
    async fn external(&mut self, input: &[u8]) -> Result<Step, AuthFailure> {
        let authzid = std::str::from_utf8(input).map_err(|_| AuthFailure::Malformed)?.to_owned();
        let certificate = self.facts.certificate.as_ref().ok_or(AuthFailure::Credentials)?;
        let name = normalise(&certificate.account).map_err(|_| AuthFailure::Credentials)?;
        self.tried = Some(name.clone());
        let admission = self.directory.holder(&name, false, &self.facts).await?;
        self.may_act_as(&authzid, &admission.account)?;
        Ok(self.done(admission, None))
    }

    /// Nobody acts as somebody else: the identity is empty, or the account by its own name or by the one it was asked for.
    fn may_act_as(&self, authzid: &str, account: &Account) -> Result<(), AuthFailure> {
        let named = normalise(authzid).ok();
        let same = named.as_ref().is_some_and(|named| *named == account.name || Some(named) == self.tried.as_ref());
        if authzid.is_empty() || same { Ok(()) } else { Err(AuthFailure::Credentials) }
    }
}

impl AuthFailure {
    /// For metrics and logs.
    pub fn word(&self) -> &'static str {
        match self {
            AuthFailure::Credentials => "credentials",
            AuthFailure::Disabled => "disabled",
            AuthFailure::MustUpgrade => "must_upgrade",
            AuthFailure::Malformed => "malformed",
            AuthFailure::Unavailable(_) => "unavailable",
        }
    }
}

impl From<Malformed> for AuthFailure {
    fn from(_: Malformed) -> Self {
        AuthFailure::Malformed
    }
}

impl From<crate::Unavailable> for AuthFailure {
    fn from(crate::Unavailable(why): crate::Unavailable) -> Self {
        AuthFailure::Unavailable(why)
    }
}
