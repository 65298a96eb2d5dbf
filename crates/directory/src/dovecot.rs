//! Accounts of a Dovecot: its authentication protocol over a Unix socket (version 1.1, as `auth-client` listens for it).
//!
//! The messages of a mechanism go through as they are; Dovecot says who it is, or why not. Each exchange has a connection of
//! its own: connecting costs little on one machine, nothing needs to be told apart, and a Dovecot that was started anew is
//! simply the one that answers next.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{error, warn};
use zeroize::Zeroizing;

use crate::Unavailable;
use crate::account::{Account, AccountLimits, Limit};
use crate::exchange::AuthFailure;
use crate::mechanisms::Mechanism;
use crate::names::normalise;
use crate::send_as::SendAs;

/// Exchanges at a time; each holds a connection.
const MOST: usize = 128;
/// The longest line of an answer, in octets.
const MAX_LINE: u64 = 64 << 10;
/// The most lines of a handshake.
const MOST_LINES: usize = 200;

/// Where Dovecot listens.
#[derive(Clone, Debug)]
pub struct DovecotSettings {
    /// Its `auth-client` socket.
    pub socket: PathBuf,
    /// Its `auth-userdb` socket: says whether an account exists that has proven by token or certificate who it is.
    pub users: Option<PathBuf>,
    /// How long each answer may take. Dovecot lets refusals wait for some seconds.
    pub timeout: Duration,
}

/// The accounts of a Dovecot.
pub struct DovecotAccounts {
    settings: DovecotSettings,
    places: Arc<Semaphore>,
    /// What it offered when it was last asked.
    offered: RwLock<Vec<Mechanism>>,
}

/// An exchange under way.
pub struct Conversation {
    line: Line,
    timeout: Duration,
    _place: OwnedSemaphorePermit,
}

/// What Dovecot says to a client's message.
pub enum Said {
    /// It asks on.
    Challenge(Vec<u8>),
    /// It is content.
    Ok { account: Arc<Account>, last: Option<Vec<u8>> },
    /// It says no; `user`: to whom, by the name that it has for whatever the client called it.
    No { failure: AuthFailure, user: Option<String> },
}

/// A connection, line by line.
struct Line {
    stream: BufReader<UnixStream>,
}

impl DovecotAccounts {
    /// Nothing is asked yet.
    pub fn new(settings: DovecotSettings) -> Self {
        // What every Dovecot offers, until it says what this one does.
        let offered = RwLock::new(vec![Mechanism::Plain, Mechanism::Login]);
        Self { settings, places: Arc::new(Semaphore::new(MOST)), offered }
    }

    /// Whether it does a mechanism, by what it said last.
    pub fn offers(&self, mechanism: Mechanism) -> bool {
        self.offered.read().unwrap_or_else(PoisonError::into_inner).contains(&mechanism)
    }

    /// Whether it may be asked for accounts that have proven by other means who they are.
    pub fn knows_users(&self) -> bool {
        self.settings.users.is_some()
    }

    /// Asks what it offers.
    pub async fn learn(&self) {
        if let Err(problem) = tokio::time::timeout(self.settings.timeout, self.connect()).await.unwrap_or_else(late) {
            error!(socket = %self.settings.socket.display(), %problem, "Dovecot cannot be asked what it offers");
        }
    }

