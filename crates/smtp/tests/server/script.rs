//! Reads dialogue transcripts (`tests/dialogues/*.smtp`); their form is told in `tests/dialogues/README.md`.
//!
//! It knows nothing of sessions and sockets: whoever runs a script brings the other side.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// A transcript.
#[derive(Debug)]
pub struct Script {
    /// The file's name without its ending.
    pub name: String,
    /// What the server must be told beforehand.
    pub settings: Vec<Setting>,
    /// What happens, each with its line number.
    pub steps: Vec<(usize, Step)>,
}

/// A line that starts with `%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// `%lmtp`: the listener speaks LMTP.
    Lmtp,
    /// `%repair`: the listener repairs line ends.
    Repair,
    /// `%xclient`: the client may use XCLIENT.
    Xclient,
    /// `%tls offered`, `%tls required` or `%tls implicit`.
    Tls(String),
    /// `%auth MECHANISM …`: what clients may authenticate by.
    Auth(Vec<String>),
    /// `%auth-required`: MAIL needs an account.
    AuthRequired,
    /// `%account NAME PASSWORD`.
    Account(String, String),
    /// `%offer KEY VALUE`: `future_release`, `deliver_by` in seconds, or `priority`.
    Offer(String, u64),
    /// `%segments`: what is sent together must arrive together.
    Segments,
    /// `%limit KEY VALUE`: one of the limits; durations in seconds.
    Limit(String, u64),
    /// `%refuse WHAT WHOM REPLY`: the answer to a question; `*` is everybody.
    Refuse {
        /// `mail`, `rcpt`, `begin`, `end` or `xclient`.
        what: String,
        /// The address without brackets, or `*`.
        whom: String,
        /// The reply line.
        reply: String,
    },
}

/// Anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The client sends these octets; consecutive ones form one segment.
    Send(Vec<u8>),
    /// `--`: what was sent so far has arrived and was dealt with before more is sent.
    Boundary,
    /// `S: …`: the next reply line, a pattern for [`matches`].
    Expect(String),
    /// `S~ …`: reply lines up to the one that matches, which is expected.
    Until(String),
    /// `=offers WORDS`: a line of those that `S~` took last is the code and these words.
    Offers(String),
    /// `=lacks WORD`: none of them begins with the word.
    Lacks(String),
    /// `=silence`: everything was read, and nothing more is said.
    Silence,
    /// `=close REASON`: the server closes the connection.
    Close(Option<String>),
    /// `=time SECONDS`: time passes.
    Time(Duration),
    /// `=eof`: the client closes the connection.
    Eof,
    /// `=tls`: the handshake, which both sides have agreed upon.
    Tls,
    /// `=with ESMTPSA`: how the last complete message came.
    With(String),
    /// `=content …`: the content of the last message that was complete.
    Content(Vec<u8>),
    /// `=recipients A B`: its recipients.
    Recipients(Vec<String>),
    /// `=abort`: a transaction was dropped.
    Abort,
}

/// Reads all transcripts of a folder, in the order of their names.
pub fn read_all(folder: &Path) -> Vec<Script> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "smtp"));
    files.sort();
    files.iter().map(|file| read(file)).collect()
}

/// Reads one transcript.
pub fn read(file: &Path) -> Script {
    let name = file.file_stem().unwrap().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    parse(&name, &text)
}

/// Reads the text of a transcript.
pub fn parse(name: &str, text: &str) -> Script {
    let mut script = Script { name: name.to_owned(), settings: Vec::new(), steps: Vec::new() };
    for (at, line) in text.lines().enumerate() {
        let wrong = format!("{name}.smtp:{}: not understood: {line}", at + 1);
        match line.as_bytes() {
            [] | [b'#', ..] => {}
            [b'%', ..] => script.settings.push(setting(&line[1..]).expect(&wrong)),
            _ => script.steps.push((at + 1, step(line).expect(&wrong))),
        }
    }
    script
}

