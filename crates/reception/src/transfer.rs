//! One message on its way in: its share of memory and its draft below.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mail::{
    Act, BodyKind, EnhancedCode, Envelope, ForwardPath, Host, LocalPart, Mailbox, MessageId, Origin, Received,
    Recipient, Reply, Timestamp, TlsDemand, Utf8,
};
use smtp::server::Finished;
use tokio::time::Instant;

use crate::budget::Share;
use crate::connections::network_of;
use crate::intake::{Draft, Intake, Refused};
use crate::reception::Gate;
use crate::settings::Listener;
use crate::submission::{Gather, Missing, Scrutiny};

/// Octets of one message that count at most: when memory is short, the store streams larger content to disk.
const WINDOW: u64 = 256 << 10;
/// By how much a share grows, and the most that an announced size gets ahead of the content: words alone must not be
/// able to use up the memory.
const STEP: u64 = 64 << 10;
/// The least share.
const LEAST: u64 = 4 << 10;
/// The share of a message of which nothing is known yet: most are smaller.
const FIRST: u64 = 16 << 10;
/// Octets per second below which a message is slow while others wait for memory.
const PACE: u64 = 8 << 10;
/// For how long it may be.
const GRACE: Duration = Duration::from_secs(2);
/// How often the store is asked again while its memory is short.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// A message whose content is arriving.
pub(crate) struct Transfer {
    gate: Arc<Gate>,
    share: Share,
    granted: u64,
    received: u64,
    /// When it will have been too slow unless more comes.
    slow_from: Instant,
    draft: Result<Box<dyn Draft>, Refused>,
    head: Head,
}

/// The header section of a message that an account submits.
enum Head {
    /// Held back until it is whole.
    Waiting(Scrutiny, Gather),
    /// Gone on, with what is to stand in front of it; of mail that nobody submits, unseen.
    Passed(Missing),
}

impl Transfer {
    /// Waits for memory, then asks for room below.
    pub(crate) async fn begin(
        gate: &Arc<Gate>,
        intake: &dyn Intake,
        peer: IpAddr,
        expected: Option<u64>,
        scrutiny: Option<Scrutiny>,
    ) -> Result<Self, Refused> {
        let patient_until = Instant::now() + gate.patience;
        let granted = expected.unwrap_or(FIRST).clamp(LEAST, STEP);
        let network = gate.counts(peer).then(|| network_of(peer));
        let mut share = gate.budget.share(network);
        share.grow_to(granted, gate.patience).await.map_err(|_| short())?;
        let draft = loop {
            match intake.begin(expected) {
                Ok(draft) => break draft,
                Err(refused) if refused.passing && Instant::now() < patient_until => {
                    tokio::time::sleep(ASK_AGAIN.min(gate.patience)).await;
                }
                Err(refused) => return Err(refused),
            }
        };
        Ok(Self {
            gate: gate.clone(),
            share,
            granted,
            received: 0,
            slow_from: Instant::now() + GRACE,
            draft: Ok(draft),
            head: match scrutiny {
                Some(scrutiny) => Head::Waiting(scrutiny, Gather::default()),
                None => Head::Passed(Missing::default()),
            },
        })
    }

    /// Takes a piece. If that fails the message is refused at its end; what else comes of it is dropped.
    pub(crate) async fn write(&mut self, piece: Bytes) {
        let octets = piece.len() as u64;
        let credit =
            self.slow_from.saturating_duration_since(Instant::now()) + Duration::from_millis(1000 * octets / PACE);
        self.take(piece).await;
        // What went by meanwhile was not the client's time. No haste buys more than the grace.
        self.slow_from = Instant::now() + credit.min(GRACE);
    }

    async fn take(&mut self, piece: Bytes) {
        self.received = self.received.saturating_add(piece.len() as u64);
        let wanted = self.received.min(WINDOW);
        if self.draft.is_ok() && wanted > self.granted {
            let more = wanted.next_multiple_of(STEP).min(WINDOW);
            match self.share.grow_to(more, self.gate.patience).await {
                Ok(()) => self.granted = more,
                Err(_) => return self.give_up(short()),
            }
        }
        let Head::Waiting(_, gather) = &mut self.head else { return self.keep(piece).await };
        if let Some((header, rest)) = gather.push(piece) {
            self.pass_head(header).await;
            self.keep(rest).await;
        } else if gather.len() as u64 > self.gate.session.limits.header {
            let reply = Reply::new(552, EnhancedCode::new(5, 3, 4), "the header is too large");
            self.give_up(Refused { reply, reason: "header_size", passing: false });
        }
    }

    /// The header section is whole.
    async fn pass_head(&mut self, header: Bytes) {
        let Head::Waiting(scrutiny, _) = &self.head else { return };
        match scrutiny.pass(header) {
            Ok((pieces, missing)) => {
                self.head = Head::Passed(missing);
                for piece in pieces {
                    self.keep(piece).await;
                }
            }
            Err(refused) => self.give_up(refused),
        }
    }