    /// Begins an exchange with the client's first message, if it came with one.
    pub async fn begin(
        &self,
        mechanism: Mechanism,
        peer: SocketAddr,
        initial: Option<&[u8]>,
    ) -> Result<(Conversation, Said), AuthFailure> {
        let timeout = self.settings.timeout;
        let place = tokio::time::timeout(timeout, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = place else {
            return Err(AuthFailure::Unavailable("too many wait for Dovecot".to_owned()));
        };
        let work = async {
            let mut line = self.connect().await?;
            line.write(&request(mechanism, peer, initial)).await?;
            let said = line.answer().await?;
            Ok((line, said))
        };
        match tokio::time::timeout(timeout, work).await.unwrap_or_else(late) {
            Ok((line, said)) => Ok((Conversation { line, timeout, _place: place }, judge(&said)?)),
            Err(problem) => Err(self.unavailable(&problem)),
        }
    }

    /// The account of that name, if Dovecot may be asked for accounts.
    pub async fn find(&self, name: &str) -> Result<Option<Arc<Account>>, Unavailable> {
        let Some(users) = &self.settings.users else { return Ok(None) };
        let work = async {
            let mut line = Line { stream: BufReader::new(UnixStream::connect(users).await?) };
            line.write(&format!("VERSION\t1\t0\nUSER\t1\t{}\tservice=smtp\n", escape(name))).await?;
            for _ in 0..MOST_LINES {
                let text = line.read().await?;
                let mut fields = text.split('\t');
                match (fields.next().unwrap_or_default(), fields.next()) {
                    ("USER", Some("1")) => {
                        let named = fields.next().and_then(|user| normalise(&unescape(user)).ok());
                        return Ok(Some(Arc::new(account(named.as_deref().unwrap_or(name), fields))));
                    }
                    ("NOTFOUND", Some("1")) => return Ok(None),
                    ("FAIL", Some("1")) => return Err(io::Error::other("it could not look the account up")),
                    _ => {}
                }
            }
            Err(io::Error::other("it does not come to the point"))
        };
        let found = tokio::time::timeout(self.settings.timeout, work).await.unwrap_or_else(late);
        found.map_err(|problem| {
            error!(socket = %users.display(), account = name, %problem, "Dovecot cannot answer");
            Unavailable(format!("Dovecot: {problem}"))
        })
    }

    /// Connects, and learns what it offers.
    async fn connect(&self) -> io::Result<Line> {
        let mut line = Line { stream: BufReader::new(UnixStream::connect(&self.settings.socket).await?) };
        // The number tells clients apart; Dovecot closes the older of two that are the same.
        let number = u32::from_be_bytes(crate::password::random()) >> 1;
        line.write(&format!("VERSION\t1\t1\nCPID\t{number}\n")).await?;
        let (mut offered, mut version) = (Vec::new(), false);
        for _ in 0..MOST_LINES {
            let text = line.read().await?;
            let mut fields = text.split('\t');
            match fields.next().unwrap_or_default() {
                "VERSION" => match fields.next() {
                    Some("1") => version = true,
                    other => return Err(io::Error::other(format!("it speaks version {}", other.unwrap_or("none")))),
                },
                "MECH" => offered.extend(fields.next().and_then(Mechanism::named)),
                "DONE" if version => {
                    // The binding of TLS 1.3 is not among what it can be told.
                    offered.retain(|one| !matches!(one, Mechanism::ScramSha256Plus | Mechanism::External));
                    *self.offered.write().unwrap_or_else(PoisonError::into_inner) = offered;
                    return Ok(line);
                }
                _ => {}
            }
        }
        Err(io::Error::other("its greeting has no end"))
    }

    fn unavailable(&self, problem: &io::Error) -> AuthFailure {
        error!(socket = %self.settings.socket.display(), %problem, "Dovecot cannot answer");
        AuthFailure::Unavailable(format!("Dovecot: {problem}"))
    }
}

impl Conversation {
    /// Hands on the client's next message.
    pub async fn step(&mut self, message: &[u8]) -> Result<Said, AuthFailure> {
        let line = line_of("CONT\t1\t", message);
        let work = async {
            self.line.write(&line).await?;
            self.line.answer().await
        };
        match tokio::time::timeout(self.timeout, work).await.unwrap_or_else(late) {
            Ok(said) => judge(&said),
            Err(problem) => {
                error!(%problem, "Dovecot cannot answer");
                Err(AuthFailure::Unavailable(format!("Dovecot: {problem}")))
            }
        }
    }
}

impl Line {
    async fn write(&mut self, text: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(text.as_bytes()).await
    }

