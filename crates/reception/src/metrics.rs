//! What receiving counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The counters of a [`Reception`](crate::Reception); clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Connections accepted from the operating system, those refused at once included.
    pub connections: Counter,
    /// Sessions that are open.
    pub sessions: Gauge,
    /// Connections refused before their session began: `total`, `address`, `ipv4_network`, `ipv6_network`, `internal`,
    /// `banned`, `proxy_missing`, `proxy_invalid`, `proxy_time`; or later: `xclient_limit`.
    pub connections_refused: Family<Reason, Counter>,
    /// Times that the operating system gave no connection, mostly because files ran out.
    pub accept_errors: Counter,
    /// Sessions ended, by why: the labels of [`smtp::server::CloseReason`].
    pub closed: Family<Reason, Counter>,
    /// Commands, recipients and messages refused by the rules of a session, by why: the labels of
    /// [`smtp::server::Refusal`], `relay_denied` and `hidden_route` of relay control, and of what accounts submit `send_as`,
    /// `null_sender`, `account_limit`, `no_from`, `header_line`, `header_twice` and `header_address`.
    pub refused: Family<Reason, Counter>,
    /// Messages accepted.
    pub messages: Counter,
    /// Recipients of the messages accepted.
    pub recipients: Counter,
    /// Messages that could not be taken for now: `in_flight` is the limit of memory of this room, `in_flight_slow` made way
    /// for others, the rest are words of the store and the queue.
    pub messages_refused: Family<Reason, Counter>,
    /// Networks that are refused at connect.
    pub bans: Gauge,
    /// Accounts whose mail is held for a spike.
    pub accounts_held: Gauge,
    /// Messages that were accepted and held because their account was.
    pub messages_held: Counter,
    /// Octets of content accepted.
    pub content_bytes: Counter,
    /// Octets read from clients.
    pub received_bytes: Counter,
    /// Octets written to clients.
    pub sent_bytes: Counter,
    /// Octets of memory that transactions hold for content in flight.
    pub in_flight_bytes: Gauge,
    /// Times that a transaction had to wait for memory.
    pub in_flight_waits: Counter,
    /// TLS handshakes that were completed.
    pub tls_handshakes: Family<Handshake, Counter>,
    /// TLS handshakes that were not: `network` (the client went away), `slow`, `long`, `protocol` (ALPN without `smtp`),
    /// `incompatible` (no version or cipher in common), `client` (the client refuses), `invalid`.
    pub tls_failures: Family<Reason, Counter>,
    /// Sessions that ended by a panic: errors in this program.
    pub panics: Counter,
}

/// How a TLS handshake went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Handshake {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// `full`, or `resumed` where an earlier session ended.
    pub kind: &'static str,
}

/// Why something was refused or ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    /// One of a small, fixed set of words.
    pub reason: &'static str,
}

impl Metrics {
    /// Counters under `postrider_reception_…` in `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let room = registry.sub_registry_with_prefix("postrider_reception");
        room.register("connections", "Connections accepted from the operating system", metrics.connections.clone());
        room.register("sessions", "Sessions that are open", metrics.sessions.clone());
        room.register(
            "connections_refused",
            "Connections refused, by the limit or gate",
            metrics.connections_refused.clone(),
        );
        room.register("accept_errors", "Failures to accept a connection", metrics.accept_errors.clone());
        room.register("closed", "Sessions ended, by why", metrics.closed.clone());
        room.register("refused", "Commands, recipients and messages refused, by why", metrics.refused.clone());
        room.register("messages", "Messages accepted", metrics.messages.clone());
        room.register("recipients", "Recipients of messages accepted", metrics.recipients.clone());
        room.register(
            "messages_refused",
            "Messages that could not be taken for now, by why",
            metrics.messages_refused.clone(),
        );
        room.register("bans", "Networks that are refused at connect", metrics.bans.clone());
        room.register("accounts_held", "Accounts whose mail is held", metrics.accounts_held.clone());
        room.register("messages_held", "Messages accepted and held with their account", metrics.messages_held.clone());
        room.register("content_bytes", "Octets of content accepted", metrics.content_bytes.clone());
        room.register("received_bytes", "Octets read from clients", metrics.received_bytes.clone());
        room.register("sent_bytes", "Octets written to clients", metrics.sent_bytes.clone());
        room.register("in_flight_bytes", "Octets held for content in flight", metrics.in_flight_bytes.clone());
        room.register("in_flight_waits", "Times a transaction waited for memory", metrics.in_flight_waits.clone());
        room.register("tls_handshakes", "TLS handshakes completed", metrics.tls_handshakes.clone());
        room.register("tls_failures", "TLS handshakes that failed, by why", metrics.tls_failures.clone());
        room.register("panics", "Sessions that ended by a panic", metrics.panics.clone());
        metrics
    }

    pub(crate) fn connection_refused(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn message_refused(&self, reason: &'static str) {
        self.messages_refused.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn closed(&self, reason: &'static str) {
        self.closed.get_or_create(&Reason { reason }).inc();
    }
}
