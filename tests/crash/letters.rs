//! The messages that are sent, and what is made of those that arrive.

use std::collections::HashSet;

use mail::Randomness;
use serde_json::{Value, json};

use crate::harness::{Mail, Setup};

/// From so many octets on content goes to disk in chunks, with the store set up as in [`busy`].
pub const LONG: usize = 80_000;

/// Sets the store up so that everything happens often: new segments, checkpoints, compaction, content in chunks.
pub fn busy(setup: Setup) -> Setup {
    setup.segment("256KiB").store("checkpoint = \"150ms\"")
}

/// What a sink never takes: it gives a reason for a report.
pub fn refused() -> (String, String) {
    ("refused.".to_owned(), "550 5.1.1 no such person".to_owned())
}

/// What a sink does not take yet: it stays in the queue for long.
pub fn late() -> (String, String) {
    ("late.".to_owned(), "451 4.2.0 not yet".to_owned())
}

/// What becomes of a recipient, by the first word of its address and by its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The sink takes it.
    Taken,
    /// The sink takes it later.
    Late,
    /// The sink refuses it for good; the sender must be told.
    Refused,
}

impl Kind {
    /// The word that stands for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Late => "late",
            Self::Refused => "refused",
        }
    }

    /// The domain of its recipients.
    pub fn domain(self) -> String {
        format!("{}.example", self.word())
    }

    /// An address of this kind.
    pub fn address(self, name: &str) -> String {
        format!("{}.{name}@{}", self.word(), self.domain())
    }

    /// Whether a recipient is of this kind.
    pub fn is(self, recipient: &str) -> bool {
        recipient.split('.').next() == Some(self.word())
    }
}

/// A message that a client sends.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its own name, in every line of it and in all of its addresses.
    pub token: String,
    /// The queue id in the reply, if the client could read it.
    pub id: Option<String>,
    /// To whom.
    pub recipients: Vec<String>,
    /// Octets, about.
    pub size: usize,
}

impl Sent {
    /// A message by chance: mostly short ones, one of forty so long that it goes to disk in chunks, one to three
    /// recipients of all kinds.
    pub fn by_chance(token: String, randomness: &Randomness) -> Self {
        let size = match randomness.below(40) {
            0 => LONG + randomness.below(LONG),
            _ => 200 + randomness.below(8 << 10),
        };
        let recipients = (0..=randomness.below(3)).map(|place| {
            let kind = match randomness.below(20) {
                0 | 1 => Kind::Refused,
                2 | 3 => Kind::Late,
                _ => Kind::Taken,
            };
            kind.address(&format!("{token}r{place}"))
        });
        Self { recipients: recipients.collect(), token, id: None, size }
    }

    /// The address that reports go to.
    pub fn sender(&self) -> String {
        format!("sender.{}@example.org", self.token)
    }

    /// The content; its size and its token decide about every octet.
    pub fn content(&self) -> Vec<u8> {
        let mut content = format!("Subject: {}\r\nX-Size: {}\r\n\r\n", self.token, self.size).into_bytes();
        while content.len() < self.size {
            content.extend_from_slice(format!("{} {:010}\r\n", self.token, content.len()).as_bytes());
        }
        content
    }

    /// For a file.
    pub fn to_json(&self) -> Value {
        json!({ "token": self.token, "id": self.id, "recipients": self.recipients, "size": self.size })
    }

    /// From a file.
    pub fn from_json(value: &Value) -> Option<Self> {
        let recipients = value["recipients"].as_array()?.iter().filter_map(|one| Some(one.as_str()?.to_owned()));
        Some(Self {
            token: value["token"].as_str()?.to_owned(),
            id: value["id"].as_str().map(str::to_owned),
            recipients: recipients.collect(),
            size: usize::try_from(value["size"].as_u64()?).ok()?,
        })
    }
}

/// What a sink took.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Its number at the sink.
    pub number: u64,
    /// How many lives of the server were over when it was sent.
    pub life: u64,
    /// The queue id in its trace, or that of a report in its name, if it has one.
    pub id: Option<String>,
    /// For whom.
    pub to: Vec<String>,
    /// What it is.
    pub letter: Letter,
    /// Whether every octet is as it was sent.
    pub whole: bool,
}

