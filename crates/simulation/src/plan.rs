//! From a seed to a world: who sends what to whom, how everybody is, and which harm comes when.
//!
//! Everything is drawn before the world begins, each part from a generator of its own, so that a part that is left out
//! to shorten a trace changes the others as little as possible.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use mail::Randomness;
use shaping::{BackoffSettings, Intervals, Jitter, Limits, RetrySchedule};

use crate::harm::{self, Harm, Kind};
use crate::planted::Planted;
use crate::ways::{self, Way};

/// What decides a run, completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// Kinds of harm that are left out.
    pub without: BTreeSet<Kind>,
    /// The most messages.
    pub messages: Option<usize>,
    /// The most pieces of harm.
    pub harms: Option<usize>,
    /// Always a large world: thousands of senders, tens of domains, weeks.
    pub large: bool,
    /// A fault that is put in on purpose.
    pub planted: Option<Planted>,
}

impl Options {
    /// A seed as it is.
    pub fn seed(seed: u64) -> Self {
        Self { seed, without: BTreeSet::new(), messages: None, harms: None, large: false, planted: None }
    }

    /// The command that runs exactly this.
    pub fn command(&self) -> String {
        let mut command = format!("./dev simulate --seed {}", self.seed);
        if self.large {
            command += " --large";
        }
        if !self.without.is_empty() {
            let kinds: Vec<&str> = self.without.iter().map(|kind| kind.word()).collect();
            command += &format!(" --without {}", kinds.join(","));
        }
        for (name, value) in [("messages", self.messages), ("harms", self.harms)] {
            if let Some(value) = value {
                command += &format!(" --{name} {value}");
            }
        }
        if let Some(planted) = self.planted {
            command += &format!(" --planted {}", planted.word());
        }
        command
    }
}

/// The whole plan of a world.
#[derive(Debug)]
pub struct Plan {
    /// Where mail goes.
    pub sites: Vec<Site>,
    /// Which way it goes to each of them at the beginning.
    pub ways: Vec<Way>,
    /// Where it comes from.
    pub senders: Vec<Sender>,
    /// What is sent, in the order in which it is first tried.
    pub mailings: Vec<Mailing>,
    /// What happens beside, in order.
    pub harms: Vec<(Duration, Harm)>,
    /// When harm ceases.
    pub calm: Duration,
    /// How the process is set.
    pub policy: Policy,
}

/// The settings of the process that the world holds it to.
#[derive(Clone, Debug)]
pub struct Policy {
    /// When deliveries are tried.
    pub retry: RetrySchedule,
    /// The bounds of connections going out.
    pub limits: Limits,
    /// How lanes rest.
    pub backoff: BackoffSettings,
    /// Connections going out, in total.
    pub connections: usize,
    /// Deliveries in memory.
    pub in_memory: usize,
    /// Deliveries in memory of one destination: as many new ones, and as many others.
    pub destination: usize,
    /// Deliveries ready in one lane.
    pub lane: usize,
    /// Connections coming in: in total, and from one address.
    pub incoming: (usize, usize),
    /// Octets of content in flight.
    pub in_flight: u64,
}

/// The hosts of one provider, and the domains that it serves.
#[derive(Clone, Debug)]
pub struct Site {
    /// The addresses of its hosts.
    pub hosts: Vec<IpAddr>,
    /// Its domains.
    pub domains: Vec<String>,
    /// Whether it offers DSN.
    pub dsn: bool,
    /// Whether it offers PIPELINING, 8BITMIME and CHUNKING.
    pub modern: bool,
    /// For how long it puts off what it sees for the first time.
    pub greylist: Option<Duration>,
    /// Connections that it bears.
    pub bears: usize,
    /// Messages that it takes over one connection.
    pub per_connection: u32,
}

/// A client.
#[derive(Clone, Debug)]
pub struct Sender {
    /// Where it connects from.
    pub address: IpAddr,
    /// The domain of its users.
    pub domain: String,
    /// Whether it sends ahead.
    pub pipelines: bool,
    /// Whether it gives content by BDAT.
    pub chunks: bool,
    /// Messages that it gives over one connection.
    pub per_connection: usize,
}