/// Whether `line` is what `pattern` says; `{anything}` in a pattern stands for any text that is not empty.
pub fn matches(pattern: &str, line: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('{') else { return pattern == line };
    let Some((_, tail)) = rest.split_once('}') else { return pattern == line };
    let Some(line) = line.strip_prefix(head) else { return false };
    line.char_indices().skip(1).map(|(at, _)| at).chain([line.len()]).any(|at| at > 0 && matches(tail, &line[at..]))
}

/// Whether one of these reply lines is a code and these words.
pub fn offers(lines: &[String], words: &str) -> bool {
    lines.iter().any(|line| line.get(4..).is_some_and(|line| matches(words, line)))
}

/// Whether none of these reply lines begins, behind its code, with this word.
pub fn lacks(lines: &[String], word: &str) -> bool {
    let first = |line: &String| line.get(4..).and_then(|line| line.split(' ').next()).map(str::to_owned);
    !lines.iter().any(|line| first(line).as_deref() == Some(word))
}

fn setting(text: &str) -> Option<Setting> {
    let mut words = text.splitn(4, ' ');
    let known = match (words.next()?, words.next(), words.next(), words.next()) {
        ("lmtp", None, None, None) => Setting::Lmtp,
        ("repair", None, None, None) => Setting::Repair,
        ("xclient", None, None, None) => Setting::Xclient,
        ("segments", None, None, None) => Setting::Segments,
        ("auth-required", None, None, None) => Setting::AuthRequired,
        ("tls", Some(how @ ("offered" | "required" | "implicit")), None, None) => Setting::Tls(how.to_owned()),
        ("auth", Some(_), _, _) => Setting::Auth(text.split(' ').skip(1).map(str::to_owned).collect()),
        ("account", Some(name), Some(password), None) => Setting::Account(name.to_owned(), password.to_owned()),
        ("offer", Some(key), Some(value), None) => Setting::Offer(key.to_owned(), value.parse().ok()?),
        ("limit", Some(key), Some(value), None) => Setting::Limit(key.to_owned(), value.parse().ok()?),
        ("refuse", Some(what), Some(whom), Some(reply)) => {
            Setting::Refuse { what: what.to_owned(), whom: whom.to_owned(), reply: reply.to_owned() }
        }
        _ => return None,
    };
    Some(known)
}

fn step(line: &str) -> Option<Step> {
    if line == "--" {
        return Some(Step::Boundary);
    }
    if let Some(text) = line.strip_prefix("C: ") {
        return Some(Step::Send([text.as_bytes(), b"\r\n"].concat()));
    }
    if line == "C:" {
        return Some(Step::Send(b"\r\n".to_vec()));
    }
    if let Some(text) = line.strip_prefix("C> ") {
        return unescape(text).map(Step::Send);
    }
    if let Some(text) = line.strip_prefix("C*") {
        let (count, text) = text.split_once(' ')?;
        return Some(Step::Send(unescape(text)?.repeat(count.parse().ok()?)));
    }
    if let Some(pattern) = line.strip_prefix("S: ") {
        return Some(Step::Expect(pattern.to_owned()));
    }
    if let Some(pattern) = line.strip_prefix("S~ ") {
        return Some(Step::Until(pattern.to_owned()));
    }
    let (word, rest) = line.strip_prefix('=')?.split_once(' ').unwrap_or((&line[1..], ""));
    match word {
        "silence" => Some(Step::Silence),
        "close" => Some(Step::Close((!rest.is_empty()).then(|| rest.to_owned()))),
        "time" => rest.parse().ok().map(|seconds| Step::Time(Duration::from_secs_f64(seconds))),
        "eof" => Some(Step::Eof),
        "tls" => Some(Step::Tls),
        "offers" => Some(Step::Offers(rest.to_owned())),
        "lacks" => Some(Step::Lacks(rest.to_owned())),
        "with" => Some(Step::With(rest.to_owned())),
        "content" => unescape(rest).map(Step::Content),
        "recipients" => Some(Step::Recipients(rest.split(' ').map(str::to_owned).collect())),
        "abort" => Some(Step::Abort),
        _ => None,
    }
}

/// `\r`, `\n`, `\0`, `\\` and `\xHH`; everything else as it is.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next()? {
            b'r' => b'\r',
            b'n' => b'\n',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(out)
}
