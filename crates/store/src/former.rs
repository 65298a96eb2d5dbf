//! Records as former versions of the store wrote them, for they may still be in the log.
//!
//! Version 1 knew nothing of accounts, TLS, times and priorities that senders ask for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mail::{
    Act, BodyKind, Delivered, Destination, Envelope, Fault, MessageId, Origin, Outcome, Recipient, Reply, Ret,
    ReversePath, Timestamp, TlsDemand, TransferProtocol,
};
use serde::Deserialize;

use crate::message::{self, Notice, Schedule, StoredMessage};
use crate::record::{ContentPlace, Record};

/// Reads a record of version 1.
pub(crate) fn decode(head: &[u8]) -> Option<Record> {
    Some(match postcard::from_bytes(head).ok()? {
        First::Message { message, content, moved, settles } => {
            let settles = settles.into_iter().map(FirstUpdate::into_now).collect();
            Record::Message { message: Arc::new(message.into_now()), content, moved, settles }
        }
        First::Updates(updates) => Record::Updates(updates.into_iter().map(FirstUpdate::into_now).collect()),
        First::Chunk => Record::Chunk,
        First::Probe => Record::Probe,
    })
}

#[derive(Deserialize)]
enum First {
    Message { message: Box<FirstMessage>, content: ContentPlace, moved: bool, settles: Vec<FirstUpdate> },
    Updates(Vec<FirstUpdate>),
    Chunk,
    Probe,
}

#[derive(Deserialize)]
struct FirstMessage {
    id: MessageId,
    envelope: FirstEnvelope,
    size: u64,
    deliveries: Vec<FirstDelivery>,
}

impl FirstMessage {
    fn into_now(self) -> StoredMessage {
        let FirstMessage { id, envelope, size, deliveries } = self;
        let deliveries = deliveries.into_iter().map(FirstDelivery::into_now).collect();
        StoredMessage { id, envelope: Arc::new(envelope.into_now()), size, deliveries }
    }
}

#[derive(Deserialize)]
struct FirstEnvelope {
    id: MessageId,
    received_at: Timestamp,
    reverse_path: ReversePath,
    recipients: Vec<Recipient>,
    body: BodyKind,
    utf8: bool,
    ret: Option<Ret>,
    envid: Option<String>,
    origin: FirstOrigin,
    tenant: Option<String>,
    campaign: Option<String>,
}

#[derive(Deserialize)]
struct FirstOrigin {
    peer: SocketAddr,
    helo: String,
    protocol: TransferProtocol,
    listener: String,
}

impl FirstEnvelope {
    fn into_now(self) -> Envelope {
        let FirstOrigin { peer, helo, protocol, listener } = self.origin;
        Envelope {
            id: self.id,
            received_at: self.received_at,
            reverse_path: self.reverse_path,
            recipients: self.recipients,
            body: self.body,
            utf8: self.utf8,
            ret: self.ret,
            envid: self.envid,
            origin: Origin { peer, helo, protocol, listener, tls: None },
            tenant: self.tenant,
            campaign: self.campaign,
            account: None,
            tls: TlsDemand::Default,
            deliver_by: None,
            release_at: None,
            priority: 0,
        }
    }
}

#[derive(Deserialize)]
enum FirstUpdate {
    Delivery { id: MessageId, number: u32, state: FirstDelivery },
    Split { id: MessageId, number: u32, into: Vec<FirstDelivery> },
}

impl FirstUpdate {
    fn into_now(self) -> message::Update {
        match self {
            FirstUpdate::Delivery { id, number, state } => {
                message::Update::Delivery { id, number, state: state.into_now() }
            }
            FirstUpdate::Split { id, number, into } => {
                message::Update::Split { id, number, into: into.into_iter().map(FirstDelivery::into_now).collect() }
            }
        }
    }
}

#[derive(Deserialize)]
struct FirstDelivery {
    destination: Destination,
    recipients: Vec<FirstDeliveryRecipient>,
    schedule: Schedule,
    attempts: u32,
    last: Option<Fault>,
    delay_told: bool,
}

#[derive(Deserialize)]
struct FirstDeliveryRecipient {
    index: u32,
    status: FirstRecipientStatus,
}

