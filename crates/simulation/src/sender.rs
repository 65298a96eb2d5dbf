//! The senders: simple clients of our own, which go away when they like, try again when they were not told, and keep
//! what they were told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::content;
use crate::ledger::Stage;
use crate::network::{self, End};
use crate::plan::{Mailing, Sender};
use crate::scene::{Progress, Scene};
use crate::talk::{Over, Talk};

/// How long a sender waits for a reply.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long after all harm everybody is served again.
const RECOVERY: Duration = Duration::from_secs(1800);
/// How often it tries.
const TRIES: u32 = 12;

/// Opens a connection to the process, if it listens.
pub type Door = Arc<dyn Fn(SocketAddr) -> Option<End> + Send + Sync>;

/// Sends what a sender has to send, until all is done.
pub async fn run(scene: Arc<Scene>, number: usize, mailings: Vec<usize>, door: Door) {
    let plan = scene.world.plan.senders[number].clone();
    loop {
        let next = |at: &usize| scene.world.progress(*at).next.map(|due| (due, *at));
        let mut waiting: Vec<(Duration, usize)> = mailings.iter().filter_map(next).collect();
        waiting.sort_unstable();
        let Some((due, _)) = waiting.first() else { return };
        let age = scene.clock.age();
        if *due > age {
            sleep(*due - age).await;
            continue;
        }
        let batch: Vec<usize> =
            waiting.iter().filter(|(due, _)| *due <= age).map(|(_, at)| *at).take(plan.per_connection).collect();
        for at in &batch {
            let progress = scene.world.progress(*at);
            let wait = Duration::from_millis(30_000 + scene.world.random.below(300_000) as u64);
            let next = (progress.tries < TRIES || scene.world.is_calm()).then(|| age + wait);
            scene.world.put_progress(*at, Progress { next, tries: progress.tries + 1 });
        }
        let port = 1024 + scene.world.random.below(60_000) as u16;
        if let Some(end) = door(SocketAddr::new(plan.address, port)) {
            let mut client = Client { scene: &scene, talk: Talk::new(end), plan: &plan, refused: false };
            // What it was told it has written down by then.
            let _ = client.session(&batch).await;
        }
        sleep(Duration::from_millis(1 + scene.world.random.below(2000) as u64)).await;
    }
}

struct Client<'a> {
    scene: &'a Scene,
    talk: Talk,
    plan: &'a Sender,
    /// Whether something of the present transaction was refused.
    refused: bool,
}

