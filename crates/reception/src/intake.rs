//! The seam to the rooms below: who takes content, and who takes responsibility for it.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use mail::{Act, Envelope, MessageId, Reply};
use queue::{Queue, SubmitError};
use store::{CommitError, Incoming, IntakeError};

/// Takes messages in. In service this is [`QueueIntake`].
pub trait Intake: Send + Sync + 'static {
    /// Room for a message of perhaps `expected` octets.
    fn begin(&self, expected: Option<u64>) -> Result<Box<dyn Draft>, Refused>;
}

/// A message whose content is arriving. Dropping it abandons the message.
pub trait Draft: Send {
    /// Takes the next piece of the content.
    fn write(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), Refused>>;

    /// Takes responsibility: when this returns an id the message is durable and will be delivered or reported.
    /// `trace` goes in front of the content. With a `hold` nothing is tried until an operator releases it.
    fn submit(
        self: Box<Self>,
        envelope: Envelope,
        trace: Bytes,
        hold: Option<Act>,
    ) -> BoxFuture<'static, Result<MessageId, Refused>>;
}

/// A message, or room for one, was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the client is told.
    pub reply: Reply,
    /// A word for logs and metrics.
    pub reason: &'static str,
    /// Whether it is worth waiting a moment before the client is told: memory is short.
    pub passing: bool,
}

/// The queue takes responsibility.
#[derive(Clone)]
pub struct QueueIntake {
    queue: Queue,
}

impl QueueIntake {
    /// Into that queue.
    pub fn new(queue: Queue) -> Self {
        Self { queue }
    }
}

impl Intake for QueueIntake {
    fn begin(&self, expected: Option<u64>) -> Result<Box<dyn Draft>, Refused> {
        let content = self.queue.intake(expected)?;
        Ok(Box::new(QueueDraft { queue: self.queue.clone(), content }))
    }
}

struct QueueDraft {
    queue: Queue,
    content: Incoming,
}

impl Draft for QueueDraft {
    fn write(&mut self, piece: Bytes) -> BoxFuture<'_, Result<(), Refused>> {
        Box::pin(async move { Ok(self.content.write(piece).await?) })
    }

    fn submit(
        self: Box<Self>,
        envelope: Envelope,
        trace: Bytes,
        hold: Option<Act>,
    ) -> BoxFuture<'static, Result<MessageId, Refused>> {
        Box::pin(async move {
            let Self { queue, content } = *self;
            Ok(match hold {
                None => queue.submit(envelope, trace, content).await?,
                Some(act) => queue.submit_held(envelope, trace, content, act).await?,
            })
        })
    }
}

impl From<IntakeError> for Refused {
    fn from(error: IntakeError) -> Self {
        Self { reply: error.reply(), reason: error.word(), passing: error == IntakeError::Memory }
    }
}

impl From<CommitError> for Refused {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Intake(error) => error.into(),
            CommitError::Disk(_) => Self { reply: error.reply(), reason: "disk", passing: false },
            CommitError::Exists(_) => Self { reply: error.reply(), reason: "exists", passing: false },
        }
    }
}

impl From<SubmitError> for Refused {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Commit(error) => error.into(),
            SubmitError::Full => Self { reply: error.reply(), reason: "queue_full", passing: false },
            SubmitError::NoRecipients => Self { reply: error.reply(), reason: "no_recipients", passing: false },
        }
    }
}
