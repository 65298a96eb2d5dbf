//! Log lines: for people on a terminal, JSON for machines.
//!
//! A line has a time, a level, an `event` (what happened) and fields; all lines about a message carry its id as
//! `message`. Lines are gathered in memory and written by a thread of their own, many at once, so that a slow reader of
//! the log costs no session its turn; when the reader falls too far behind, everybody waits for it, and no line is lost.

mod lines;
mod pen;
mod story;

use std::io::IsTerminal;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::config::{Log, LogFormat, LogLevel};
use lines::{Form, Lines};
use pen::Pen;
pub use story::{Story, recipient, sender};

/// The running log. Dropping it writes what is left.
pub struct Logging {
    level: reload::Handle<Targets, Registry>,
    pen: Pen,
}

impl Logging {
    /// Starts logging to standard error. Once per process.
    pub fn start(log: &Log) -> Self {
        let (filter, level) = reload::Layer::new(targets(log.level));
        let terminal = std::io::stderr().is_terminal();
        let human = if terminal { Form::Coloured } else { Form::Human };
        let form = match log.format {
            LogFormat::Human => human,
            LogFormat::Json => Form::Json,
            LogFormat::Auto if terminal => human,
            LogFormat::Auto => Form::Json,
        };
        let pen = Pen::new(std::io::stderr());
        // It fails only if a log was started before, which then goes on.
        let _ = tracing_subscriber::registry().with(filter).with(Lines::new(form, pen.clone())).try_init();
        Self { level, pen }
    }

    /// Changes the level from now on.
    pub fn set_level(&self, level: LogLevel) {
        // It fails only when the subscriber is gone, which lives as long as the process.
        let _ = self.level.reload(targets(level));
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.pen.finish();
    }
}

/// Our own rooms at the level asked for, libraries only when they warn.
fn targets(level: LogLevel) -> Targets {
    const ROOMS: [&str; 11] = [
        "postrider",
        "reception",
        "queue",
        "delivery",
        "store",
        "dns",
        "smtp",
        "feedback",
        "shaping",
        "tls",
        "directory",
    ];
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    // It warns of whatever a name server answers, with all of it; what comes of it is told by `dns`.
    let answers = if level >= LevelFilter::DEBUG { LevelFilter::WARN } else { LevelFilter::OFF };
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("hickory_net", answers)
        .with_targets(ROOMS.map(|room| (room, level)))
}