impl Client<'_> {
    async fn session(&mut self, batch: &[usize]) -> Result<(), Over> {
        self.latency().await;
        self.expect(220).await?;
        self.say(format!("EHLO {}\r\n", self.plan.domain)).await?;
        self.expect(250).await?;
        for at in batch {
            self.message(*at).await?;
        }
        self.say("QUIT\r\n").await?;
        self.reply().await.map(|_| ())
    }

    /// One mailing, to its end or to somebody's leaving.
    async fn message(&mut self, place: usize) -> Result<(), Over> {
        let mailing = &self.scene.world.plan.mailings[place];
        let moment = self.scene.moment();
        self.refused = false;
        let token = self.scene.ledger().begin(place, mailing, self.plan, moment);
        if self.scene.world.random.below(20) == 0 {
            // Begins, and thinks better of it.
            self.say(format!("{}RSET\r\n", self.mail(token, mailing))).await?;
            self.reply().await?;
            self.reply().await?;
        }
        let taken = if self.plan.pipelines && !self.plan.chunks {
            self.ahead(token, mailing).await?
        } else {
            self.in_turn(token, mailing).await?
        };
        let body = content::content(token, mailing.size, mailing.eight_bit);
        if !taken {
            return Ok(());
        }
        if self.plan.chunks {
            self.chunks(token, &body).await?
        } else {
            self.content(token, &body).await?
        }
        let (code, text) = self.reply().await?;
        self.scene.note(format_args!("t{token} is answered with {code} {text}"));
        let mut ledger = self.scene.ledger();
        if code == 250 {
            let id = text.split(' ').find_map(|word| word.parse().ok());
            ledger.acknowledged(token, id);
        } else {
            ledger.transactions[token].stage = Stage::Refused;
        }
        drop(ledger);
        if code == 250 || code >= 500 {
            self.done(place);
        }
        Ok(())
    }

    fn done(&self, place: usize) {
        let progress = self.scene.world.progress(place);
        self.scene.world.put_progress(place, Progress { next: None, ..progress });
    }

    fn mail(&self, token: usize, mailing: &Mailing) -> String {
        let from = self.scene.ledger().transactions[token].from.clone().unwrap_or_default();
        let mut line = format!("MAIL FROM:<{from}>");
        if mailing.eight_bit {
            line += " BODY=8BITMIME";
        }
        if mailing.envid {
            line += &format!(" ENVID=t{token}");
        }
        if let Some(ret) = mailing.ret {
            line += &format!(" RET={ret}");
        }
        line + "\r\n"
    }

    fn recipients(&self, token: usize) -> Vec<String> {
        let ledger = self.scene.ledger();
        let line = |recipient: &crate::ledger::Recipient| {
            let address = &recipient.address;
            match recipient.notify {
                Some(notify) => format!("RCPT TO:<{address}> NOTIFY={notify} ORCPT=rfc822;{address}\r\n"),
                None => format!("RCPT TO:<{address}>\r\n"),
            }
        };
        ledger.transactions[token].recipients.iter().map(line).collect()
    }

    /// MAIL, RCPT and DATA at once.
    async fn ahead(&mut self, token: usize, mailing: &Mailing) -> Result<bool, Over> {
        let recipients = self.recipients(token);
        self.say(self.mail(token, mailing) + &recipients.concat() + "DATA\r\n").await?;
        let (mail, _) = self.reply().await?;
        for at in 0..recipients.len() {
            let (code, _) = self.reply().await?;
            self.scene.ledger().transactions[token].recipients[at].taken = code == 250 && mail == 250;
        }
        let (code, _) = self.reply().await?;
        Ok(code == 354)
    }

    /// Each command after the reply to the one before.
    async fn in_turn(&mut self, token: usize, mailing: &Mailing) -> Result<bool, Over> {
        self.say(self.mail(token, mailing)).await?;
        if self.reply().await?.0 != 250 {
            return Ok(false);
        }
        let mut taken = false;
        for (at, line) in self.recipients(token).into_iter().enumerate() {
            self.say(line).await?;
            let (code, _) = self.reply().await?;
            self.scene.ledger().transactions[token].recipients[at].taken = code == 250;
            taken |= code == 250;
        }
        if !taken {
            self.say("RSET\r\n").await?;
            self.reply().await?;
            return Ok(false);
        }
        if self.plan.chunks {
            return Ok(true);
        }
        self.say("DATA\r\n").await?;
        Ok(self.reply().await?.0 == 354)
    }

    async fn content(&mut self, token: usize, body: &[u8]) -> Result<(), Over> {
        let stuffed = content::stuffed(body);
        let end = stuffed.len() - 3;
        for piece in stuffed[..end].chunks(16 << 10) {
            self.say(piece).await?;
        }
        self.ends(token)?;
        self.talk.say(&stuffed[end..]).await
    }

    async fn chunks(&mut self, token: usize, body: &[u8]) -> Result<(), Over> {
        let at = self.scene.world.random.below(body.len() + 1);
        if at > 0 {
            self.say(format!("BDAT {at}\r\n")).await?;
            self.talk.say(&body[..at]).await?;
            if self.reply().await?.0 != 250 {
                return Err(Over);
            }
        }
        self.ends(token)?;
        self.talk.say(format!("BDAT {} LAST\r\n", body.len() - at)).await?;
        self.talk.say(&body[at..]).await
    }

    /// From here on the message may be taken, whatever the sender gets to hear.
    fn ends(&self, token: usize) -> Result<(), Over> {
        if self.scene.world.sender_leaves() {
            return Err(Over);
        }
        self.scene.ledger().transactions[token].stage = Stage::Ended;
        Ok(())
    }

    async fn say(&mut self, octets: impl AsRef<[u8]>) -> Result<(), Over> {
        if self.scene.world.sender_leaves() {
            if self.scene.world.random.below(2) == 0 {
                self.talk.end.reset();
            }
            return Err(Over);
        }
        self.latency().await;
        self.talk.say(octets).await
    }

    /// The next reply. Nobody here sends what deserves a refusal for good, nor, once all is well and nobody else is served,
    /// one for the moment; what comes behind a refusal may be refused for its sake.
    async fn reply(&mut self) -> Result<(u16, String), Over> {
        let (code, text) = self.talk.reply(PATIENCE).await?;
        let (scene, before) = (self.scene, self.refused);
        self.refused |= code >= 400;
        let well = scene.world.is_calm() && scene.clock.age() > scene.world.plan.calm + RECOVERY;
        if !before && (code >= 500 || code >= 400 && well && scene.places.total() == 1) {
            scene.ledger().fail("valid mail is taken", format!("{code} {text}"));
        }
        Ok((code, text))
    }

    async fn expect(&mut self, wanted: u16) -> Result<(), Over> {
        if self.reply().await?.0 == wanted { Ok(()) } else { Err(Over) }
    }

    async fn latency(&self) {
        sleep(Duration::from_millis(1 + self.scene.world.random.below(80) as u64)).await;
    }
}

/// Where the process listens.
pub fn door(scene: &Arc<Scene>, reception: &reception::Reception, limits: (usize, usize)) -> Door {
    let (scene, reception) = (scene.clone(), reception.clone());
    Arc::new(move |peer| {
        if scene.life.is_over() {
            return None;
        }
        let piece = [0, 1, 7, 100][scene.world.random.below(4)];
        let (ours, theirs) = network::connect(&scene.life, &scene.world.random, piece);
        let ours = ours.counted(&scene.places, &peer.ip().to_string());
        reception.take("mx", ours, peer, network::listening()).ok()?;
        let (total, one) = (scene.places.total(), scene.places.of(&peer.ip().to_string()));
        if total > limits.0 || one > limits.1 {
            let found = format!("{total} connections in total, {one} from {}", peer.ip());
            scene.ledger().fail("connections that come in keep to the limits", found);
        }
        Some(theirs)
    })
}