/// A message that somebody wants to be sent.
#[derive(Clone, Debug)]
pub struct Mailing {
    /// When.
    pub at: Duration,
    /// Who, by its place in the plan.
    pub sender: usize,
    /// Whether it is from `<>`.
    pub null: bool,
    /// Whether reports to its sender are refused.
    pub deaf: bool,
    /// To whom.
    pub recipients: Vec<Addressee>,
    /// Octets of its body.
    pub size: usize,
    /// Whether it has octets above 127.
    pub eight_bit: bool,
    /// The sender's name for the transaction.
    pub envid: bool,
    /// `RET=FULL`, `RET=HDRS`, or nothing.
    pub ret: Option<&'static str>,
}

/// A recipient of a mailing.
#[derive(Clone, Debug)]
pub struct Addressee {
    /// Its domain.
    pub domain: String,
    /// How its host treats it.
    pub fate: Fate,
    /// `NOTIFY`, if it is given.
    pub notify: Option<&'static str>,
}

/// How a recipient's host treats it, whatever else happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is taken.
    Good,
    /// There is no such user.
    Bad,
    /// It is put off for ever.
    Full,
}

impl Fate {
    /// The first letter of its address.
    pub fn letter(self) -> char {
        match self {
            Fate::Good => 'g',
            Fate::Bad => 'b',
            Fate::Full => 'f',
        }
    }
}

/// How large a world is.
struct Scale {
    sites: usize,
    domains: usize,
    senders: usize,
    messages: usize,
    recipients: usize,
    span: Duration,
    harms: usize,
    /// Reloads and orderly restarts.
    changes: usize,
}

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

impl Plan {
    /// The plan of a seed.
    pub fn new(options: &Options) -> Self {
        let stream =
            |number: u64| Randomness::seeded(options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number));
        let shape = stream(1);
        let scale = Scale::draw(&shape, options.large);
        let policy = Policy::draw(&stream(2), options.large);
        let sites = draw_sites(&stream(3), &scale);
        let senders = draw_senders(&stream(4), &scale, &sites);
        let mut mailings = draw_mailings(&stream(5), &scale, &sites, &senders);
        mailings.truncate(options.messages.unwrap_or(usize::MAX));
        let mut harms = harm::draw(&stream(6), scale.harms, scale.span, sites.len());
        harms.truncate(options.harms.unwrap_or(usize::MAX));
        let changing = stream(7);
        let mut ways = ways::draw(&changing, sites.len());
        if options.without.contains(&Kind::Routes) {
            ways.fill(Way::Exchanges);
        }
        let mut changes = harm::draw_changes(&changing, scale.changes, scale.span, sites.len());
        changes.truncate(options.harms.unwrap_or(usize::MAX));
        harms.extend(changes);
        harms.sort_by_key(|(at, _)| *at);
        harms.retain(|(_, harm)| !options.without.contains(&harm.kind()));
        let calm = scale.span + policy.retry.expire.min(HOUR);
        Self { sites, ways, senders, mailings, harms, calm, policy }
    }

    /// The site of a domain, by its place in the plan.
    pub fn site_of(&self, domain: &str) -> Option<usize> {
        self.sites.iter().position(|site| site.domains.iter().any(|own| own == domain))
    }
}

impl Scale {
    fn draw(random: &Randomness, large: bool) -> Self {
        if large {
            return Self {
                sites: 25,
                domains: 60,
                senders: 2000,
                messages: 4000,
                recipients: 20,
                span: 14 * DAY,
                harms: 60,
                changes: 8,
            };
        }
        Self {
            sites: 1 + random.below(4),
            domains: 1 + random.below(5),
            senders: 1 + random.below(5),
            messages: 1 + random.below(14),
            recipients: 1 + random.below(6),
            span: [10 * MINUTE, HOUR, 3 * HOUR][random.below(3)],
            harms: random.below(12),
            changes: random.below(4),
        }
    }
}