    async fn keep(&mut self, piece: Bytes) {
        if let Ok(draft) = &mut self.draft
            && !piece.is_empty()
            && let Err(refused) = draft.write(piece).await
        {
            self.give_up(refused);
        }
    }

    /// Returns once others wait for memory and this message has been coming too slowly.
    pub(crate) async fn dawdles(&mut self) {
        self.share.wanted_back(self.slow_from).await;
    }

    /// Leaves the memory to others; the message is refused at its end.
    pub(crate) fn make_way(&mut self) {
        let reply = Reply::new(452, EnhancedCode::new(4, 3, 1), "too much mail in flight, and this came too slowly");
        self.give_up(Refused { reply, reason: "in_flight_slow", passing: true });
    }

    /// Octets taken.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// All of the content is there. Tells why it cannot be taken, if so.
    pub(crate) async fn complete(&mut self) -> Result<(), Refused> {
        if let Head::Waiting(_, gather) = &mut self.head {
            // A message of a header section alone, without the empty line behind it.
            let header = std::mem::take(gather).finish();
            self.pass_head(header).await;
        }
        self.draft.as_ref().map(|_| ()).map_err(Refused::clone)
    }

    /// What is to stand in front of the content, behind our `Received` field.
    pub(crate) fn missing(&self) -> Missing {
        match &self.head {
            Head::Waiting(..) => Missing::default(),
            Head::Passed(missing) => missing.clone(),
        }
    }

    /// Hands the message over. Its share of memory comes back whatever happens.
    pub(crate) async fn submit(
        self,
        envelope: Envelope,
        trace: Bytes,
        hold: Option<Act>,
    ) -> Result<MessageId, Refused> {
        self.draft?.submit(envelope, trace, hold).await
    }

    /// Lets go of everything at once, so that others can have it.
    fn give_up(&mut self, refused: Refused) {
        self.draft = Err(refused);
        self.head = Head::Passed(Missing::default());
        self.share = self.gate.budget.share(None);
    }
}

/// The refusal when memory stayed short.
fn short() -> Refused {
    let reply = Reply::new(452, EnhancedCode::new(4, 3, 1), "too much mail in flight, try again later");
    Refused { reply, reason: "in_flight", passing: true }
}

/// Where a message came in.
pub(crate) struct Entrance<'a> {
    pub(crate) listener: &'a Listener,
    pub(crate) peer: SocketAddr,
}

impl Entrance<'_> {
    /// The envelope of a complete transaction.
    pub(crate) fn envelope(&self, finished: Finished, id: MessageId, received_at: Timestamp) -> Envelope {
        let Finished { transaction, content, hello, protocol, tls, account } = finished;
        let parameters = transaction.sender.parameters;
        let body = match parameters.body {
            // The sender said less than the content holds; whoever passes it on must know.
            BodyKind::SevenBit if content.eight_bit => BodyKind::EightBitMime,
            said => said,
        };
        Envelope {
            id,
            received_at,
            reverse_path: transaction.sender.path,
            recipients: transaction.recipients.into_iter().map(|recipient| self.named(recipient)).collect(),
            body,
            utf8: parameters.utf8,
            ret: parameters.ret,
            envid: parameters.envid,
            origin: Origin { peer: self.peer, helo: hello.name, protocol, listener: self.listener.name.clone(), tls },
            tenant: None,
            campaign: None,
            account,
            // RFC 8689 §4.1: the parameter counts more than the field.
            tls: match (parameters.require_tls, content.tls_optional) {
                (true, _) => TlsDemand::Required,
                (false, true) => TlsDemand::NotRequired,
                (false, false) => TlsDemand::Default,
            },
            deliver_by: parameters.deliver_by.map(|by| by.from(received_at)),
            release_at: parameters.release.map(|release| release.at(received_at)),
            priority: parameters.priority.unwrap_or_default(),
        }
    }

    /// Our `Received` field, and what the message lacked behind it.
    pub(crate) fn trace(&self, envelope: &Envelope, hide_client: bool, missing: &Missing) -> Bytes {
        let hostname = &self.listener.session.hostname;
        let mut trace = Received { client: !hide_client, ..Received::new(hostname, envelope) }.to_field();
        missing.write_to(&mut trace, hostname, envelope.id, envelope.received_at);
        trace.into()
    }

    /// The bare `<postmaster>` (RFC 5321 §4.5.1) means the postmaster of the name that we answer by.
    fn named(&self, mut recipient: Recipient) -> Recipient {
        if recipient.path == ForwardPath::Postmaster
            && let Ok(local) = LocalPart::parse("postmaster", Utf8::Refused)
        {
            let host = Host::Domain(self.listener.session.hostname.clone());
            recipient.path = ForwardPath::Mailbox(Mailbox { local, host });
        }
        recipient
    }
}
