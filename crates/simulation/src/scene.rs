//! The world that outlives the process, and the scene of one life in it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mail::{Clock, Randomness};
use store::testing::{Disk, Fault};
use tokio::sync::Notify;

use crate::clock::{SimClock, Skew};
use crate::content;
use crate::harm::DnsMood;
use crate::ledger::{Ledger, Moment, numbers};
use crate::life::Life;
use crate::network::Places;
use crate::plan::{Options, Plan};
use crate::ways::Way;

/// Inodes that are free on a disk that has some.
const INODES: u64 = 1_000_000;

/// What goes on whatever becomes of the process.
pub struct World {
    /// The plan.
    pub plan: Plan,
    /// What decides the run.
    pub options: Options,
    /// Chance, for those outside of the process.
    pub random: Randomness,
    /// The wall clock.
    pub skew: Skew,
    ledger: Mutex<Ledger>,
    outside: Mutex<Outside>,
}

/// How those outside of the process are.
struct Outside {
    disk: Disk,
    mailings: Vec<Progress>,
    /// And since when.
    ways: (Vec<Way>, Duration),
    dns: (DnsMood, Duration),
    senders: (usize, Duration),
    sites: Vec<SiteState>,
    calm: bool,
    disk_trouble_until: Duration,
}

/// How far a mailing has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// When it is tried next; nothing once its sender is done with it.
    pub next: Option<Duration>,
    /// How often it was tried.
    pub tries: u32,
}

#[derive(Clone, Default)]
struct SiteState {
    open: usize,
    /// In one of a hundred steps so often, until then.
    often: (usize, Duration),
    seen: BTreeMap<String, Duration>,
}

/// One life of the process, with all that moves around it.
pub struct Scene {
    /// The world.
    pub world: Arc<World>,
    /// The life.
    pub life: Arc<Life>,
    /// The clocks.
    pub clock: SimClock,
    /// Connections that the process has taken.
    pub places: Places,
    /// Connections that the process has made, by the site of their lane.
    pub calls: Places,
    /// Rung when something does not hold.
    pub alarm: Notify,
}

impl World {
    /// By the plan of a seed.
    pub fn new(options: Options, keeps_text: bool) -> Arc<Self> {
        let plan = Plan::new(&options);
        let random = Randomness::seeded(options.seed ^ 0x5eed);
        let disk = Disk::new(256 << 20, Randomness::seeded(random.next_u64()));
        let progress = |mailing: &crate::plan::Mailing| Progress { next: Some(mailing.at), tries: 0 };
        let outside = Outside {
            disk,
            mailings: plan.mailings.iter().map(progress).collect(),
            ways: (plan.ways.clone(), Duration::ZERO),
            dns: Default::default(),
            senders: Default::default(),
            sites: vec![SiteState::default(); plan.sites.len()],
            calm: false,
            disk_trouble_until: Duration::ZERO,
        };
        let ledger = Ledger::new(&plan, keeps_text);
        Arc::new(Self {
            plan,
            options,
            random,
            skew: Skew::default(),
            ledger: Mutex::new(ledger),
            outside: Mutex::new(outside),
        })
    }

    /// The ledger.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk.
    pub fn disk(&self) -> Disk {
        self.outside().disk.clone()
    }

    /// Another disk, or the same after a power cut.
    pub fn put_disk(&self, disk: Disk) {
        self.outside().disk = disk;
    }

    /// Which way mail goes to each site, as the configuration says, and since when it does.
    pub fn ways(&self) -> (Vec<Way>, Duration) {
        self.outside().ways.clone()
    }

    /// The configuration says otherwise from now on.
    pub fn put_ways(&self, ways: &[Way], now: Duration) {
        self.outside().ways = (ways.to_vec(), now);
    }

    /// How far a mailing is.
    pub fn progress(&self, mailing: usize) -> Progress {
        self.outside().mailings[mailing]
    }

    /// It came further.
    pub fn put_progress(&self, mailing: usize, progress: Progress) {
        self.outside().mailings[mailing] = progress;
    }

    /// Whether all senders are done.
    pub fn all_sent(&self) -> bool {
        self.outside().mailings.iter().all(|progress| progress.next.is_none())
    }

    /// A connection to a site begins; tells how many there are.
    pub fn enters(&self, site: usize) -> usize {
        let mut outside = self.outside();
        outside.sites[site].open += 1;
        outside.sites[site].open
    }

    /// It ends.
    pub fn leaves(&self, site: usize) {
        let mut outside = self.outside();
        outside.sites[site].open = outside.sites[site].open.saturating_sub(1);
    }

    /// When a site saw an address for the first time.
    pub fn first_seen(&self, site: usize, address: &str, now: Duration) -> Duration {
        *self.outside().sites[site].seen.entry(address.to_owned()).or_insert(now)
    }

    /// Whether a host of a site does something odd now.
    pub fn misbehaves(&self, site: usize) -> bool {
        let (often, _) = self.outside().sites[site].often;
        often > 0 && self.random.below(100) < often
    }