impl Policy {
    fn draw(random: &Randomness, large: bool) -> Self {
        let mut retry = RetrySchedule::default();
        let long = large || random.below(16) == 0;
        if !long {
            let first = MINUTE * (1 + random.below(5) as u32);
            retry.intervals = Intervals::doubling(first, first * (1 << random.below(4))).unwrap_or_default();
            retry.expire = HOUR * (1 + random.below(8) as u32);
            retry.expire_bounces = retry.expire / 2;
            retry.delay_notice = [None, Some(HOUR / 2), Some(HOUR)][random.below(3)];
        }
        retry.jitter = Jitter::new([0.0, 0.05, 0.1][random.below(3)]);
        let limits = Limits {
            start: 1 + random.below(2) as u32,
            per_site: if large { 20 } else { 1 + random.below(4) as u32 },
            per_source: if large { 200 } else { 1 + random.below(6) as u32 },
            ..Limits::default()
        };
        let backoff =
            BackoffSettings { first: MINUTE, most: MINUTE * (2 + random.below(20) as u32), ..Default::default() };
        // Independent of each other: a destination's may be many times its lane's.
        let window = |sizes: [usize; 4]| sizes[if large { 2 + random.below(2) } else { random.below(4) }];
        Self {
            retry,
            limits,
            backoff,
            connections: if large { 300 } else { 1 + random.below(10) },
            in_memory: if large { 500 } else { [4, 16, 1000][random.below(3)] },
            incoming: if large { (100, 4) } else { (1 + random.below(6), 1 + random.below(3)) },
            in_flight: [64 << 10, 1 << 20][random.below(2)],
            destination: window([2, 10, 50, 1000]),
            lane: window([2, 10, 50, 10_000]),
        }
    }
}

fn draw_sites(random: &Randomness, scale: &Scale) -> Vec<Site> {
    let site = |number: usize| Site {
        hosts: (0..1 + random.below(2)).map(|host| address([203, 0, 113], number * 4 + host)).collect(),
        domains: Vec::new(),
        dsn: random.below(2) == 0,
        modern: random.below(4) > 0,
        greylist: (random.below(5) == 0).then(|| MINUTE * (1 + random.below(8) as u32)),
        bears: if random.below(3) == 0 { 1 + random.below(2) } else { 1000 },
        per_connection: if random.below(4) == 0 { 1 + random.below(2) as u32 } else { 1000 },
    };
    let mut sites: Vec<Site> = (0..scale.sites).map(site).collect();
    for number in 0..scale.domains.max(scale.sites) {
        let at = if number < sites.len() { number } else { random.below(sites.len()) };
        sites[at].domains.push(format!("d{number}.example"));
    }
    sites
}

fn draw_senders(random: &Randomness, scale: &Scale, sites: &[Site]) -> Vec<Sender> {
    let sender = |number: usize| Sender {
        // Some share an address.
        address: address([10, (number >> 16) as u8, (number >> 8) as u8], (number & 0xff) / 2),
        domain: domain(random, sites),
        pipelines: random.below(2) == 0,
        chunks: random.below(3) == 0,
        per_connection: 1 + random.below(4),
    };
    (0..scale.senders).map(sender).collect()
}

fn draw_mailings(random: &Randomness, scale: &Scale, sites: &[Site], senders: &[Sender]) -> Vec<Mailing> {
    let span = scale.span.as_millis() as usize;
    let addressee = || Addressee {
        domain: domain(random, sites),
        fate: match random.below(8) {
            0 => Fate::Bad,
            1 if random.below(3) == 0 => Fate::Full,
            _ => Fate::Good,
        },
        notify: match random.below(8) {
            0 => Some("NEVER"),
            1 => Some("SUCCESS"),
            2 => Some("SUCCESS,FAILURE,DELAY"),
            3 => Some("FAILURE"),
            _ => None,
        },
    };
    let mailing = |_| Mailing {
        // Most come in bursts at the beginning, for that is when things meet.
        at: Duration::from_millis(random.below(if random.below(3) == 0 { span } else { 1 + span / 20 }) as u64),
        sender: random.below(senders.len()),
        null: random.below(6) == 0,
        deaf: random.below(10) == 0,
        recipients: (0..1 + random.below(scale.recipients)).map(|_| addressee()).collect(),
        size: match random.below(12) {
            0 => 40_000 + random.below(40_000),
            1 => 0,
            _ => random.below(2500),
        },
        eight_bit: random.below(5) == 0,
        envid: random.below(4) == 0,
        ret: [None, Some("FULL"), Some("HDRS")][random.below(3)],
    };
    let mut mailings: Vec<Mailing> = (0..scale.messages).map(mailing).collect();
    mailings.sort_by_key(|mailing| mailing.at);
    mailings
}

fn domain(random: &Randomness, sites: &[Site]) -> String {
    let site = &sites[random.below(sites.len())];
    site.domains[random.below(site.domains.len())].clone()
}

fn address(network: [u8; 3], host: usize) -> IpAddr {
    Ipv4Addr::new(network[0], network[1], network[2], host as u8 + 1).into()
}
