//! Writing for people and programs: standard output that may be closed at any time.

use std::io::{self, IsTerminal, Write};

/// Writes to standard output. A reader that has gone away (`| head`) is no error: there is nobody left to tell.
pub fn print(text: impl AsRef<[u8]>) -> io::Result<()> {
    match tell(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result,
    }
}

/// Writes to standard output what somebody must have read: a reader that has gone away is an error.
pub fn tell(text: impl AsRef<[u8]>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref()).and_then(|()| out.flush())
}

/// As [`print`](fn@print), with a line end behind.
pub fn line(text: impl std::fmt::Display) -> io::Result<()> {
    print(format!("{text}\n"))
}

/// One JSON value, over several lines on a terminal and on one line otherwise.
pub fn json(value: &impl serde::Serialize) -> io::Result<()> {
    let text =
        if io::stdout().is_terminal() { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
    line(text.map_err(io::Error::other)?)
}

/// Text without control characters, so that nothing that a peer said can play with the terminal.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