/// Kinds of messages that arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Letter {
    /// One of ours.
    Own {
        /// Its token.
        token: String,
    },
    /// A report that these recipients failed.
    Report {
        /// Its own Message-ID.
        name: String,
        /// Their addresses.
        failed: HashSet<String>,
    },
    /// One of another client.
    Other,
}

impl Arrival {
    /// Looks at a message.
    pub fn of(mail: Mail) -> Self {
        let Mail { number, life, from, to, content, raw } = mail;
        let id = trace_id(&content);
        if from.is_empty() {
            let name = field(&content, "Message-ID: ").unwrap_or_default().to_owned();
            let id = name.split(['<', '@']).find(|word| is_id(word)).map(str::to_owned);
            let letter = Letter::Report { name, failed: failed_in(&content) };
            return Self { number, life, id, to, letter, whole: true };
        }
        let token = from.strip_prefix("sender.").and_then(|rest| rest.strip_suffix("@example.org"));
        let Some(token) = token.map(str::to_owned) else {
            return Self { number, life, id, to, letter: Letter::Other, whole: true };
        };
        let size = field(&content, "X-Size: ").and_then(|size| size.parse().ok()).unwrap_or(0);
        let sent = Sent { token, id: None, recipients: Vec::new(), size };
        let whole = raw.ends_with(&sent.content()) || is_of_a_tool(&content, &sent.token);
        Self { number, life, id, to, letter: Letter::Own { token: sent.token }, whole }
    }

    /// For a file.
    pub fn to_json(&self) -> Value {
        let (token, report, failed) = match &self.letter {
            Letter::Own { token } => (Some(token), None, None),
            Letter::Report { name, failed } => (None, Some(name), Some(failed)),
            Letter::Other => (None, None, None),
        };
        json!({ "number": self.number, "to": self.to, "token": token, "report": report, "failed": failed })
    }

    /// From a file.
    pub fn from_json(value: &Value) -> Option<Self> {
        let texts = |value: &Value| -> Option<Vec<String>> {
            value.as_array().map(|all| all.iter().filter_map(|one| Some(one.as_str()?.to_owned())).collect())
        };
        let letter = match (value["token"].as_str(), texts(&value["failed"])) {
            (Some(token), _) => Letter::Own { token: token.to_owned() },
            (None, Some(failed)) => {
                let name = value["report"].as_str().unwrap_or_default().to_owned();
                Letter::Report { name, failed: failed.into_iter().collect() }
            }
            (None, None) => Letter::Other,
        };
        let (number, to) = (value["number"].as_u64()?, texts(&value["to"])?);
        Some(Self { number, life: 0, id: None, to, letter, whole: true })
    }
}

/// What swaks and curl send ends so.
pub fn tool_body(token: &str) -> String {
    format!("end of {token}")
}

fn is_of_a_tool(content: &str, token: &str) -> bool {
    field(content, "X-Tool: ").is_some() && content.trim_end().ends_with(&tool_body(token))
}

/// The recipients that a report is about.
pub fn failed_in(report: &str) -> HashSet<String> {
    let fields = report.split("\r\n").filter_map(|line| line.strip_prefix("Final-Recipient:"));
    fields.filter_map(|field| Some(field.split_once(';')?.1.trim().to_owned())).collect()
}

fn field<'a>(content: &'a str, name: &str) -> Option<&'a str> {
    content.split("\r\n").take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix(name))
}

/// The queue id in the Received field on top.
fn trace_id(content: &str) -> Option<String> {
    let top = content.get(..content.len().min(1000)).unwrap_or(content);
    top.split([' ', '\t', ';', '\r', '\n']).find(|word| is_id(word)).map(str::to_owned)
}

/// The queue id in a reply that takes responsibility for a message.
pub fn acknowledged(line: &str) -> Option<&str> {
    line.strip_prefix("250 2.0.0 ")?.strip_suffix(" queued").filter(|id| is_id(id))
}

/// Whether a word looks like a queue id.
pub fn is_id(word: &str) -> bool {
    word.len() == 26 && word.chars().all(|c| c.is_ascii_alphanumeric())
}
