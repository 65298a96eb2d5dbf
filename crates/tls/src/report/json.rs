//! A report in its own form (RFC 8460 §4.4): written strictly, read from whoever wrote it.

use serde::{Deserialize, Serialize};

use super::lenient::{count, first, texts};

/// The most policies of a report that are kept.
pub(super) const MAX_POLICIES: usize = 200;
/// The most kinds of failures of one policy that are kept.
pub(super) const MAX_DETAILS: usize = 500;
/// The most lines of a policy that are kept.
pub(super) const MAX_LINES: usize = 300;

/// A report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Who sends it.
    #[serde(default)]
    pub organization_name: String,
    /// What time it is about.
    #[serde(default)]
    pub date_range: DateRange,
    /// Whom to ask.
    #[serde(default)]
    pub contact_info: String,
    /// Its name.
    #[serde(default)]
    pub report_id: String,
    /// What happened, by policy.
    #[serde(default, deserialize_with = "first::<MAX_POLICIES, _, _>")]
    pub policies: Vec<PolicyResult>,
}

/// A time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DateRange {
    /// From.
    #[serde(default)]
    pub start_datetime: String,
    /// To.
    #[serde(default)]
    pub end_datetime: String,
}

/// What happened under one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PolicyResult {
    /// The policy.
    #[serde(default)]
    pub policy: Policy,
    /// How many sessions there were.
    #[serde(default)]
    pub summary: Summary,
    /// What went wrong.
    #[serde(default, deserialize_with = "first::<MAX_DETAILS, _, _>", skip_serializing_if = "Vec::is_empty")]
    pub failure_details: Vec<FailureDetail>,
}

/// A policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Policy {
    /// `tlsa`, `sts` or `no-policy-found`.
    #[serde(default)]
    pub policy_type: String,
    /// Its text, line by line or record by record.
    #[serde(default, deserialize_with = "texts::<MAX_LINES, _>", skip_serializing_if = "Vec::is_empty")]
    pub policy_string: Vec<String>,
    /// Whose it is.
    #[serde(default)]
    pub policy_domain: String,
    /// The hosts that it names.
    #[serde(default, deserialize_with = "texts::<MAX_LINES, _>", skip_serializing_if = "Vec::is_empty")]
    pub mx_host: Vec<String>,
}

/// Counts of sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// Sessions that fulfilled the policy.
    #[serde(default, deserialize_with = "count")]
    pub total_successful_session_count: u64,
    /// Sessions that did not.
    #[serde(default, deserialize_with = "count")]
    pub total_failure_session_count: u64,
}

/// Sessions that failed in one way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FailureDetail {
    /// In which way (§4.3).
    #[serde(default)]
    pub result_type: String,
    /// The sender's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sending_mta_ip: Option<String>,
    /// The mail host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiving_mx_hostname: Option<String>,
    /// What the mail host called itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiving_mx_helo: Option<String>,
    /// The mail host's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receiving_ip: Option<String>,
    /// How many sessions.
    #[serde(default, deserialize_with = "count")]
    pub failed_session_count: u64,
    /// Where there is more to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub additional_information: Option<String>,
    /// More about the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason_code: Option<String>,
}

impl Report {
    /// The sessions of all policies together.
    pub fn totals(&self) -> Summary {
        let mut totals = Summary::default();
        for Summary { total_successful_session_count: good, total_failure_session_count: bad } in
            self.policies.iter().map(|result| result.summary)
        {
            totals.total_successful_session_count = totals.total_successful_session_count.saturating_add(good);
            totals.total_failure_session_count = totals.total_failure_session_count.saturating_add(bad);
        }
        totals
    }

    /// The domains whose policies it is about, each once.
    pub fn domains(&self) -> Vec<&str> {
        let mut domains: Vec<_> = self.policies.iter().map(|result| result.policy.policy_domain.as_str()).collect();
        domains.sort_unstable();
        domains.dedup();
        domains
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_ways_of_writing_are_read() {
        let text = r#"{"organization-name":"A","policies":[{"policy":{"policy-type":"sts","mx-host":"*.example.org",
            "policy-string":null,"policy-domain":"example.org"},"summary":{"total-successful-session-count":"7"},
            "failure-details":[{"result-type":"certificate-expired","failed-session-count":2,"new":{}}]}],"extra":1}"#;
        let report: Report = serde_json::from_str(text).unwrap();
        assert_eq!(report.policies[0].policy.mx_host, ["*.example.org"]);
        assert_eq!(report.totals().total_successful_session_count, 7);
        assert_eq!(report.domains(), ["example.org"]);
    }
}
