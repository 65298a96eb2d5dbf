//! The hosts that mail goes to: servers of our own, which know no line of the rooms, and behave as they are told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::content;
use crate::network::End;
use crate::plan::{Fate, Site};
use crate::scene::Scene;
use crate::talk::{Over, Talk};

/// How long a host waits for its client.
const PATIENCE: Duration = Duration::from_secs(300);

/// Serves one connection to a site.
pub async fn serve(scene: Arc<Scene>, site: usize, end: End) {
    let open = scene.world.enters(site);
    let mut session =
        Session { talk: Talk::new(end), site, began: Duration::ZERO, taken: 0, eight_bit: false, lmtp: false, scene };
    let crowded = open > session.plan().bears;
    // How it ended is known to whoever ended it.
    let _ = session.run(crowded).await;
    session.scene.world.leaves(site);
}

struct Session {
    scene: Arc<Scene>,
    site: usize,
    talk: Talk,
    /// When the present transaction began.
    began: Duration,
    taken: u32,
    /// Whether 8BITMIME was offered in this session.
    eight_bit: bool,
    /// Whether the client speaks LMTP.
    lmtp: bool,
}

/// The recipients of a transaction, as the host sees them.
#[derive(Default)]
struct Transaction {
    begun: bool,
    null: bool,
    recipients: Vec<String>,
    /// Those whose sender's wishes came with them.
    promised: BTreeSet<String>,
    chunks: Vec<u8>,
}

/// What a host does in the place of an answer.
enum Whim {
    None,
    Cut,
    Stall,
    Late,
    Temporary,
    Permanent,
    Away,
    Nonsense,
    Split,
    Lines,
}

impl Session {
    fn plan(&self) -> &Site {
        &self.scene.world.plan.sites[self.site]
    }

    async fn run(&mut self, crowded: bool) -> Result<(), Over> {
        self.pause().await;
        if crowded {
            return self.talk.say("421 4.7.0 too many connections\r\n").await;
        }
        if self.answer("220 host.example ESMTP").await?.is_none() {
            return Ok(());
        }
        let mut transaction = Transaction::default();
        loop {
            let line = self.talk.line(PATIENCE).await?;
            let verb = line.split(' ').next().unwrap_or("").to_ascii_uppercase();
            if !self.talk_waits() {
                self.pause().await;
            }
            let goes_on = match verb.as_str() {
                "EHLO" | "LHLO" => {
                    self.lmtp = verb == "LHLO";
                    self.hello().await?
                }
                "HELO" => self.answer("250 host.example").await?,
                "MAIL" => self.mail(&line, &mut transaction).await?,
                "RCPT" => self.recipient(&line, &mut transaction).await?,
                "DATA" => self.data(&mut transaction).await?,
                "BDAT" => self.chunk(&line, &mut transaction).await?,
                "RSET" => {
                    transaction = Transaction::default();
                    self.answer("250 2.0.0 reset").await?
                }
                "NOOP" => self.answer("250 2.0.0 ok").await?,
                "QUIT" => {
                    self.talk.say("221 2.0.0 bye\r\n").await?;
                    None
                }
                // Content behind a 354 that was nonsense arrives as commands, and this answer refuses it.
                _ => {
                    self.refuses_all();
                    self.answer("500 5.5.2 unknown").await?
                }
            };
            if goes_on.is_none() {
                return Ok(());
            }
        }
    }

    /// Whether more commands are here already: then the client pipelines, and nobody waits between them.
    fn talk_waits(&self) -> bool {
        reception::Stream::has_input(&self.talk.end)
    }

    async fn pause(&self) {
        sleep(Duration::from_millis(1 + self.scene.world.random.below(60) as u64)).await;
    }

    /// Says a line, or does something else; `None` if the connection is to end.
    async fn answer(&mut self, line: &str) -> Result<Option<u16>, Over> {
        let code = line[..3].parse().unwrap_or(250);
        match self.whim() {
            Whim::None => self.talk.say(format!("{line}\r\n")).await?,
            Whim::Cut => {
                if self.scene.world.random.below(2) == 0 {
                    self.talk.end.reset();
                }
                return Ok(None);
            }
            Whim::Stall => {
                sleep(Duration::from_secs(3600)).await;
                return Ok(None);
            }
            Whim::Late => {
                sleep(Duration::from_secs(self.scene.world.random.below(400) as u64)).await;
                self.talk.say(format!("{line}\r\n")).await?;
            }
            Whim::Temporary => {
                self.talk.say("451 4.3.0 not now\r\n").await?;
                return Ok(Some(451));
            }
            Whim::Permanent => {
                self.refuses_all();
                self.talk.say("550 5.7.1 not ever\r\n").await?;
                return Ok(Some(550));
            }
            Whim::Away => {
                self.talk.say("421 4.3.2 going away\r\n").await?;
                return Ok(None);
            }
            Whim::Nonsense => {
                let nonsense = ["hello\r\n", "999 what\r\n", "\r\n", "25\r\n", "354 go on, then\r\n"];
                self.talk.say(nonsense[self.scene.world.random.below(nonsense.len())]).await?;
                return Ok(Some(0));
            }
            Whim::Split => {
                let text = format!("{line}\r\n");
                let at = self.scene.world.random.below(text.len());
                self.talk.say(&text[..at]).await?;
                sleep(Duration::from_secs(self.scene.world.random.below(20) as u64)).await;
                self.talk.say(&text[at..]).await?;
            }
            Whim::Lines => self.talk.say(format!("{code}-first\r\n{code}-second\r\n{line}\r\n")).await?,
        }
        Ok(Some(code))
    }

