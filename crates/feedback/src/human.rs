//! The part for people: what happened, to whom, what the server said, what to do. Plain words, short lines.

use mail::{Delivered, EnhancedCode, Fault, FaultSource, ForwardPath, Reply};

use crate::dsn::{Form, Happened, Notice, Report};
use crate::field::clean;
use crate::machine::{DELIVERY_TIME_EXPIRED, status};
use crate::notice::Action;
use crate::returned::Part;

/// Characters of a line.
const WIDTH: usize = 72;
/// Lines of a server's reply that are quoted.
const QUOTED_LINES: usize = 20;

pub(crate) fn subject(action: Action) -> &'static str {
    match action {
        Action::Failed => "Your message could not be delivered",
        Action::Delayed => "Your message is delayed; delivery is still being tried",
        Action::Relayed => "Your message was passed on",
        Action::Delivered => "Your message was delivered",
    }
}

pub(crate) fn part(report: &Report<'_>, form: Form) -> Part {
    let mut text = Text::default();
    text.paragraph(0, &format!("This is the mail server {}.", report.reporting_mta));
    for action in [Action::Failed, Action::Delayed, Action::Relayed, Action::Delivered] {
        let notices = report.notices.iter().filter(|notice| notice.happened.action() == action);
        section(&mut text, report, action, &notices.collect::<Vec<_>>());
    }
    text.paragraph(0, &format!("If you ask for help, please send this report along. Its id: {}", report.original.id));
    let media = if text.0.is_ascii() { "text/plain; charset=us-ascii" } else { "text/plain; charset=utf-8" };
    Part::text(media, "Notification", text.0.as_bytes(), form)
}

fn section(text: &mut Text, report: &Report<'_>, action: Action, notices: &[&Notice<'_>]) {
    if notices.is_empty() {
        return;
    }
    text.paragraph(0, introduction(action));
    for notice in notices {
        let address = match &notice.recipient.path {
            ForwardPath::Mailbox(mailbox) => mailbox.to_string(),
            ForwardPath::Postmaster => format!("postmaster@{}", report.reporting_mta),
        };
        text.line(2, &address);
        match notice.happened {
            Happened::Relayed(delivered) | Happened::Delivered(delivered) => success(text, delivered),
            _ => trouble(text, notice),
        }
        text.blank();
    }
}

fn introduction(action: Action) -> &'static str {
    match action {
        Action::Failed => "Your message could not be delivered to the recipients below. It will not be tried again.",
        Action::Delayed => {
            "Your message has not been delivered yet to the recipients below. You need not do anything: delivery goes on \
             being tried, and you will be told if it fails in the end."
        }
        Action::Relayed => {
            "Your message was passed on for the recipients below to a server that does not confirm delivery. You may \
             not hear of it again."
        }
        Action::Delivered => "Your message was delivered to the recipients below.",
    }
}

fn success(text: &mut Text, delivered: &Delivered) {
    if !delivered.host.is_empty() {
        text.line(4, &format!("It was taken by {}.", server(&delivered.host, delivered.address)));
    }
}

fn trouble(text: &mut Text, notice: &Notice<'_>) {
    let happened = &notice.happened;
    match happened {
        Happened::Expired(_) if status(happened) == DELIVERY_TIME_EXPIRED => {
            text.line(4, "The time within which it was to be delivered is over.");
        }
        Happened::Expired(_) => text.line(4, "It was tried for as long as this server keeps trying, without success."),
        _ => {}
    }
    match happened.fault() {
        Some(fault) => reason(text, fault),
        None => text.line(4, "No attempt could be made."),
    }
    if let Happened::Delayed { until, .. } = happened {
        text.line(4, &format!("It will be tried until {}.", until.rfc5322()));
    } else {
        text.line(4, &format!("What you can do: {}", advice(notice)));
    }
}

fn reason(text: &mut Text, fault: &Fault) {
    match &fault.by {
        FaultSource::Peer { host, address } => {
            text.line(4, &format!("The server {} said:", server(host, *address)));
            quote(text, &fault.reply);
        }
        FaultSource::Local => text.line(4, &format!("The reason: {} ({})", fault.reply.text(), fault.reply.status())),
    }
}

