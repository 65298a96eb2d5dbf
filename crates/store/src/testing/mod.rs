//! For tests: a disk that loses power and fails on demand, messages to store, and octets to be read.

mod decode;
mod disk;

use std::net::{Ipv4Addr, SocketAddr};

use mail::{
    Destination, Envelope, ForwardPath, MessageId, Origin, Recipient, ReversePath, Timestamp, TransferProtocol,
};

pub use decode::decode_anything;
pub use disk::{Disk, Fault};

pub use crate::life::Driver;

use crate::message::{Delivery, StoredMessage};

/// An envelope with that id and that many recipients.
pub fn envelope(id: MessageId, recipients: usize) -> Envelope {
    let recipient = |n| ForwardPath::Mailbox(format!("user{n}@example.org").parse().expect("a proper address"));
    let recipients = (0..recipients).map(|n| Recipient::new(recipient(n)));
    let received_at = Timestamp::from_millis(1_800_000_000_000);
    Envelope {
        origin: Origin {
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 25_000)),
            helo: "client.example".into(),
            protocol: TransferProtocol::Esmtp,
            listener: "test".into(),
            tls: None,
        },
        tenant: Some("tenant".into()),
        ..Envelope::new(id, received_at, ReversePath::Null, recipients)
    }
}

/// A message with that id and one delivery of one recipient.
pub fn message(id: u128) -> StoredMessage {
    let id = MessageId::from_u128(id);
    let delivery = Delivery::new(Destination::new("mx:example.org"), [0], Timestamp::from_millis(1_800_000_000_000));
    StoredMessage { id, envelope: envelope(id, 1).into(), size: 0, deliveries: vec![delivery] }
}