    /// A refusal that is not about one recipient.
    fn refuses_all(&self) {
        let mut ledger = self.scene.ledger();
        self.plan().domains.iter().for_each(|domain| ledger.domain_refused(domain));
    }

    fn whim(&self) -> Whim {
        if !self.scene.world.misbehaves(self.site) {
            return Whim::None;
        }
        match self.scene.world.random.below(20) {
            0 | 1 => Whim::Cut,
            2 => Whim::Stall,
            3 | 4 => Whim::Late,
            5..=8 => Whim::Temporary,
            9 => Whim::Permanent,
            10..=12 => Whim::Away,
            13 => Whim::Nonsense,
            14..=16 => Whim::Split,
            _ => Whim::Lines,
        }
    }

    async fn hello(&mut self) -> Result<Option<u16>, Over> {
        // LMTP has nothing older to fall back to.
        if !self.lmtp && self.scene.world.misbehaves(self.site) && self.scene.world.random.below(4) == 0 {
            return self.answer("502 5.5.1 no EHLO here").await;
        }
        let mut words = vec!["host.example", "SIZE 10000000", "ENHANCEDSTATUSCODES"];
        if self.plan().modern {
            words.extend(["PIPELINING", "8BITMIME", "CHUNKING"]);
        }
        if self.plan().dsn {
            words.push("DSN");
        }
        let last = words.len() - 1;
        let lines = words.iter().enumerate();
        let text: String =
            lines.map(|(at, word)| format!("250{}{word}\r\n", if at == last { ' ' } else { '-' })).collect();
        self.talk.say(text).await?;
        self.eight_bit = self.plan().modern;
        Ok(Some(250))
    }

    async fn mail(&mut self, line: &str, transaction: &mut Transaction) -> Result<Option<u16>, Over> {
        if self.taken >= self.plan().per_connection {
            self.talk.say("421 4.7.0 that is enough for this connection\r\n").await?;
            return Ok(None);
        }
        let code = self.answer("250 2.1.0 ok").await?;
        if code == Some(250) {
            self.began = self.scene.clock.age();
            *transaction = Transaction { begun: true, null: line.contains("FROM:<>"), ..Transaction::default() };
        }
        Ok(code)
    }

    async fn recipient(&mut self, line: &str, transaction: &mut Transaction) -> Result<Option<u16>, Over> {
        let address = line.split(['<', '>']).nth(1).unwrap_or("").to_owned();
        if !transaction.begun {
            return self.answer("503 5.5.1 MAIL first").await;
        }
        let refusal = self.judge(&address);
        let code = self.answer(refusal.unwrap_or("250 2.1.5 ok")).await?;
        match code {
            Some(250) => {
                if self.plan().dsn && line.contains("NOTIFY=") {
                    transaction.promised.insert(address.clone());
                }
                transaction.recipients.push(address);
            }
            Some(550) => self.scene.ledger().recipient_refused(&address),
            _ => {}
        }
        Ok(code)
    }

