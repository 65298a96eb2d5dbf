//! Lists of addresses in header fields (RFC 5322 §3.4): whose a message says it is.
//!
//! Display names, comments, groups, folding and the obsolete forms of §4.4 are read and dropped; what is left are the
//! mailboxes. A text that could be read in two ways is refused: a reader further on might choose the other one.

use crate::address::{AddressError, Mailbox, Utf8};

/// Why the value of a field cannot be read as addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailboxesError {
    /// It is not UTF-8.
    #[error("it is neither ASCII nor UTF-8")]
    Encoding,
    /// A quote, a comment or a bracket is not closed.
    #[error("a quote, a comment or a bracket is not closed")]
    Open,
    /// The grammar is broken.
    #[error("it is not a list of addresses such as: Anna Example <anna@example.org>")]
    Syntax,
    /// An address breaks its grammar.
    #[error("{0}")]
    Address(#[from] AddressError),
}

/// The mailboxes of a field's value, folded or not, in their order. A group counts for its members.
pub fn mailboxes(value: &[u8]) -> Result<Vec<Mailbox>, MailboxesError> {
    let text = std::str::from_utf8(value).map_err(|_| MailboxesError::Encoding)?;
    let tokens = tokens(text)?;
    let mut list = List { tokens: &tokens, found: Vec::new() };
    list.read(false)?;
    if list.tokens.is_empty() { Ok(list.found) } else { Err(MailboxesError::Syntax) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    /// Atom or part of one.
    Atom(&'a str),
    /// With its quotes.
    Quoted(&'a str),
    /// With its brackets.
    Literal(&'a str),
    /// `< > @ , ; : .`
    Special(char),
}

/// Cuts the text up; white space and comments are gone then.
fn tokens(text: &str) -> Result<Vec<Token<'_>>, MailboxesError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            ' ' | '\t' | '\r' | '\n' => 1,
            '(' => comment(rest)?,
            '"' => {
                let length = closed(rest, '"')?;
                tokens.push(Token::Quoted(&rest[..length]));
                length
            }
            '[' => {
                let length = closed(rest, ']')?;
                tokens.push(Token::Literal(&rest[..length]));
                length
            }
            '<' | '>' | '@' | ',' | ';' | ':' | '.' => {
                tokens.push(Token::Special(first));
                1
            }
            ')' | ']' | '\\' => return Err(MailboxesError::Syntax),
            c if c.is_control() => return Err(MailboxesError::Syntax),
            _ => {
                let ends = |c: char| c.is_ascii_whitespace() || c.is_control() || "()<>[]:;@\\,.\"".contains(c);
                let length = rest.find(ends).unwrap_or(rest.len());
                tokens.push(Token::Atom(&rest[..length]));
                length
            }
        };
        rest = &rest[length..];
    }
    Ok(tokens)
}

/// The length of the comment, which may hold others, that the text begins with.
fn comment(text: &str) -> Result<usize, MailboxesError> {
    let (mut depth, mut characters) = (0usize, text.char_indices());
    while let Some((at, c)) = characters.next() {
        match c {
            '(' => depth += 1,
            ')' if depth == 1 => return Ok(at + 1),
            ')' => depth -= 1,
            '\\' => drop(characters.next()),
            _ => {}
        }
    }
    Err(MailboxesError::Open)
}

/// The length up to and with the closing character.
fn closed(text: &str, close: char) -> Result<usize, MailboxesError> {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        match c {
            '\\' => drop(characters.next()),
            c if c == close => return Ok(at + c.len_utf8()),
            _ => {}
        }
    }
    Err(MailboxesError::Open)
}

struct List<'t, 'a> {
    tokens: &'t [Token<'a>],
    found: Vec<Mailbox>,
}

