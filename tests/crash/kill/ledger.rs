//! What was acknowledged, and what became of it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Sinks;
use super::copies::{At, Copies};
use crate::letters::{Arrival, Kind, Letter, Sent};

/// Both sides of a run.
#[derive(Default)]
pub struct Ledger {
    /// Messages that were acknowledged to a client.
    pub sent: Vec<Sent>,
    /// Messages that the server said it took responsibility for, by its log; reports are its own.
    accepted: HashMap<String, Accepted>,
    /// What the log of an earlier life says was delivered: durable, and never to be sent again.
    claimed: HashSet<(String, String)>,
    /// What arrived, but for reports.
    copies: Copies,
    /// Reports that arrived.
    reported: Copies,
    /// Recipients of which something arrived.
    recipients: HashSet<String>,
    /// The reports that told a sender that a recipient failed.
    told: HashMap<String, HashSet<String>>,
    /// Of whom each sender was told that they failed.
    told_to: HashMap<String, HashSet<String>>,
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

/// A message by the log.
struct Accepted {
    sender: String,
    recipients: usize,
}

impl Ledger {
    /// Takes what arrives within this time, and what has arrived already.
    pub fn collect(&mut self, sinks: &Sinks, time: Duration) {
        let end = Instant::now() + time;
        loop {
            for (place, sink) in sinks.all().into_iter().enumerate() {
                while let Some(mail) = sink.next_within(Duration::ZERO) {
                    self.take(place, Arrival::of(mail));
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(5)));
        }
    }

    fn take(&mut self, sink: usize, arrival: Arrival) {
        let Arrival { number, life, id, to, letter, whole } = arrival;
        if !whole {
            self.broken.push(format!("{letter:?} for {to:?}"));
        }
        let Some(id) = id else { return self.broken.push(format!("{letter:?} for {to:?} has no trace")) };
        let copies = if matches!(letter, Letter::Report { .. }) { &mut self.reported } else { &mut self.copies };
        for recipient in &to {
            let key = (id.clone(), recipient.clone());
            if self.claimed.contains(&key) {
                self.beyond_the_window.push(format!("{id} for {recipient}"));
            }
            copies.add(key.0, key.1, At { sink, number, life });
        }
        match letter {
            Letter::Report { name, failed } => {
                for recipient in failed {
                    for sender in &to {
                        self.told_to.entry(sender.clone()).or_default().insert(recipient.clone());
                    }
                    self.told.entry(recipient).or_default().insert(name.clone());
                }
            }
            Letter::Own { .. } | Letter::Other => self.recipients.extend(to),
        }
    }

    /// The log of a life that was ended.
    pub fn end_life(&mut self, log: &[Value]) {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        for line in log {
            let Some(message) = text(&line["message"]) else { continue };
            match line["event"].as_str() {
                Some("accepted") if line["sender"] != "<>" => {
                    let recipients = line["recipients"].as_u64().and_then(|count| usize::try_from(count).ok());
                    let accepted = text(&line["sender"]).zip(recipients);
                    self.accepted
                        .extend(accepted.map(|(sender, recipients)| (message, Accepted { sender, recipients })));
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
        let mut missing = self.missing_by_replies();
        missing.extend(self.missing_by_log());
        missing
    }

    /// Of what was acknowledged to a client.
    fn missing_by_replies(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let queued = |message: &&Sent| message.id.as_ref().is_some_and(|id| self.left.contains(id));
        for message in self.sent.iter().filter(|message| !queued(message)) {
            for recipient in &message.recipients {
                // What arrives bears the queue id, which is known if the client could tell it.
                let arrived = match &message.id {
                    Some(id) => self.copies.has(id, recipient),
                    None => self.recipients.contains(recipient),
                };
                let there = if Kind::Refused.is(recipient) { self.told.contains_key(recipient) } else { arrived };
                if !there {
                    missing.push(format!("{:?} ({} octets) for {recipient}", message.id, message.size));
                }
            }
        }
        missing
    }

    /// Of what the server took, whether or not a client came to know: so many recipients, so many fates.
    fn missing_by_log(&self) -> Vec<String> {
        let arrived = self.copies.by_message();
        let missing = self.accepted.iter().filter_map(|(id, Accepted { sender, recipients })| {
            let told = self.told_to.get(sender).map_or(0, HashSet::len);
            let known = arrived.get(id.as_str()).copied().unwrap_or(0) + told;
            let left = self.left.contains(id);
            (!left && known != *recipients)
                .then(|| format!("{id} from {sender} by the log: the fate of {known} of {recipients} is known"))
        });
        missing.collect()
    }

    /// What arrived again, reports too, though no kill excuses it.
    pub fn unexcused(&self, sinks: &Sinks) -> Vec<String> {
        let sinks = sinks.all();
        let answered = |at: &At| sinks[at.sink].has_answered(at.number);
        [&self.copies, &self.reported].iter().flat_map(|copies| copies.unexcused(answered)).collect()
    }

    /// Recipients about whom more than one report was made, which must never be.
    pub fn told_anew(&self) -> Vec<String> {
        let twice = self.told.iter().filter(|(_, reports)| reports.len() > 1);
        twice.map(|(recipient, reports)| format!("{recipient} by {reports:?}")).collect()
    }

    /// A few figures on the way.
    pub fn so_far(&self) -> String {
        format!("{} accepted, {} recipients arrived", self.accepted.len(), self.copies.recipients())
    }

    /// All figures, for people.
    pub fn describe(&self, lost: usize) -> String {
        format!(
            "{} messages for {} recipients acknowledged to clients, {} accepted by the log; {} recipients got their mail, \
             {} of them more than once, {} of those beyond the window; of {} recipients the sender was told that they \
             failed, by reports of which {} arrived more than once; {} messages taken up at the last start, {} left in the queue at the end; start \
             {} ms at most; {lost} lost",
            self.sent.len(),
            self.acknowledged(),
            self.accepted.len(),
            self.copies.recipients(),
            self.copies.repeated(),
            self.beyond_the_window.len(),
            self.told.len(),
            self.reported.repeated(),
            self.taken_up,
            self.left.len(),
            self.slowest,
        )
    }

    /// The same for programs.
    pub fn to_json(&self, kills: u64, seed: u64, time: Duration, lost: usize) -> Value {
        json!({
            "kills": kills, "seed": seed, "seconds": time.as_secs(), "messages": self.sent.len(),
            "recipients": self.acknowledged(), "accepted_by_log": self.accepted.len(), "arrived": self.copies.recipients(),
            "duplicates": self.copies.repeated(), "beyond_the_window": self.beyond_the_window.len(), "told": self.told.len(),
            "told_again": self.reported.repeated(), "taken_up": self.taken_up,
            "left": self.left.len(), "slowest_start_ms": self.slowest, "broken": self.broken.len(), "lost": lost,
        })
    }

    fn acknowledged(&self) -> usize {
        self.sent.iter().map(|message| message.recipients.len()).sum()
    }
}