    /// What a host says to a recipient, by the recipient's name and its own habits.
    fn judge(&self, address: &str) -> Option<&'static str> {
        let (_, domain) = address.split_once('@')?;
        if !self.plan().domains.iter().any(|own| own == domain) {
            return Some("550 5.7.1 we do not relay");
        }
        let letter = address.chars().next();
        if letter == Some(Fate::Bad.letter()) || letter == Some('x') {
            return Some("550 5.1.1 no such user");
        }
        if letter == Some(Fate::Full.letter()) {
            return Some("452 4.2.2 mailbox full");
        }
        let greylist = self.plan().greylist?;
        let age = self.scene.clock.age();
        (age < self.scene.world.first_seen(self.site, address, age) + greylist).then_some("451 4.7.1 greylisted")
    }

    async fn data(&mut self, transaction: &mut Transaction) -> Result<Option<u16>, Over> {
        if transaction.recipients.is_empty() {
            return self.answer("554 5.5.1 no valid recipients").await;
        }
        let code = self.answer("354 go on").await?;
        if code != Some(354) {
            return Ok(code);
        }
        let mut content = Vec::new();
        loop {
            let line = self.talk.raw_line(PATIENCE).await?;
            if line == b".\r\n" {
                break;
            }
            content.extend(line.strip_prefix(b".").unwrap_or(&line));
        }
        self.end(std::mem::take(transaction), content).await
    }

    async fn chunk(&mut self, line: &str, transaction: &mut Transaction) -> Result<Option<u16>, Over> {
        let mut words = line.split(' ').skip(1);
        let count = words.next().and_then(|count| count.parse().ok()).ok_or(Over)?;
        let octets = self.talk.octets(count, PATIENCE).await?;
        if transaction.recipients.is_empty() {
            return self.answer("554 5.5.1 no valid recipients").await;
        }
        transaction.chunks.extend(octets);
        if words.next().is_none_or(|word| !word.eq_ignore_ascii_case("LAST")) {
            return self.answer("250 2.0.0 more").await;
        }
        let mut transaction = std::mem::take(transaction);
        let content = std::mem::take(&mut transaction.chunks);
        self.end(transaction, content).await
    }

    /// The content is complete. Whoever takes it says so before it can be sure of being heard.
    async fn end(&mut self, transaction: Transaction, content: Vec<u8>) -> Result<Option<u16>, Over> {
        self.pause().await;
        let misbehaves = self.scene.world.misbehaves(self.site);
        if self.lmtp {
            return self.end_each(transaction, &content, misbehaves).await;
        }
        match if misbehaves { self.scene.world.random.below(10) } else { 9 } {
            0 => {
                self.talk.end.reset();
                return Ok(None);
            }
            1 => return self.refuse(&transaction, "451 4.3.0 try again").await,
            2 => return self.refuse(&transaction, "552 5.2.2 too much").await,
            3 => {
                self.talk.say("421 4.3.2 going away\r\n").await?;
                return Ok(None);
            }
            _ => {}
        }
        self.take(&transaction, &content);
        self.taken += 1;
        if misbehaves {
            match self.scene.world.random.below(4) {
                0 => {
                    // Taken, and the reply is lost.
                    self.talk.end.reset();
                    return Ok(None);
                }
                1 => {
                    self.talk.say("250").await?;
                    return Ok(None);
                }
                2 => {
                    sleep(Duration::from_secs(self.scene.world.random.below(1200) as u64)).await;
                }
                _ => {}
            }
        }
        self.talk.say("250 2.0.0 taken\r\n").await?;
        self.hears(transaction.recipients);
        Ok(Some(250))
    }

    /// The same in LMTP: a reply for each recipient (RFC 2033 §4.2).
    async fn end_each(
        &mut self,
        transaction: Transaction,
        content: &[u8],
        misbehaves: bool,
    ) -> Result<Option<u16>, Over> {
        let mut taken = Vec::new();
        let mut replies = Vec::new();
        for address in &transaction.recipients {
            match if misbehaves { self.scene.world.random.below(6) } else { 5 } {
                0 => replies.push(("451 4.3.0 try again\r\n", None)),
                1 => {
                    self.scene.ledger().recipient_refused(address);
                    replies.push(("552 5.2.2 too much\r\n", None));
                }
                _ => {
                    taken.push(address.clone());
                    replies.push(("250 2.0.0 taken\r\n", Some(address.clone())));
                }
            }
        }
        self.take(&Transaction { recipients: taken, ..transaction }, content);
        self.taken += 1;
        // It may be slow, and go away in the middle of its replies.
        let (mut said, all) = (replies.len(), replies.len());
        if misbehaves {
            sleep(Duration::from_secs(self.scene.world.random.below(1200) as u64)).await;
            said = self.scene.world.random.below(2 * all).min(all);
        }
        for (reply, taken) in replies.into_iter().take(said) {
            self.talk.say(reply).await?;
            if let Some(address) = taken {
                self.hears(vec![address]);
            }
        }
        if said < all {
            if self.scene.world.random.below(2) == 0 {
                self.talk.end.reset();
            }
            return Ok(None);
        }
        Ok(Some(250))
    }

    /// Notes when the client has read all that was said: it knows then that these were taken.
    fn hears(&self, addresses: Vec<String>) {
        let scene = self.scene.clone();
        self.talk.end.once_read(Box::new(move || scene.ledger().heard(&addresses)));
    }

    async fn refuse(&mut self, transaction: &Transaction, line: &str) -> Result<Option<u16>, Over> {
        if line.starts_with('5') {
            let mut ledger = self.scene.ledger();
            for address in &transaction.recipients {
                ledger.recipient_refused(address);
            }
        }
        self.talk.say(format!("{line}\r\n")).await?;
        Ok(Some(451))
    }

    fn take(&mut self, transaction: &Transaction, content: &[u8]) {
        self.scene.note(format_args!("site {} takes mail for {:?}", self.site, transaction.recipients));
        let report = content::report(content).filter(|_| transaction.null);
        let eight_bit = self.eight_bit;
        let mut ledger = self.scene.ledger();
        ledger.counts.by_lmtp += if self.lmtp { transaction.recipients.len() as u64 } else { 0 };
        for address in &transaction.recipients {
            match &report {
                Some((name, about)) if address.starts_with('s') => ledger.reported(address, name, about),
                _ => {
                    ledger.arrived(address, self.began, transaction.promised.contains(address));
                    self.scene.world.compare(&mut ledger, address, content, eight_bit);
                }
            }
        }
    }
}
