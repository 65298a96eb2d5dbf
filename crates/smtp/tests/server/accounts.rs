//! Whom the transcripts know, and how they are asked: as a driver with a directory behind it would.

use std::collections::BTreeMap;

use mail::{EnhancedCode, Reply};
use smtp::server::Answer;

/// Names with their passwords, and the exchange that goes on.
#[derive(Debug, Default)]
pub struct Accounts {
    passwords: BTreeMap<String, String>,
    exchange: Option<Exchange>,
}

/// What is waited for.
#[derive(Debug)]
enum Exchange {
    Plain,
    Username,
    Password(String),
    /// `X-LAST`: as SCRAM, whose last word is the server's, but without its riddles.
    Last,
}

impl Accounts {
    pub fn add(&mut self, name: &str, password: &str) {
        self.passwords.insert(name.to_owned(), password.to_owned());
    }

    pub fn begin(&mut self, mechanism: &str, initial: Option<&[u8]>) -> Answer {
        assert!(self.exchange.is_none(), "one exchange after the other");
        let (exchange, first) = match mechanism {
            "PLAIN" => (Exchange::Plain, ""),
            "LOGIN" => (Exchange::Username, "Username:"),
            "X-LAST" => (Exchange::Last, ""),
            other => panic!("the transcripts know no mechanism {other}"),
        };
        self.exchange = Some(exchange);
        match initial {
            Some(message) => self.step(message),
            None => Answer::Challenge(first.into()),
        }
    }

    pub fn step(&mut self, message: &[u8]) -> Answer {
        let text = String::from_utf8_lossy(message).into_owned();
        match self.exchange.take().expect("an exchange") {
            Exchange::Plain => match text.split('\0').collect::<Vec<_>>()[..] {
                ["", name, password] => self.verdict(name, password, None),
                _ => no(501, 5, 2),
            },
            Exchange::Username => {
                self.exchange = Some(Exchange::Password(text));
                Answer::Challenge("Password:".into())
            }
            Exchange::Password(name) => self.verdict(&name, &text, None),
            Exchange::Last => match text.split_once(' ') {
                Some((name, password)) => self.verdict(name, password, Some("v=proof".into())),
                None => no(501, 5, 2),
            },
        }
    }

    pub fn cancel(&mut self) {
        self.exchange = None;
    }

    fn verdict(&self, name: &str, password: &str, last: Option<Vec<u8>>) -> Answer {
        match self.passwords.get(name).is_some_and(|known| known == password) {
            true => Answer::Authenticated { account: name.to_owned(), last },
            false => no(535, 7, 8),
        }
    }
}

fn no(code: u16, subject: u16, detail: u16) -> Answer {
    Answer::Reply(Reply::new(code, EnhancedCode::new(5, subject, detail), "authentication failed"))
}
