//! What happened, line by line: kept as a hash always, and as text when somebody wants to read it.

use std::fmt;
use std::hash::Hasher;
use std::time::Duration;

/// The story of a run.
#[derive(Debug)]
pub struct Trace {
    hash: Fnv,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// An empty one.
    pub fn new(keeps_text: bool) -> Self {
        Self { hash: Fnv(0xcbf2_9ce4_8422_2325), lines: keeps_text.then(Vec::new) }
    }

    /// Something happened.
    pub fn note(&mut self, age: Duration, what: fmt::Arguments<'_>) {
        self.hash.write_u128(age.as_micros());
        match &mut self.lines {
            Some(lines) => {
                let line = format!("{:>12.3}  {what}", age.as_secs_f64());
                self.hash.write(&line.as_bytes()[14..]);
                lines.push(line);
            }
            // Formatted straight into the hash.
            None => drop(fmt::Write::write_fmt(&mut self.hash, what)),
        }
    }

    /// One number for all of it.
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// The lines, if they were kept.
    pub fn take_lines(&mut self) -> Vec<String> {
        self.lines.as_mut().map(std::mem::take).unwrap_or_default()
    }
}

/// FNV-1a: the same on every machine.
#[derive(Debug)]
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, octets: &[u8]) {
        for octet in octets {
            self.0 = (self.0 ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write(text.as_bytes());
        Ok(())
    }
}
