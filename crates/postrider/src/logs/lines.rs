//! Turns tracing's events into lines.

use std::fmt::{self, Write as _};

use mail::{Clock, SystemClock};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::pen::Pen;

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Text.
    Human,
    /// Text with the level in colour.
    Coloured,
    /// One JSON object.
    Json,
}

/// Writes each event as one line.
pub struct Lines {
    form: Form,
    pen: Pen,
}

impl Lines {
    /// Lines of this form.
    pub fn new(form: Form, pen: Pen) -> Self {
        Self { form, pen }
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line { text: String::with_capacity(256), form: self.form, said: false };
        line.start(*event.metadata().level(), event.metadata().target());
        event.record(&mut line);
        line.text.push_str(if self.form == Form::Json { "}\n" } else { "\n" });
        self.pen.write(line.text.as_bytes());
    }
}

struct Line {
    text: String,
    form: Form,
    /// Whether the event's own text was seen: tracing calls it `message`, which for us is the message's id.
    said: bool,
}

impl Line {
    fn start(&mut self, level: Level, target: &str) {
        let time = SystemClock.now();
        let room = target.split("::").next().unwrap_or(target);
        let word = match level {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        // Writing into a string cannot fail.
        let _ = match self.form {
            Form::Json => write!(self.text, r#"{{"time":"{time}","level":"{word}","room":"{room}""#),
            Form::Human => write!(self.text, "{time} {word:5}"),
            Form::Coloured => {
                let colour = match level {
                    Level::ERROR => 31,
                    Level::WARN => 33,
                    Level::INFO => 32,
                    _ => 90,
                };
                write!(self.text, "\x1b[90m{time}\x1b[0m \x1b[{colour}m{word:5}\x1b[0m")
            }
        };
    }

    /// The name under which a field is written; nothing for the event's text among people.
    fn name(&mut self, field: &Field) -> &'static str {
        if field.name() == "message" && !self.said {
            self.said = true;
            return "event";
        }
        field.name()
    }

    fn text(&mut self, field: &Field, value: &str) {
        let name = self.name(field);
        match (self.form, name) {
            (Form::Json, _) => {
                let _ = write!(self.text, r#","{name}":"#);
                json_string(&mut self.text, value);
            }
            (_, "event") => {
                self.text.push(' ');
                self.text.extend(value.chars().map(|c| if c.is_control() { '?' } else { c }));
            }
            _ => {
                let _ = write!(self.text, " {name}=");
                let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
                if !value.is_empty() && value.chars().all(plain) {
                    self.text.push_str(value);
                } else {
                    let _ = write!(self.text, "{value:?}");
                }
            }
        }
    }

    fn raw(&mut self, field: &Field, value: impl fmt::Display) {
        let name = self.name(field);
        let _ = match self.form {
            Form::Json => write!(self.text, r#","{name}":{value}"#),
            _ => write!(self.text, " {name}={value}"),
        };
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.raw(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.raw(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.raw(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field, &value.to_string());
    }
}

/// Appends a JSON string, quotes included.
fn json_string(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Page {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(buffer);
            Ok(buffer.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(form: Form, log: impl FnOnce()) -> String {
        let page = Page::default();
        let pen = Pen::new(page.clone());
        let subscriber = tracing_subscriber::registry().with(Lines::new(form, pen.clone()));
        tracing::subscriber::with_default(subscriber, log);
        pen.finish();
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn json_lines_are_json_and_name_the_message() {
        let line = logged(Form::Json, || {
            tracing::info!(message = %"01kan", reply = "250 \"ok\"\u{7}\n", size = 7, none = None::<u64>, "accepted");
        });
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&value["event"], &value["message"]), (&"accepted".into(), &"01kan".into()));
        assert_eq!((&value["reply"], &value["size"]), (&"250 \"ok\"\u{7}\n".into(), &7.into()));
        assert_eq!(value["level"], "info");
        assert!(value.get("none").is_none());
    }

    #[test]
    fn human_lines_stay_on_one_line() {
        let line = logged(Form::Human, || tracing::warn!(message = %"01kan", reply = "a\nb", "said\x1b[2J this"));
        assert_eq!(line.lines().count(), 1);
        assert!(line.ends_with("warn  said?[2J this message=01kan reply=\"a\\nb\"\n"), "{line}");
    }
}