fn quote(text: &mut Text, reply: &Reply) {
    let enhanced = reply.enhanced().map(|code| format!("{code} ")).unwrap_or_default();
    for line in reply.lines().take(QUOTED_LINES) {
        text.line(6, &format!("{} {enhanced}{line}", reply.code()));
    }
    if reply.lines().len() > QUOTED_LINES {
        text.line(6, "[...]");
    }
}

fn server(host: &str, address: Option<std::net::IpAddr>) -> String {
    match address {
        Some(address) => format!("{host} [{address}]"),
        None => host.to_owned(),
    }
}

/// What a sender can do, by the status (RFC 3463 §3, IANA's registry of enhanced codes).
fn advice(notice: &Notice<'_>) -> &'static str {
    let told = notice.happened.fault().map_or_else(|| status(&notice.happened), |fault| fault.reply.status());
    let EnhancedCode { subject, detail, .. } = told;
    match (subject, detail) {
        (1, 2 | 10) | (4, 4 | 3) => {
            "check the part of the address behind the @. The domain may be misspelled, gone, or not set up for mail."
        }
        (1, 7 | 8) => "your own address was refused. Check it in your mail program, or ask your administrator.",
        (1, _) => "check the address for mistakes, or ask the recipient in another way for the right one.",
        (2, 2) => "the mailbox is full. Send the message again later, or tell the recipient in another way.",
        (2, 3) | (3, 4) => "the message is too large. Send it without attachments, or share them in another way.",
        (2, _) => "the mailbox does not take mail now. Reach the recipient in another way.",
        (6, 7..=10) => {
            "the recipient's server does not support internationalized addresses or headers. Use an address in plain \
             ASCII letters on both sides, if there is one."
        }
        (6, _) => {
            "the recipient's server cannot take this kind of message. Send it as plain text, without attachments."
        }
        (7, _) => {
            "the recipient's server refused the message by its rules. Show this report to your administrator, or reach \
             the recipient in another way."
        }
        (3 | 4, _) => "the fault lies with a server on the way. Send the message again later.",
        _ => "send the message again later, or show this report to your administrator.",
    }
}

/// Text in short lines with CRLF. Nothing gets in unwrapped, and no control character at all.
#[derive(Default)]
struct Text(String);

impl Text {
    /// A paragraph with an empty line behind it.
    fn paragraph(&mut self, indent: usize, text: &str) {
        self.line(indent, text);
        self.blank();
    }

    fn blank(&mut self) {
        self.0.push_str("\r\n");
    }

    /// One line, or as many as it takes; those that follow are indented with it.
    fn line(&mut self, indent: usize, text: &str) {
        let room = WIDTH - indent;
        let mut column = 0;
        for word in clean(text, Form::Utf8).split(' ').filter(|word| !word.is_empty()) {
            for piece in pieces(word, room) {
                let width = piece.chars().count();
                if column > 0 && column + 1 + width > room {
                    self.blank();
                    column = 0;
                }
                self.0.extend(std::iter::repeat_n(' ', if column == 0 { indent } else { 1 }));
                self.0.push_str(&piece);
                column += width + usize::from(column > 0);
            }
        }
        self.blank();
    }
}

/// A word in pieces of at most `room` characters.
fn pieces(word: &str, room: usize) -> impl Iterator<Item = String> {
    let mut characters = word.chars().peekable();
    std::iter::from_fn(move || {
        characters.peek()?;
        Some(characters.by_ref().take(room).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_wrapped_at_words_and_long_words_cut() {
        let mut text = Text::default();
        text.line(4, &format!("one {} two\r\nthree", "x".repeat(100)));
        let lines: Vec<_> = text.0.lines().collect();
        assert_eq!(lines[0], "    one");
        assert_eq!(lines[1], format!("    {}", "x".repeat(68)));
        assert_eq!(lines[2], format!("    {} two three", "x".repeat(32)));
    }

    proptest! {
        #[test]
        fn no_line_is_long_and_none_holds_a_control_character(words in any::<String>(), indent in 0usize..8) {
            let mut text = Text::default();
            text.line(indent, &words);
            prop_assert!(text.0.ends_with("\r\n"));
            for line in text.0.split("\r\n") {
                prop_assert!(line.chars().count() <= WIDTH && !line.contains(char::is_control));
            }
        }
    }
}
