//! What holds for those who submit mail: `[submission]`, and for those who guess passwords: `[bans]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::places::Places;
use super::problem::Problem;
use super::types::Configuration;
use super::units::{Network, Period};

/// What holds for mail that accounts submit.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Submission {
    /// Whether Received fields leave out the address and name of the client. Accounts may differ.
    pub hide_client: bool,
    /// Whether accounts may send with the null sender, as programs do that report the reading of a message.
    pub null_sender: bool,
    /// The longest time that a client may have a message held before it goes (FUTURERELEASE); `"0s"`: not offered.
    pub future_release: Period,
    /// The least time that a client may demand for a delivery (DELIVERBY); `"0s"`: not offered.
    pub deliver_by: Period,
    /// Whether clients may say how urgent a message is (MT-PRIORITY).
    pub priority: bool,
    /// How much an account may send that has no limits of its own; beyond: 450 4.7.1.
    pub limits: AccountLimits,
    /// When the mail of an account is held because it is not like it.
    pub spikes: Spikes,
}

impl Default for Submission {
    fn default() -> Self {
        let settings = reception::Submission::default();
        Self {
            hide_client: settings.hide_client,
            null_sender: settings.null_sender,
            future_release: super::types::minutes(7 * 24 * 60),
            deliver_by: super::types::minutes(1),
            priority: true,
            limits: AccountLimits::default(),
            spikes: Spikes::default(),
        }
    }
}

/// How much an account may send.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AccountLimits {
    /// Messages in an hour.
    #[schemars(range(min = 1))]
    pub messages_per_hour: u32,
    /// Messages in a day.
    #[schemars(range(min = 1))]
    pub messages_per_day: u32,
    /// Recipients in an hour.
    #[schemars(range(min = 1))]
    pub recipients_per_hour: u32,
    /// Recipients in a day.
    #[schemars(range(min = 1))]
    pub recipients_per_day: u32,
}

impl Default for AccountLimits {
    fn default() -> Self {
        let limits = reception::AccountLimits::default();
        Self {
            messages_per_hour: limits.messages_per_hour,
            messages_per_day: limits.messages_per_day,
            recipients_per_hour: limits.recipients_per_hour,
            recipients_per_day: limits.recipients_per_day,
        }
    }
}

/// When an account's mail is accepted and held until an operator releases it: it sends to more recipients in 24 hours
/// than `floor`, and than `factor` times the average of those days of the last two weeks on which it sent anything.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Spikes {
    /// Whether mail is held for that.
    pub hold: bool,
    /// Recipients in 24 hours for which nobody is held.
    #[schemars(range(min = 1))]
    pub floor: u32,
    /// How many times the usual is too much.
    #[schemars(range(min = 2))]
    pub factor: u32,
}

impl Default for Spikes {
    fn default() -> Self {
        let rule = reception::SpikeRule::default();
        Self { hold: true, floor: rule.floor, factor: rule.factor }
    }
}

impl Submission {
    /// As reception takes it.
    pub fn to_settings(&self) -> reception::Submission {
        let limits = self.limits;
        let rule = reception::SpikeRule { floor: self.spikes.floor, factor: self.spikes.factor };
        reception::Submission {
            limits: reception::AccountLimits {
                messages_per_hour: limits.messages_per_hour,
                messages_per_day: limits.messages_per_day,
                recipients_per_hour: limits.recipients_per_hour,
                recipients_per_day: limits.recipients_per_day,
            },
            spikes: self.spikes.hold.then_some(rule),
            hide_client: self.hide_client,
            null_sender: self.null_sender,
        }
    }
}

/// What failed logins lead to: the reply comes ever later, and then the address (of IPv6: its network of 64 bits) is
/// refused at connect, on every listener that has AUTH.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bans {
    /// Whether addresses are banned. Replies are delayed in any case.
    pub enabled: bool,
    /// Failed logins of an address that bring a ban.
    #[schemars(range(min = 1, max = 10000))]
    pub failures: u32,
    /// In which time so many failed logins are forgotten.
    pub window: Period,
    /// The first ban of an address; each further one is twice as long.
    pub first: Period,
    /// The longest ban; so long after its end the address begins anew.
    pub most: Period,
    /// The delay of the reply to a first failed login; it doubles with each further one of the address or the account.
    pub delay: Period,
    /// The longest delay.
    pub delay_most: Period,
    /// Networks that are never banned for failed logins.
    pub allow: Vec<Network>,
    /// Whether the networks of `networks` and loopback are banned like all others.
    pub own_networks: bool,
}

impl Default for Bans {
    fn default() -> Self {
        let settings = reception::BanSettings::default();
        Self {
            enabled: settings.enabled,
            failures: settings.failures,
            window: Period(settings.window),
            first: Period(settings.first),
            most: Period(settings.most),
            delay: Period(settings.delay),
            delay_most: Period(settings.delay_most),
            allow: Vec::new(),
            own_networks: false,
        }
    }
}

impl Bans {
    /// As reception takes them; `own` are the operator's networks.
    pub fn to_settings(&self, own: &[Network]) -> reception::BanSettings {
        let mut spared = self.allow.clone();
        if !self.own_networks {
            spared.extend(own);
            spared.extend(super::types::loopback());
        }
        reception::BanSettings {
            enabled: self.enabled,
            failures: self.failures,
            window: self.window.0,
            first: self.first.0,
            most: self.most.0,
            delay: self.delay.0,
            delay_most: self.delay_most.0,
            spared: spared.iter().map(|network| reception::Network::around(network.address, network.prefix)).collect(),
        }
    }
}

/// What the two tables contradict.
pub(super) fn judge(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    let second = Period(std::time::Duration::from_secs(1));
    let bans = &configuration.bans;
    for (key, period) in [("window", bans.window), ("first", bans.first), ("most", bans.most)] {
        if period < second {
            let path = format!("bans.{key}");
            problems.push(places.problem(&path, format!("`{path}` must be a second or more"), ""));
        }
    }
    for (less, more, text) in [
        (("first", bans.first), ("most", bans.most), "the first ban is longer than the longest"),
        (("delay", bans.delay), ("delay_most", bans.delay_most), "the first delay is longer than the longest"),
    ] {
        if less.1 > more.1 {
            let label = format!("longer than `{}` ({})", more.0, more.1);
            problems.push(places.problem(&format!("bans.{}", less.0), text, label));
        }
    }
    if let Some(at) = bans.allow.iter().position(Network::is_the_world) {
        let problem = places.problem(&format!("bans.allow[{at}]"), "nobody would ever be banned or delayed", "");
        problems.push(problem.help("list networks of your own; `enabled = false` switches bans off"));
    }
    let limits = &configuration.submission.limits;
    for (hour, day, what) in [
        (limits.messages_per_hour, limits.messages_per_day, "messages"),
        (limits.recipients_per_hour, limits.recipients_per_day, "recipients"),
    ] {
        if hour > day {
            let path = format!("submission.limits.{what}_per_hour");
            let path = if places.is_set(&path) { path } else { format!("submission.limits.{what}_per_day") };
            let text = format!("an account may send more {what} in an hour than in a day");
            problems.push(places.problem(&path, text, format!("{hour} in an hour, {day} in a day")).warning());
        }
    }
}
