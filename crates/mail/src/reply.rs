//! Replies (RFC 5321 §4.2) and enhanced status codes (RFC 3463).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest text line of a reply that we make or keep, in octets (RFC 5321 §4.5.3.1.5: 512 with code and CRLF).
pub const MAX_TEXT: usize = 500;
/// The most lines of a reply that we keep.
pub const MAX_LINES: usize = 100;

/// `class.subject.detail` (RFC 3463 §2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EnhancedCode {
    /// 2 success, 4 persistent transient failure, 5 permanent failure.
    pub class: u8,
    /// 0 to 7: address, mailbox, system, network, protocol, content, policy.
    pub subject: u16,
    /// Up to three digits.
    pub detail: u16,
}

impl EnhancedCode {
    /// From its three numbers.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }

    /// Reads `5.1.1` at the start of `text`; gives what follows it and one space.
    pub fn take(text: &str) -> Option<(Self, &str)> {
        let (code, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut parts = code.split('.');
        let mut number = |most: usize| {
            let part = parts.next()?;
            let proper = !part.is_empty() && part.len() <= most && part.bytes().all(|b| b.is_ascii_digit());
            if proper { part.parse::<u16>().ok() } else { None }
        };
        let (class, subject, detail) = (number(1)?, number(3)?, number(3)?);
        if parts.next().is_some() || !matches!(class, 2 | 4 | 5) {
            return None;
        }
        Some((Self::new(class as u8, subject, detail), rest))
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl fmt::Debug for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A reply: a code from 200 to 599, an enhanced code where there is one, and one line of text or more.
///
/// Its lines hold no control characters, so that it can be put on the wire, into a log or into a report as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct Reply {
    code: u16,
    enhanced: Option<EnhancedCode>,
    lines: Vec<Box<str>>,
}

/// What of a reply is stored.
#[derive(Serialize, Deserialize)]
struct Parts {
    code: u16,
    enhanced: Option<EnhancedCode>,
    lines: Vec<Box<str>>,
}

impl Reply {
    /// A reply of one line. Control characters of `text` become `?`, an overlong one is cut, a code out of range is
    /// treated as 451.
    pub fn new(code: u16, enhanced: impl Into<Option<EnhancedCode>>, text: impl AsRef<str>) -> Self {
        Self::with_lines(code, enhanced, [text])
    }

    /// A reply of several lines, made harmless the same way; at least one line and at most [`MAX_LINES`].
    pub fn with_lines<T: AsRef<str>>(
        code: u16,
        enhanced: impl Into<Option<EnhancedCode>>,
        lines: impl IntoIterator<Item = T>,
    ) -> Self {
        let mut lines: Vec<Box<str>> = lines.into_iter().take(MAX_LINES).map(|line| harmless(line.as_ref())).collect();
        if lines.is_empty() {
            lines.push("".into());
        }
        let code = if (200..600).contains(&code) { code } else { 451 };
        Self { code, enhanced: enhanced.into(), lines }
    }

    /// The three-digit code.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced code, if it has one.
    pub fn enhanced(&self) -> Option<EnhancedCode> {
        self.enhanced
    }

    /// The text lines without codes; at least one.
    pub fn lines(&self) -> impl ExactSizeIterator<Item = &str> {
        self.lines.iter().map(AsRef::as_ref)
    }

    /// All text in one line.
    pub fn text(&self) -> String {
        self.lines.join(" ")
    }

    /// 2yz.
    pub fn is_positive(&self) -> bool {
        self.code < 300
    }

    /// 3yz: go on.
    pub fn is_intermediate(&self) -> bool {
        (300..400).contains(&self.code)
    }

    /// 4yz: try again later.
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// 5yz: do not try again.
    pub fn is_permanent(&self) -> bool {
        self.code >= 500
    }

    /// The enhanced code, or the one that the basic code stands for (RFC 3463 §2; x.0.0 where nothing is known).
    pub fn status(&self) -> EnhancedCode {
        let class = if self.code < 400 {
            2
        } else if self.code < 500 {
            4
        } else {
            5
        };
        match self.enhanced {
            Some(code) if code.class == class => code,
            _ => EnhancedCode::new(class, 0, 0),
        }
    }

    /// Appends the reply as it stands on the wire, each line with its code and CRLF.
    pub fn write_to(&self, out: &mut impl Extend<u8>) {
        let last = self.lines.len() - 1;
        for (at, line) in self.lines.iter().enumerate() {
            let separator = if at == last { ' ' } else { '-' };
            let head = match self.enhanced {
                Some(enhanced) => format!("{}{separator}{enhanced} ", self.code),
                None => format!("{}{separator}", self.code),
            };
            out.extend(head.bytes());
            out.extend(line.bytes());
            out.extend(*b"\r\n");
        }
    }
}

/// Text without control characters and of bounded length; what is ASCII stays as it is.
fn harmless(text: &str) -> Box<str> {
    if text.len() <= MAX_TEXT && !text.contains(char::is_control) {
        return text.into();
    }
    let mut clean = String::with_capacity(text.len().min(MAX_TEXT));
    for c in text.chars() {
        if clean.len() + c.len_utf8() > MAX_TEXT {
            break;
        }
        clean.push(match c {
            '\t' => ' ',
            c if c.is_control() => '?',
            c => c,
        });
    }
    clean.into()
}

/// In one line: `550 5.1.1 no such user`.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.code)?;
        if let Some(enhanced) = self.enhanced {
            write!(f, "{enhanced} ")?;
        }
        f.write_str(&self.text())
    }
}

impl TryFrom<Parts> for Reply {
    type Error = &'static str;

    fn try_from(parts: Parts) -> Result<Self, Self::Error> {
        if !(200..600).contains(&parts.code) {
            return Err("a reply code lies between 200 and 599");
        }
        Ok(Self::with_lines(parts.code, parts.enhanced, parts.lines))
    }
}

impl From<Reply> for Parts {
    fn from(reply: Reply) -> Self {
        Self { code: reply.code, enhanced: reply.enhanced, lines: reply.lines }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn on_the_wire() {
        let mut out = Vec::new();
        Reply::with_lines(250, EnhancedCode::new(2, 1, 0), ["one", "two"]).write_to(&mut out);
        assert_eq!(out, b"250-2.1.0 one\r\n250 2.1.0 two\r\n");
        assert_eq!(Reply::new(221, None, "bye").to_string(), "221 bye");
    }

    #[test]
    fn enhanced_codes() {
        assert_eq!(EnhancedCode::take("5.1.10 no"), Some((EnhancedCode::new(5, 1, 10), "no")));
        for bad in ["", "5", "5.1", "5.1.1.1 x", "3.1.1 x", "5.1.1234 x", "5..1 x", "5.a.1 x", "+5.1.1 x"] {
            assert_eq!(EnhancedCode::take(bad), None, "{bad}");
        }
        // A class that contradicts the basic code is not believed.
        assert_eq!(Reply::new(450, EnhancedCode::new(5, 1, 1), "").status(), EnhancedCode::new(4, 0, 0));
    }

    proptest! {
        #[test]
        fn never_holds_a_line_end(code in any::<u16>(), text in any::<String>()) {
            let reply = Reply::new(code, None, text);
            prop_assert!((200..600).contains(&reply.code()));
            let printed = reply.to_string();
            prop_assert!(!printed.contains(char::is_control));
            let mut out = Vec::new();
            reply.write_to(&mut out);
            prop_assert!(out.len() <= 512);
        }
    }
}