    async fn read(&mut self) -> io::Result<String> {
        let mut text = Vec::new();
        (&mut self.stream).take(MAX_LINE).read_until(b'\n', &mut text).await?;
        if text.pop() != Some(b'\n') {
            return Err(io::Error::other("it hung up in the middle"));
        }
        String::from_utf8(text).map_err(|_| io::Error::other("it does not speak UTF-8"))
    }

    /// The answer to the one request of this connection.
    async fn answer(&mut self) -> io::Result<String> {
        for _ in 0..MOST_LINES {
            let text = self.read().await?;
            if ["OK\t1", "CONT\t1", "FAIL\t1"]
                .iter()
                .any(|kind| text == *kind || text.starts_with(&format!("{kind}\t")))
            {
                return Ok(text);
            }
        }
        Err(io::Error::other("it does not come to the point"))
    }
}

/// `AUTH`; `resp` must stand last. TLS is always on: nothing is offered without.
fn request(mechanism: Mechanism, peer: SocketAddr, initial: Option<&[u8]>) -> Zeroizing<String> {
    let text = format!(
        "AUTH\t1\t{mechanism}\tservice=smtp\tsecured\tfinal-resp-ok\trip={}\trport={}",
        peer.ip().to_canonical(),
        peer.port()
    );
    match initial {
        Some(initial) => line_of(&(text + "\tresp="), initial),
        None => Zeroizing::new(text + "\n"),
    }
}

/// A line that ends with what the client said, which may be its password: it is wiped, and never moved while it grows.
fn line_of(before: &str, message: &[u8]) -> Zeroizing<String> {
    let mut line = Zeroizing::new(String::with_capacity(before.len() + message.len().div_ceil(3) * 4 + 1));
    line.push_str(before);
    BASE64_STANDARD.encode_string(message, &mut line);
    line.push('\n');
    line
}

/// What an answer means.
fn judge(line: &str) -> Result<Said, AuthFailure> {
    let mut fields = line.split('\t');
    let kind = fields.next().unwrap_or_default();
    let mut fields = fields.skip(1);
    let broken = || AuthFailure::Unavailable("Dovecot: it answers in no way that makes sense".to_owned());
    match kind {
        "CONT" => {
            let text = fields.next().unwrap_or_default();
            BASE64_STANDARD.decode(text).map(Said::Challenge).map_err(|_| broken())
        }
        "OK" => {
            let fields: Vec<&str> = fields.collect();
            let value = |key: &str| fields.iter().find_map(|field| field.strip_prefix(key)?.strip_prefix('='));
            let user = value("user").and_then(|user| normalise(&unescape(user)).ok());
            if fields.contains(&"nologin") {
                return Ok(Said::No { failure: AuthFailure::Disabled, user });
            }
            let name = user.ok_or_else(broken)?;
            let last = value("resp").map(|text| BASE64_STANDARD.decode(text)).transpose().map_err(|_| broken())?;
            let last = last.filter(|text| !text.is_empty());
            Ok(Said::Ok { account: Arc::new(account(&name, fields.iter().copied())), last })
        }
        _ => refusal(fields),
    }
}

/// Why it failed: `temp` is no fault of the client, `user_disabled` is told.
fn refusal<'a>(fields: impl Iterator<Item = &'a str>) -> Result<Said, AuthFailure> {
    let (mut failure, mut user) = (AuthFailure::Credentials, None);
    for field in fields {
        match field {
            "temp" | "code=temp_fail" => {
                return Err(AuthFailure::Unavailable(
                    "Dovecot could not look the account up; its own log says why".to_owned(),
                ));
            }
            "user_disabled" | "code=user_disabled" => failure = AuthFailure::Disabled,
            field => user = field.strip_prefix("user=").and_then(|user| normalise(&unescape(user)).ok()).or(user),
        }
    }
    Ok(Said::No { failure, user })
}