impl<'a> List<'_, 'a> {
    /// Addresses between commas, up to the end or, inside a group, to its semicolon. RFC 5322 §4.4: elements may be empty.
    fn read(&mut self, in_group: bool) -> Result<(), MailboxesError> {
        loop {
            match self.peek() {
                None | Some(Token::Special(';')) => return Ok(()),
                Some(Token::Special(',')) => {
                    self.next();
                    continue;
                }
                Some(_) => self.address(in_group)?,
            }
            match self.peek() {
                None | Some(Token::Special(',')) => {}
                Some(Token::Special(';')) if in_group => {}
                Some(_) => return Err(MailboxesError::Syntax),
            }
        }
    }

    /// One mailbox, or a group.
    fn address(&mut self, in_group: bool) -> Result<(), MailboxesError> {
        let words = self.words();
        match self.peek() {
            Some(Token::Special('<')) => {
                self.next();
                self.skip_route()?;
                let local = self.words();
                self.addr_spec(local)?;
                self.expect('>')
            }
            Some(Token::Special('@')) => self.addr_spec(words),
            Some(Token::Special(':')) if !in_group && !words.is_empty() => {
                self.next();
                self.read(true)?;
                self.expect(';')
            }
            _ => Err(MailboxesError::Syntax),
        }
    }

    /// Words and dots: a display name, or the local part of an address.
    fn words(&mut self) -> Vec<Token<'a>> {
        let is_word = |token: &&Token<'_>| matches!(token, Token::Atom(_) | Token::Quoted(_) | Token::Special('.'));
        let words: Vec<_> = self.tokens.iter().take_while(is_word).copied().collect();
        self.tokens = &self.tokens[words.len()..];
        words
    }

    /// RFC 5322 §4.4: `@a,@b:` in front of an address means nothing any more.
    fn skip_route(&mut self) -> Result<(), MailboxesError> {
        if !matches!(self.peek(), Some(Token::Special('@' | ','))) {
            return Ok(());
        }
        let colon = self.tokens.iter().position(|token| *token == Token::Special(':')).ok_or(MailboxesError::Syntax)?;
        let is_route =
            |token: &Token<'_>| matches!(token, Token::Atom(_) | Token::Literal(_) | Token::Special('@' | ',' | '.'));
        if !self.tokens[..colon].iter().all(is_route) {
            return Err(MailboxesError::Syntax);
        }
        self.tokens = &self.tokens[colon + 1..];
        Ok(())
    }

    /// `local@domain`, whose local part has been read.
    fn addr_spec(&mut self, local: Vec<Token<'a>>) -> Result<(), MailboxesError> {
        self.expect('@')?;
        let host = match self.peek() {
            Some(Token::Literal(_)) => vec![self.tokens[0]],
            _ => {
                let is_host = |token: &&Token<'_>| matches!(token, Token::Atom(_) | Token::Special('.'));
                self.tokens.iter().take_while(is_host).copied().collect()
            }
        };
        self.tokens = &self.tokens[host.len()..];
        let text = format!("{}@{}", joined(&local)?, joined(&host)?);
        self.found.push(Mailbox::parse(&text, Utf8::Allowed)?);
        Ok(())
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.first().copied()
    }

    fn next(&mut self) {
        self.tokens = self.tokens.get(1..).unwrap_or_default();
    }

    fn expect(&mut self, special: char) -> Result<(), MailboxesError> {
        if self.peek() != Some(Token::Special(special)) {
            return Err(MailboxesError::Syntax);
        }
        self.next();
        Ok(())
    }
}

/// Words with a dot between each two, as one text; white space and comments around the dots are gone.
fn joined(words: &[Token<'_>]) -> Result<String, MailboxesError> {
    let mut text = String::new();
    for (at, word) in words.iter().enumerate() {
        match (at % 2, word) {
            (0, Token::Atom(part) | Token::Quoted(part) | Token::Literal(part)) => text.push_str(part),
            (1, Token::Special('.')) => text.push('.'),
            _ => return Err(MailboxesError::Syntax),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Vec<String>, MailboxesError> {
        Ok(mailboxes(text.as_bytes())?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn what_people_write_is_read() {
        for (text, expected) in [
            (" anna@example.org", &["anna@example.org"][..]),
            ("Anna Example <anna@example.org>", &["anna@example.org"]),
            ("\"Example, Anna <x@y>\" <anna@example.org>", &["anna@example.org"]),
            ("J. R. <anna@example.org>, bob@b.example", &["anna@example.org", "bob@b.example"]),
            ("=?utf-8?q?J=C3=B6rg?= <joerg@example.org>", &["joerg@example.org"]),
            ("Jörg <jörg@example.org>", &["jörg@example.org"]),
            ("anna@example.org (Anna (the first), \\) x@y)", &["anna@example.org"]),
            ("Team: a@x.example, B <b@x.example>;", &["a@x.example", "b@x.example"]),
            ("undisclosed:;", &[]),
            ("a@x.example,\r\n\t,b@x.example", &["a@x.example", "b@x.example"]),
            ("<@route.example,@b.example:a@x.example>", &["a@x.example"]),
            ("a . b @ x . example", &["a.b@x.example"]),
            ("\"a b\"@[192.0.2.1]", &["\"a b\"@[192.0.2.1]"]),
            ("", &[]),
        ] {
            assert_eq!(read(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "Anna",
            "Example, Anna <anna@example.org>",
            "boss@bank.example <anna@example.org>",
            "<anna@example.org> <b@x.example>",
            "anna@example.org b@x.example",
            "<anna@example.org",
            "\"Anna <anna@example.org>",
            "anna@example.org (open",
            "Anna <>",
            "a: b: c@x.example;;",
            "a: b@x.example",
            "b@x.example;",
            "anna@@example.org",
            "anna@exa mple.org",
            "a b@example.org",
            "a..b@example.org",
            "anna\\@x.example",
            "anna@example.org\0",
        ] {
            assert!(read(text).is_err(), "{text:?} gives {:?}", read(text));
        }
        assert_eq!(mailboxes(b"J\xf6rg <a@x.example>"), Err(MailboxesError::Encoding));
    }

    proptest! {
        #[test]
        fn arbitrary_octets_never_panic(value in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = mailboxes(&value);
        }

        #[test]
        fn whatever_is_found_stands_there(text in "[a-z@<>,.\"() :;\\\\]{0,40}") {
            for mailbox in mailboxes(text.as_bytes()).unwrap_or_default() {
                prop_assert!(mailbox.to_string().len() <= text.len());
            }
        }
    }
}
