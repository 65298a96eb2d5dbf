//! When attempts may and must come: neither outside of the policy, nor late when nothing is in their way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mail::{MessageId, Site, Timestamp};
use store::Delivery;

use crate::ledger::{Ledger, Moment, SLACK};
use crate::plan::Plan;
use crate::ways;

/// An attempt that is put off.
pub struct Deferral<'a> {
    /// Of whom.
    pub address: &'a str,
    /// How many attempts there have been.
    pub attempts: u32,
    /// When the recipient's time is over.
    pub expiry: Timestamp,
    /// When the next attempt is due.
    pub next: Timestamp,
    /// When the attempt ended, if there was one.
    pub landed: Option<(Timestamp, u64)>,
}

/// Beyond the rest of a lane, how late an attempt may come: windows are loaded anew, and others go first.
const TURN: Duration = Duration::from_secs(600);
/// An outcome that was read is recorded within this time, unless the disk was hurt so shortly before.
pub const RECORDED: Duration = Duration::from_secs(60);
/// For so long after a jump of the clock nothing expires, and a little longer.
const JUMPED: Duration = Duration::from_secs(3660);
/// How often at least it is noted that the disk is hurt, and what that brings with it.
const DISK_AFTERMATH: Duration = Duration::from_secs(120);
/// What began in trouble may hold a connection for so long afterwards, and keep others waiting.
const AFTERMATH: Duration = Duration::from_secs(1800);

/// The rests of all lanes, as the process told.
#[derive(Debug)]
pub struct Rests {
    /// By domain, the place of its site in the plan.
    sites: BTreeMap<String, usize>,
    /// By that place, when the rests of this life end that are not over.
    ends: BTreeMap<usize, BTreeSet<Timestamp>>,
}

impl Rests {
    /// Nothing rests.
    pub fn new(plan: &Plan) -> Self {
        let sites = plan.sites.iter().enumerate();
        let domains = sites.flat_map(|(at, site)| site.domains.iter().map(move |name| (name.clone(), at)));
        Self { sites: domains.collect(), ends: BTreeMap::new() }
    }

    /// A lane rests until then.
    pub fn begin(&mut self, site: &Site, until: Timestamp, now: Timestamp) {
        let Some((number, _)) = ways::of_lane(site) else { return };
        let ends = self.ends.entry(number).or_default();
        ends.retain(|end| *end >= now);
        ends.insert(until);
    }

    /// The process is dead, and remembers none.
    pub fn clear(&mut self) {
        self.ends.clear();
    }

    /// When the rests end of the lanes that lead to an address.
    fn of(&self, address: &str) -> impl Iterator<Item = Timestamp> {
        let site = address.split_once('@').and_then(|(_, domain)| self.sites.get(domain));
        site.and_then(|site| self.ends.get(site)).into_iter().flatten().copied()
    }
}

impl Ledger {
    /// The time of the next attempt against the policy.
    pub fn in_bounds(&mut self, deferral: &Deferral<'_>, now: Moment) {
        let Deferral { address, attempts, expiry, next, landed } = *deferral;
        let wait = self.policy.retry.intervals.after(attempts);
        let part = self.policy.retry.jitter.part();
        let most = now.wall + wait.mul_f64(1.0 + part) + SLACK;
        // Where the clock jumped in between, nobody can say; nobody knows when what was not attempted was decided.
        let steady = landed.map_or(now.jumps == 0, |(_, jumps)| jumps == now.jumps);
        let least = landed.map_or(Timestamp::default(), |(at, _)| at + wait.mul_f64(1.0 - part));
        let rests = self.rests.of(address).any(|rest| match landed {
            Some(_) => rest.since(next).max(next.since(rest)) < SLACK,
            None => next <= rest + SLACK,
        });
        if next > most && !rests && steady {
            let by = next.since(most);
            self.fail("retries keep to the policy", format!("{address}: attempt {attempts} is followed {by:?} late"));
        } else if steady && next + SLACK < least && next < expiry {
            let by = least.since(next);
            self.fail("retries keep to the policy", format!("{address}: attempt {attempts} is followed {by:?} early"));
        }
    }

    /// Nothing has been in the way of deliveries for so long that they must come in time.
    pub fn is_quiet(&self) -> bool {
        self.age > self.troubled + AFTERMATH + self.patience()
    }

    /// After which time senders hear of a delay, if nothing is in the way; the clock has stood for longer than the hour in
    /// which the queue tells nothing after a jump.
    pub fn tells_delays(&self) -> Option<Duration> {
        let quiet = self.is_quiet() && self.age > self.troubled + JUMPED;
        self.policy.retry.delay_notice.filter(|after| quiet && *after < self.policy.retry.expire)
    }

    /// Whether an outcome that the process has read then must be recorded, and told of, by now.
    pub fn is_late(&self, heard: Duration) -> bool {
        self.age > heard + RECORDED && heard > self.disk_hurt + DISK_AFTERMATH
    }

    /// How late an attempt may be if nothing is in its way.
    pub fn patience(&self) -> Duration {
        self.policy.backoff.most.mul_f64(1.0 + self.policy.backoff.jitter.part()) + TURN
    }

    /// Whether a recipient of a delivery is with a connection.
    pub fn flies(&self, id: MessageId, delivery: &Delivery) -> bool {
        let state = |place: u32| self.told.get(&id)?.recipients.get(place as usize);
        delivery.recipients.iter().any(|recipient| state(recipient.index).is_some_and(|state| state.flying))
    }
}
