//! The face towards the queue: where a connection gets its work from, and where outcomes go.

use mail::{Assignment, AttemptReport, Fault, Target};

/// The permission to open one connection, with the work for it. The queue hands it out; the connection pulls.
pub trait Work: Send {
    /// Whom the connection is for.
    fn target(&self) -> &Target;

    /// The next delivery for this connection, or nothing: then the connection says goodbye.
    ///
    /// It may wait a moment when more work is about to come; how long an idle connection is worth keeping is for the
    /// queue to decide. It is never called while an assignment is under way, and never dropped before it is ready.
    fn next(&mut self) -> impl Future<Output = Option<Assignment>> + Send;

    /// What became of the assignment handed out last: exactly one report for each, with one outcome per recipient.
    fn report(&mut self, report: AttemptReport) -> impl Future<Output = ()> + Send;

    /// No host could be reached at all: nothing was pulled, and the lane should rest. The last host's fault; where it
    /// is a reply of the 5yz kind, that is a greeting, and says nothing about any message: treat it as transient,
    /// unless it is [permanent](Fault::is_permanent) and [local](mail::FaultSource::Local): then the hosts' names
    /// have no addresses.
    fn unreachable(&mut self, fault: Fault);
}
