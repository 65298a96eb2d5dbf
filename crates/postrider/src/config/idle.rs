//! Keys that are set and do nothing, because of what another key says or does not say.

use super::accounts::{Accounts, Mechanism};
use super::listener::AuthUse;
use super::places::Places;
use super::problem::Problem;
use super::types::Configuration;

/// Keys that act only under a condition.
struct Idle {
    /// The condition fails.
    idle: bool,
    keys: &'static [&'static str],
    why: &'static str,
    cure: &'static str,
}

/// A warning for each key that does nothing.
pub(super) fn judge(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    for Idle { keys, why, cure, .. } in rules(configuration).into_iter().filter(|rule| rule.idle) {
        for key in keys.iter().filter(|key| places.is_set(key)) {
            problems.push(places.problem(key, format!("`{key}` does nothing"), why).warning().help(cure));
        }
    }
    accounts(configuration, places, problems);
    sources(configuration, places, problems);
}

fn rules(configuration: &Configuration) -> Vec<Idle> {
    let Configuration { mta_sts, tls_reports, submission, bans, reports, retry, delivery, .. } = configuration;
    let rule = |idle, keys, why, cure| Idle { idle, keys, why, cure };
    vec![
        rule(
            mta_sts.domains.is_empty(),
            &["mta_sts.listen", "mta_sts.mode", "mta_sts.max_age", "mta_sts.mx"],
            "no policy is served",
            "name the domains of the policy in `mta_sts.domains`",
        ),
        rule(
            !tls_reports.send,
            &["tls_reports.from", "tls_reports.organization", "tls_reports.contact"],
            "no reports are sent",
            "set `tls_reports.send = true`",
        ),
        rule(
            tls_reports.address.is_none(),
            &["tls_reports.keep"],
            "no reports are received",
            "name the address in `tls_reports.address`",
        ),
        rule(
            !submission.spikes.hold,
            &["submission.spikes.floor", "submission.spikes.factor"],
            "no mail is held",
            "leave `hold = false` out",
        ),
        rule(
            !bans.enabled,
            &["bans.first", "bans.most"],
            "nobody is banned",
            "leave `enabled = false` out; delays stay in any case",
        ),
        rule(
            configuration.accounts.is_none(),
            &["submission", "bans"],
            "there are no accounts, so that nobody can log in",
            "add the table [accounts]",
        ),
        rule(
            !reports.delay_after.0.is_zero() && reports.delay_after >= retry.expire,
            &["reports.delay_after"],
            "mail is given up before that",
            "choose less than `retry.expire`, or \"0s\" for never",
        ),
        rule(
            delivery.connections_at_first > delivery.connections_per_site,
            &["delivery.connections_at_first"],
            "more than `connections_per_site`",
            "choose at most `delivery.connections_per_site`",
        ),
        rule(
            configuration.queue.deliveries_per_destination > configuration.queue.deliveries,
            &["queue.deliveries_per_destination"],
            "more than `deliveries`",
            "choose at most `queue.deliveries`",
        ),
    ]
}

/// Accounts that nobody can log in to, and what not all kinds of them have.
fn accounts(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    let Some(accounts) = &configuration.accounts else { return };
    let by_certificate = configuration.client_certificate.iter().any(|client| client.account.is_some());
    let login = configuration.listeners().iter().any(|listener| listener.auth() != AuthUse::Off);
    if !login && !by_certificate {
        let problem =
            places.problem("accounts", "nobody can log in to an account", "no listener offers AUTH").warning();
        let cure = "add a listener for them:\n[[listener]]\nname = \"submissions\"\nrole = \"submissions\"\naddress = [\"0.0.0.0:465\", \"[::]:465\"]";
        problems.push(problem.help(cure));
    }
    let asked = accounts.ldap.is_some() || accounts.dovecot.is_some();
    if asked && places.is_set("accounts.parallel_checks") {
        let problem = places.problem("accounts.parallel_checks", "`accounts.parallel_checks` does nothing", "");
        problems.push(problem.warning().help("passwords are checked by the LDAP server or by Dovecot; leave it out"));
    }
    let wanted = accounts.mechanisms.iter().flat_map(|listed| listed.0.iter().enumerate());
    for (at, mechanism) in wanted {
        if let Some(why) = cannot(*mechanism, accounts, by_certificate) {
            let place = super::judge::listed_path("accounts.mechanisms", at, places);
            problems
                .push(places.problem(&place, "this mechanism is never offered", why).warning().help("leave it out"));
        }
    }
}

/// Why a mechanism is offered to nobody, if that is so.
fn cannot(mechanism: Mechanism, accounts: &Accounts, by_certificate: bool) -> Option<&'static str> {
    match mechanism {
        Mechanism::ScramSha256 | Mechanism::ScramSha256Plus if accounts.ldap.is_some() => {
            Some("an LDAP server checks whole passwords only")
        }
        Mechanism::External if !by_certificate => Some("no [[client_certificate]] stands for an account"),
        _ => None,
    }
}

/// The first source serves all routes that name none; another one must be named.
fn sources(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    for (at, source) in configuration.source.iter().enumerate().skip(1) {
        if !configuration.route.iter().any(|route| route.source.as_ref() == Some(&source.name)) {
            let message = format!("nothing leaves from the source `{}`", source.name);
            let problem = places.problem(&format!("source[{at}].name"), message, "no route names it").warning();
            problems.push(problem.help(format!("set `source = \"{}\"` in a route, or leave it out", source.name)));
        }
    }
}