/// An account with what the fields say that it may send as, and how much.
fn account<'a>(name: &str, fields: impl Iterator<Item = &'a str>) -> Account {
    let (mut account, mut limits) = (Account::plain(name), AccountLimits::default());
    for (key, value) in fields.filter_map(|field| field.split_once('=')) {
        if key == "send_as" {
            match SendAs::parse(unescape(value).split([',', ' ']).filter(|rule| !rule.is_empty())) {
                Ok(send_as) => account.send_as = send_as,
                Err(problem) => warn!(account = name, %problem, "Dovecot's send_as is left out"),
            }
        } else if let Some(limit) = Limit::named(key) {
            match value.parse() {
                Ok(most) => limits.set(limit, most),
                Err(_) => warn!(account = name, limit = key, "a limit of Dovecot's is no number; it is left out"),
            }
        }
    }
    account.limits = limits.if_any();
    account
}

/// Takes tabs and line ends out of a value, as Dovecot does.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{1}' => escaped.push_str("\u{1}1"),
            '\t' => escaped.push_str("\u{1}t"),
            '\n' => escaped.push_str("\u{1}n"),
            '\r' => escaped.push_str("\u{1}r"),
            '\0' => escaped.push_str("\u{1}0"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        plain.extend(match c {
            '\u{1}' => match characters.next() {
                Some('1') => Some('\u{1}'),
                Some('t') => Some('\t'),
                Some('n') => Some('\n'),
                Some('r') => Some('\r'),
                Some('0') => Some('\0'),
                other => other,
            },
            c => Some(c),
        });
    }
    plain
}

fn late<T>(_: tokio::time::error::Elapsed) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer in time"))
}

impl fmt::Debug for DovecotAccounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DovecotAccounts({})", self.settings.socket.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(line: &str) -> AuthFailure {
        match judge(line) {
            Ok(Said::No { failure, user }) => {
                assert_eq!(user.as_deref(), Some("joe"), "who it is is told with a verdict");
                failure
            }
            Err(failure) => failure,
            Ok(_) => panic!("{line} is no failure"),
        }
    }

    #[test]
    fn answers_are_understood() {
        assert!(matches!(judge("CONT\t1\tUGFzcw=="), Ok(Said::Challenge(text)) if text == b"Pass"));
        assert!(matches!(judge("CONT\t1\t"), Ok(Said::Challenge(text)) if text.is_empty()));
        let ok = "OK\t1\tuser=Joe@example.org\tsend_as=a@b.test,*@c.test\tmessages_per_day=7\tresp=dj14";
        let Ok(Said::Ok { account, last }) = judge(ok) else { panic!("not understood") };
        assert_eq!(account.limits, Some(AccountLimits { messages_per_day: Some(7), ..Default::default() }));
        assert_eq!(
            (account.name.as_str(), account.send_as.describe().as_str()),
            ("joe@example.org", "a@b.test, *@c.test")
        );
        assert_eq!(last.as_deref(), Some(&b"v=x"[..]));
        assert_eq!(failure("FAIL\t1\tuser=Joe"), AuthFailure::Credentials);
        assert_eq!(failure("FAIL\t1\tuser=joe\tuser_disabled"), AuthFailure::Disabled);
        assert_eq!(failure("FAIL\t1\tuser=joe\tcode=user_disabled"), AuthFailure::Disabled);
        assert_eq!(failure("OK\t1\tuser=joe\tnologin"), AuthFailure::Disabled);
        for temporary in ["FAIL\t1\tuser=joe\ttemp", "FAIL\t1\tcode=temp_fail", "OK\t1", "CONT\t1\t!"] {
            assert!(matches!(failure(temporary), AuthFailure::Unavailable(_)), "{temporary}");
        }
    }

    #[test]
    fn a_line_with_a_password_is_made_in_one_piece() {
        for length in 0..5 {
            let line = line_of("CONT\t1\t", &b"pencils"[..length]);
            assert_eq!(line.len(), line.capacity());
            assert_eq!(*line, format!("CONT\t1\t{}\n", BASE64_STANDARD.encode(&b"pencils"[..length])));
        }
    }

    #[test]
    fn names_cannot_add_fields() {
        let nasty = "a\tb\nc\u{1}d\r\0";
        assert!(!escape(nasty).contains(['\t', '\n', '\r', '\0']));
        assert_eq!(unescape(&escape(nasty)), nasty);
    }
}