#[derive(Deserialize)]
enum FirstRecipientStatus {
    Pending,
    Final { outcome: FirstOutcome, notice: Notice },
}

#[derive(Deserialize)]
enum FirstOutcome {
    Delivered(FirstDelivered),
    Deferred(Fault),
    Failed(Fault),
    Expired(Option<Fault>),
    Removed(Act),
}

#[derive(Deserialize)]
struct FirstDelivered {
    host: String,
    address: Option<IpAddr>,
    reply: Reply,
    dsn: bool,
}

impl FirstDelivery {
    fn into_now(self) -> message::Delivery {
        let FirstDelivery { destination, recipients, schedule, attempts, last, delay_told } = self;
        let recipients = recipients.into_iter().map(FirstDeliveryRecipient::into_now).collect();
        message::Delivery { destination, recipients, schedule, attempts, last, delay_told }
    }
}

impl FirstDeliveryRecipient {
    fn into_now(self) -> message::DeliveryRecipient {
        let status = match self.status {
            FirstRecipientStatus::Pending => message::RecipientStatus::Pending,
            FirstRecipientStatus::Final { outcome, notice } => {
                message::RecipientStatus::Final { outcome: outcome.into_now(), notice }
            }
        };
        message::DeliveryRecipient { index: self.index, status }
    }
}

