//! Which tables there are, and how large they may grow.

/// A table. Its name in the file never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// MTA-STS policies by domain.
    StsPolicies,
    /// TLS sessions counted for the reports to come.
    TlsSessions,
    /// TLS reports, received and to be sent.
    TlsReports,
    /// Addresses that may not connect.
    Bans,
    /// Failed authentications by address and account.
    AuthFailures,
    /// What accounts sent.
    AccountUse,
    /// Passwords of applications.
    AppPasswords,
    /// The account with a certificate authority, and what it issued.
    Acme,
}

impl Table {
    /// All of them.
    pub(super) const ALL: [Table; 8] = [
        Table::StsPolicies,
        Table::TlsSessions,
        Table::TlsReports,
        Table::Bans,
        Table::AuthFailures,
        Table::AccountUse,
        Table::AppPasswords,
        Table::Acme,
    ];

    /// In the file.
    pub(super) fn name(self) -> &'static str {
        match self {
            Table::StsPolicies => "sts-policies",
            Table::TlsSessions => "tls-sessions",
            Table::TlsReports => "tls-reports",
            Table::Bans => "bans",
            Table::AuthFailures => "auth-failures",
            Table::AccountUse => "account-use",
            Table::AppPasswords => "app-passwords",
            Table::Acme => "acme",
        }
    }

    /// In the file, of the index by expiry.
    pub(super) fn expiry_name(self) -> &'static str {
        match self {
            Table::StsPolicies => "sts-policies.expiry",
            Table::TlsSessions => "tls-sessions.expiry",
            Table::TlsReports => "tls-reports.expiry",
            Table::Bans => "bans.expiry",
            Table::AuthFailures => "auth-failures.expiry",
            Table::AccountUse => "account-use.expiry",
            Table::AppPasswords => "app-passwords.expiry",
            Table::Acme => "acme.expiry",
        }
    }

    /// The most records.
    pub(super) fn most(self) -> u64 {
        match self {
            Table::StsPolicies => 20_000,
            Table::TlsReports => 2_000,
            Table::Acme => 1_000,
            Table::TlsSessions | Table::Bans | Table::AuthFailures | Table::AccountUse | Table::AppPasswords => 200_000,
        }
    }

    /// The most octets of a record, its key included.
    pub(super) fn largest(self) -> usize {
        match self {
            // RFC 8461 §3.3 suggests that policies of more than 64 KiB be refused.
            Table::StsPolicies => 80 << 10,
            Table::TlsReports | Table::Acme => 256 << 10,
            Table::TlsSessions | Table::AccountUse => 16 << 10,
            Table::Bans | Table::AuthFailures | Table::AppPasswords => 4 << 10,
        }
    }
}