    /// Whether a sender leaves now.
    pub fn sender_leaves(&self) -> bool {
        let (often, _) = self.outside().senders;
        often > 0 && self.random.below(100) < often
    }

    /// How the DNS is.
    pub fn dns(&self) -> DnsMood {
        self.outside().dns.0
    }

    /// A site misbehaves until then.
    pub fn put_site(&self, site: usize, often: usize, until: Duration) {
        self.outside().sites[site].often = (often, until);
    }

    /// Senders leave until then.
    pub fn put_senders(&self, often: usize, until: Duration) {
        self.outside().senders = (often, until);
    }

    /// The DNS is so until then.
    pub fn put_dns(&self, mood: DnsMood, until: Duration) {
        self.outside().dns = (mood, until);
    }

    /// What was to last until now ends.
    pub fn let_pass(&self, now: Duration) {
        let mut outside = self.outside();
        if outside.dns.1 <= now {
            outside.dns.0 = DnsMood::Well;
        }
        if outside.senders.1 <= now {
            outside.senders.0 = 0;
        }
        for site in &mut outside.sites {
            if site.often.1 <= now {
                site.often.0 = 0;
            }
        }
        if outside.disk_trouble_until <= now {
            outside.disk.set_capacity(256 << 20);
            outside.disk.set_inodes(INODES);
            outside.disk_trouble_until = Duration::ZERO;
        }
    }

    /// Operations of the disk fail so many times.
    pub fn fail_disk(&self, fault: Fault, times: u32) {
        self.outside().disk.fail(fault, times);
    }

    /// Whether anything keeps deliveries from being attempted in time, outside of the process.
    pub fn is_troubled(&self) -> bool {
        let outside = self.outside();
        outside.dns.0 != DnsMood::Well || outside.sites.iter().any(|site| site.often.0 > 0) || outside.disk_is_hurt()
    }

    /// Whether the disk is full, or its operations are to fail.
    pub fn disk_is_hurt(&self) -> bool {
        self.outside().disk_is_hurt()
    }

    /// The disk is full until then, or has no inodes left.
    pub fn fill_disk(&self, until: Duration, inodes: bool) {
        let mut outside = self.outside();
        if inodes {
            outside.disk.set_inodes(0);
        } else {
            let used = outside.disk.used();
            outside.disk.set_capacity(used + 10_000);
        }
        outside.disk_trouble_until = until;
    }

    /// All harm ceases.
    pub fn calm_down(&self) {
        {
            let mut outside = self.outside();
            outside.calm = true;
            outside.disk_trouble_until = Duration::ZERO;
            outside.disk.heal();
            for site in &mut outside.sites {
                site.often.1 = Duration::ZERO;
            }
            (outside.dns.1, outside.senders.1) = (Duration::ZERO, Duration::ZERO);
        }
        self.let_pass(Duration::ZERO);
    }

    /// Whether harm has ceased.
    pub fn is_calm(&self) -> bool {
        self.outside().calm
    }

    /// The process is gone, and with it all its connections.
    pub fn clear(&self) {
        for site in &mut self.outside().sites {
            site.open = 0;
        }
    }

    /// The site of a host.
    pub fn site_at(&self, address: IpAddr) -> Option<usize> {
        self.plan.sites.iter().position(|site| site.hosts.contains(&address))
    }

    /// What a host got against what was sent.
    pub fn compare(&self, ledger: &mut Ledger, address: &str, got: &[u8], eight_bit: bool) {
        let Some((token, _)) = numbers(address) else { return };
        let Some(mailing) = ledger.transactions.get(token).map(|it| &self.plan.mailings[it.mailing]) else { return };
        // What was converted on the way looks different.
        if mailing.eight_bit && !eight_bit {
            return;
        }
        let sent = content::content(token, mailing.size, mailing.eight_bit);
        if !got.ends_with(&sent) || !got.starts_with(b"Received: ") {
            let sizes = format!("{} octets sent, {} arrived", sent.len(), got.len());
            ledger.fail("content arrives as it was sent", format!("{address}: {sizes}"));
        }
    }

    fn outside(&self) -> MutexGuard<'_, Outside> {
        self.outside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outside {
    fn disk_is_hurt(&self) -> bool {
        self.disk.will_fail() || self.disk_trouble_until > Duration::ZERO
    }
}

impl Scene {
    /// The ledger, with its time set.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        let mut ledger = self.world.ledger();
        ledger.age = self.clock.age();
        ledger
    }

    /// The clocks.
    pub fn moment(&self) -> Moment {
        Moment { wall: self.clock.now(), jumps: self.clock.jumps() }
    }

    /// A line of the story.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let mut ledger = self.ledger();
        let age = ledger.age;
        ledger.trace.note(age, what);
        if ledger.failure.is_some() {
            self.alarm.notify_one();
        }
    }
}
