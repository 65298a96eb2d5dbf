//! What was acknowledged, and what became of it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Sinks;
use crate::letters::{Arrival, Kind, Letter, Sent};

/// Both sides of a run.
#[derive(Default)]
pub struct Ledger {
    /// Messages that were acknowledged to a client.
    pub sent: Vec<Sent>,
    /// Messages that the server said it took responsibility for, with their senders; reports are its own.
    accepted: HashMap<String, String>,
    /// What the log of an earlier life says was delivered: durable, and never to be sent again.
    claimed: HashSet<(String, String)>,
    /// How often a recipient's message arrived.
    copies: HashMap<(Option<String>, String), u32>,
    /// Recipients of which something arrived.
    recipients: HashSet<String>,
    /// Queue ids by the trace of what arrived.
    ids: HashSet<String>,
    /// The reports that told a sender that a recipient failed, and how often each arrived.
    told: HashMap<String, HashMap<String, u32>>,
    /// To whom reports went.
    reports: HashSet<String>,
    /// Messages that are not as they were sent.
    pub broken: Vec<String>,
    /// What arrived again though its outcome had been durable at the kill.
    pub beyond_the_window: Vec<String>,
    /// The longest start in milliseconds.
    slowest: u64,
    /// Messages in the queue at the last start.
    pub taken_up: u64,
    /// Queue ids of messages that are still there at the end.
    pub left: HashSet<String>,
}

impl Ledger {
    /// Takes what arrives within this time, and what has arrived already.
    pub fn collect(&mut self, sinks: &Sinks, time: Duration) {
        let end = Instant::now() + time;
        loop {
            for sink in sinks.all() {
                while let Some(mail) = sink.next_within(Duration::ZERO) {
                    self.take(Arrival::of(mail));
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(5)));
        }
    }

    fn take(&mut self, arrival: Arrival) {
        if let Letter::Report { name, failed } = &arrival.letter {
            self.reports.extend(arrival.to);
            for recipient in failed {
                *self.told.entry(recipient.clone()).or_default().entry(name.clone()).or_default() += 1;
            }
            return;
        }
        if !arrival.whole {
            self.broken.push(format!("{:?} for {:?}", arrival.letter, arrival.to));
        }
        self.ids.extend(arrival.id.clone());
        for recipient in arrival.to {
            let key = (arrival.id.clone().unwrap_or_default(), recipient.clone());
            if self.claimed.contains(&key) {
                self.beyond_the_window.push(format!("{} for {recipient}", key.0));
            }
            *self.copies.entry((arrival.id.clone(), recipient.clone())).or_default() += 1;
            self.recipients.insert(recipient);
        }
    }

    /// The log of a life that was ended.
    pub fn end_life(&mut self, log: &[Value]) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        for line in log {
            let Some(message) = text(&line["message"]) else { continue };
            match line["event"].as_str() {
                Some("accepted") if line["sender"] != "<>" => {
                    self.accepted.extend(text(&line["sender"]).map(|sender| (message, sender)));
                }
                Some("delivered") => {
                    self.claimed.extend(text(&line["recipient"]).map(|recipient| (message, recipient)))
                }
                _ => {}
            }
        }
        let starts = log.iter().filter(|line| line["event"] == "ready").filter_map(|line| line["start_ms"].as_u64());
        self.slowest = starts.chain([self.slowest]).max().unwrap_or(0);
    }

    /// What should have arrived and has not.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let queued = |message: &&Sent| message.id.as_ref().is_some_and(|id| self.left.contains(id));
        for message in self.sent.iter().filter(|message| !queued(message)) {
            for recipient in &message.recipients {
                let there = match Kind::Refused.is(recipient) {
                    true => self.told.contains_key(recipient),
                    false => self.recipients.contains(recipient),
                };
                if !there {
                    missing.push(format!("{:?} ({} octets) for {recipient}", message.id, message.size));
                }
            }
        }
        // A message of which no recipient was taken leaves no trace but its report.
        let seen = |id: &String, sender: &String| self.ids.contains(id) || self.reports.contains(sender);
        let unseen = self.accepted.iter().filter(|(id, sender)| !seen(id, sender) && !self.left.contains(*id));
        missing.extend(unseen.map(|(id, sender)| format!("{id} from {sender} by the log")));
        missing
    }

    /// Recipients about whom more than one report was made, which must never be.
    pub fn told_anew(&self) -> Vec<String> {
        let twice = self.told.iter().filter(|(_, reports)| reports.len() > 1);
        twice.map(|(recipient, reports)| format!("{recipient} by {:?}", reports.keys())).collect()
    }

    /// A few figures on the way.
    pub fn so_far(&self) -> String {
        format!("{} accepted, {} recipients arrived", self.accepted.len(), self.copies.len())
    }

    /// All figures, for people.
    pub fn describe(&self, lost: usize) -> String {
        format!(
            "{} messages for {} recipients acknowledged to clients, {} accepted by the log; {} recipients got their mail, \
             {} of them more than once, {} of those beyond the window; of {} recipients the sender was told that they \
             failed, of {} more than once; {} messages taken up at the last start, {} left in the queue at the end; start \
             {} ms at most; {lost} lost",
            self.sent.len(),
            self.acknowledged(),
            self.accepted.len(),
            self.copies.len(),
            self.duplicates(),
            self.beyond_the_window.len(),
            self.told.len(),
            self.told_again(),
            self.taken_up,
            self.left.len(),
            self.slowest,
        )
    }

    /// The same for programs.
    pub fn to_json(&self, kills: u64, seed: u64, time: Duration, lost: usize) -> Value {
        json!({
            "kills": kills, "seed": seed, "seconds": time.as_secs(), "messages": self.sent.len(),
            "recipients": self.acknowledged(), "accepted_by_log": self.accepted.len(), "arrived": self.copies.len(),
            "duplicates": self.duplicates(), "beyond_the_window": self.beyond_the_window.len(), "told": self.told.len(),
            "told_again": self.told_again(), "taken_up": self.taken_up,
            "left": self.left.len(), "slowest_start_ms": self.slowest, "broken": self.broken.len(), "lost": lost,
        })
    }

    fn acknowledged(&self) -> usize {
        self.sent.iter().map(|message| message.recipients.len()).sum()
    }

    /// Recipients of whose failure a report arrived more than once.
    fn told_again(&self) -> usize {
        self.told.values().filter(|reports| reports.values().any(|count| *count > 1)).count()
    }

    fn duplicates(&self) -> usize {
        self.copies.values().filter(|count| **count > 1).count()
    }
}
