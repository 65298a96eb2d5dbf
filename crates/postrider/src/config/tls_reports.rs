//! `[tls_reports]`: telling other domains how TLS with their hosts went, and hearing it of ours.

use mail::{Host, LocalPart, Mailbox, Utf8};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tls::report::Submitter;

use super::places::Places;
use super::problem::Problem;
use super::types::{Configuration, minutes};
use super::units::{EmailAddress, Pattern, Period};

/// TLS reports (RFC 8460). `postrider tlsrpt` shows those that came and those that were sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsReports {
    /// Whether TLS sessions with mail hosts are counted, and reported once a day to the domains that ask for it.
    pub send: bool,
    /// Whom reports come from. If not set: `tls-reports@` and `hostname`. Its domain should have SPF and DKIM records that
    /// let this server send in its name.
    pub from: Option<EmailAddress>,
    /// The organisation that reports name as their sender; `hostname` if not set.
    pub organization: Option<String>,
    /// The address that reports name for questions. If not set: `postmaster@` and `hostname`.
    pub contact: Option<EmailAddress>,
    /// The address that others send their reports to. Its mail is not delivered but looked into and kept, whatever the
    /// route of its domain; mail without a report goes back to its sender. The domain must be one of `domains`.
    /// `postrider dns-records` prints the record to publish.
    pub address: Option<EmailAddress>,
    /// How long received reports are kept.
    pub keep: Period,
}

impl Default for TlsReports {
    fn default() -> Self {
        Self { send: false, from: None, organization: None, contact: None, address: None, keep: minutes(90 * 24 * 60) }
    }
}

impl TlsReports {
    /// Whether what can change only at a start is the same.
    pub fn is_like(&self, other: &Self) -> bool {
        let fixed = |these: &Self| Self { address: None, keep: Self::default().keep, ..these.clone() };
        fixed(self) == fixed(other)
    }
}

impl Configuration {
    /// As whom reports are sent.
    pub fn submitter(&self) -> Submitter {
        let (host, reports) = (&self.hostname.0, &self.tls_reports);
        let ours = || match LocalPart::parse("tls-reports", Utf8::Refused) {
            Ok(local) => Mailbox { local, host: Host::Domain(host.clone()) },
            Err(_) => unreachable!("a constant that is a local part"),
        };
        let contact = reports.contact.as_ref().map(|address| address.0.to_string());
        Submitter {
            host: host.clone(),
            organization: reports.organization.clone().unwrap_or_else(|| host.to_string()),
            contact: contact.unwrap_or_else(|| format!("postmaster@{host}")),
            from: reports.from.as_ref().map_or_else(ours, |address| address.0.clone()),
        }
    }

    /// The addresses whose mail this server serves itself.
    pub fn inside(&self) -> Vec<Mailbox> {
        self.tls_reports.address.iter().map(|address| address.0.clone()).collect()
    }
}

/// What contradicts itself here.
pub fn judge(configuration: &Configuration, places: &Places, problems: &mut Vec<Problem>) {
    let organization = configuration.tls_reports.organization.as_deref();
    if organization.is_some_and(|name| name.is_empty() || name.chars().any(char::is_control)) {
        let label = "empty, or not one line";
        problems.push(places.problem("tls_reports.organization", "this is no name of an organisation", label));
    }
    let Some(address) = &configuration.tls_reports.address else { return };
    let domain = address.0.host.domain().cloned().map(Pattern::Exact);
    let ours = |domain: Pattern| configuration.domains.iter().any(|pattern| pattern.covers(&domain));
    if !domain.is_some_and(ours) {
        let message = format!("reports to {} would be refused", address.0);
        let problem = places.problem("tls_reports.address", message, "relaying denied");
        problems.push(problem.help("add its domain to `domains`, or take an address of one that is there"));
    }
    let local = address.0.local.to_string();
    if ["postmaster", "abuse"].iter().any(|name| local.eq_ignore_ascii_case(name)) {
        let message = format!("people write to {}, and would not reach anybody", address.0);
        let problem = places.problem("tls_reports.address", message, "it takes TLS reports and nothing else");
        problems.push(problem.help("take an address of its own, such as tls-reports@"));
    }
}