impl FirstOutcome {
    fn into_now(self) -> Outcome {
        match self {
            FirstOutcome::Delivered(FirstDelivered { host, address, reply, dsn }) => {
                Outcome::Delivered(Delivered { host, address, reply, dsn, deliver_by: false, tls: None })
            }
            FirstOutcome::Deferred(fault) => Outcome::Deferred(fault),
            FirstOutcome::Failed(fault) => Outcome::Failed(fault),
            FirstOutcome::Expired(fault) => Outcome::Expired(fault),
            FirstOutcome::Removed(act) => Outcome::Removed(act),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use mail::{EnhancedCode, FaultSource, NotifyOn, OriginalRecipient};

    use super::*;
    use crate::frame::FrameAt;
    use crate::message::{Delivery, DeliveryRecipient, RecipientStatus, Update};
    use crate::record;

    /// Payloads as version 1 wrote them, each with the body `body`: a message, changes, a chunk, a probe.
    const PAYLOADS: [&str; 4] = [
        "e302000000ef9bafcdf8acd19101ef9bafcdf8acd1910180a0f1c2b134010f616e6e406578616d706c652e6e657406011175\
         73657230406578616d706c652e6f7267000001117573657231406578616d706c652e6f726702010001000111757365723240\
         6578616d706c652e6f72670001067266633832320f626f62406578616d706c652e6f726701117573657233406578616d706c\
         652e6f7267000001117573657234406578616d706c652e6f7267000001117573657235406578616d706c652e6f7267000001\
         00010101085151333134313539007f000001a8c3010e636c69656e742e6578616d706c65030474657374010674656e616e74\
         01046e657773e724020e6d783a6578616d706c652e6f7267020000010100026d78010120010db80000000000000000000000\
         25fa0100010574616b656e010000e0c783c3b1340301c3030104070101056c61746572000e6d782e6578616d706c652e6f72\
         670100c000021901156e6f746963653a6d783a6578616d706c652e6f726704020102a6040105070101056e65766572000e6d\
         782e6578616d706c652e6f72670100c000021901030103000204010403616e6e0a6c6f6f6b206669727374f4a3f1c2b13400\
         05010301c3030104040101066e6f626f647901010103616e6e0a6c6f6f6b206669727374f4a3f1c2b1340000000101038040\
         460101014d01020e6d783a6578616d706c652e6f7267020000010100026d78010120010db8000000000000000000000025fa\
         0100010574616b656e010000e0c783c3b1340301c3030104070101056c61746572000e6d782e6578616d706c652e6f726701\
         00c000021901156e6f746963653a6d783a6578616d706c652e6f726704020102a6040105070101056e65766572000e6d782e\
         6578616d706c652e6f72670100c000021901030103000204010403616e6e0a6c6f6f6b206669727374f4a3f1c2b134000501\
         0301c3030104040101066e6f626f647901010103616e6e0a6c6f6f6b206669727374f4a3f1c2b134000000626f6479",
        "790000000101004d00156e6f746963653a6d783a6578616d706c652e6f726704020102a6040105070101056e65766572000e\
         6d782e6578616d706c652e6f72670100c000021901030103000204010403616e6e0a6c6f6f6b206669727374f4a3f1c2b134\
         0005010301c3030104040101066e6f626f6479010102000000626f6479",
        "0100000002626f6479",
        "0100000003626f6479",
    ];

    fn deliveries() -> [Delivery; 2] {
        let host = FaultSource::Peer { host: "mx.example.org".into(), address: Some([192, 0, 2, 25].into()) };
        let fault = |class: u8, code, text: &str| Fault {
            reply: Reply::new(code, EnhancedCode::new(class, 7, 1), text),
            by: host.clone(),
        };
        let nobody = Fault::local(451, EnhancedCode::new(4, 4, 1), "nobody");
        let delivered = Outcome::Delivered(Delivered {
            host: "mx".into(),
            address: Some("2001:db8::25".parse().unwrap()),
            reply: Reply::new(250, None, "taken"),
            dsn: true,
            deliver_by: false,
            tls: None,
        });
        let one = |index, status| DeliveryRecipient { index, status };
        let last = |index, outcome, notice| one(index, RecipientStatus::Final { outcome, notice });
        let first = Delivery {
            recipients: vec![one(0, RecipientStatus::Pending), last(1, delivered, Notice::NotOwed)],
            attempts: 3,
            last: Some(fault(4, 451, "later")),
            delay_told: true,
            ..Delivery::new(Destination::new("mx:example.org"), [], Timestamp::from_millis(1_800_000_300_000))
        };
        let second = Delivery {
            recipients: vec![
                last(2, Outcome::Failed(fault(5, 550, "never")), Notice::Owed),
                last(3, Outcome::Expired(None), Notice::Told),
                last(4, Outcome::Removed(act()), Notice::NotOwed),
                last(5, Outcome::Expired(Some(nobody)), Notice::Owed),
            ],
            schedule: Schedule::Held(act()),
            ..Delivery::new(Destination::new("notice:mx:example.org"), [], Timestamp::default())
        };
        [first, second]
    }

    fn act() -> Act {
        let at = Timestamp::from_millis(1_800_000_000_500);
        Act { author: "ann".into(), reason: "look first".into(), at }
    }

    fn message() -> StoredMessage {
        let id = MessageId::from_u128(0x0123_4567_89ab_cdef);
        let mut envelope = crate::testing::envelope(id, 6);
        envelope.reverse_path = ReversePath::Mailbox("ann@example.net".parse().unwrap());
        envelope.recipients[1].notify = mail::Notify::On(NotifyOn { success: true, failure: false, delay: true });
        envelope.recipients[2].orcpt =
            Some(OriginalRecipient { kind: "rfc822".into(), address: "bob@example.org".into() });
        envelope.body = BodyKind::EightBitMime;
        envelope.ret = Some(Ret::Headers);
        envelope.envid = Some("QQ314159".into());
        envelope.origin.protocol = TransferProtocol::Utf8Smtp;
        envelope.campaign = Some("news".into());
        StoredMessage { id, envelope: envelope.into(), size: 4711, deliveries: deliveries().into() }
    }

    #[test]
    fn records_of_version_1_are_read() {
        let [first, second] = deliveries();
        let other = MessageId::from_u128(77);
        let chunks = ContentPlace::Chunks(vec![FrameAt { segment: 3, offset: 8192, length: 70 }]);
        let settles = vec![Update::Split { id: other, number: 1, into: vec![first, second.clone()] }];
        let finished = Delivery { schedule: Schedule::Finished, ..second };
        let records = [
            Record::Message { message: message().into(), content: chunks, moved: true, settles },
            Record::Updates(vec![Update::Delivery { id: other, number: 0, state: finished }]),
            Record::Chunk,
            Record::Probe,
        ];
        for (payload, record) in PAYLOADS.into_iter().zip(records) {
            let octets = (0..payload.len()).step_by(2).map(|at| u8::from_str_radix(&payload[at..at + 2], 16).unwrap());
            let read = record::decode(&octets.collect::<Bytes>());
            assert_eq!(read, Some((record, Bytes::from_static(b"body"))));
        }
    }
}
