//! The extensions that a server offers in its answer to EHLO or LHLO (RFC 5321 §4.1.1.1).
//!
//! The server writes [`Extensions::keywords`], the client reads each line with [`Extensions::take`].

use mail::Timestamp;

use crate::sasl;

/// What a server offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// SIZE (RFC 1870).
    pub size: Option<SizeOffer>,
    /// 8BITMIME (RFC 6152).
    pub eight_bit_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub utf8: bool,
    /// ENHANCEDSTATUSCODES (RFC 2034).
    pub enhanced_status_codes: bool,
    /// DSN (RFC 3461).
    pub dsn: bool,
    /// CHUNKING: the BDAT command (RFC 3030).
    pub chunking: bool,
    /// BINARYMIME (RFC 3030).
    pub binary_mime: bool,
    /// LIMITS (RFC 9422).
    pub limits: Option<OfferedLimits>,
    /// STARTTLS (RFC 3207).
    pub starttls: bool,
    /// REQUIRETLS (RFC 8689).
    pub require_tls: bool,
    /// AUTH with these mechanisms, in upper case; none: not offered (RFC 4954).
    pub auth: Vec<String>,
    /// DELIVERBY: the least time for mode `R`, in seconds; zero for no least (RFC 2852 §2).
    pub deliver_by: Option<u32>,
    /// FUTURERELEASE (RFC 4865).
    pub future_release: Option<FutureReleaseOffer>,
    /// MT-PRIORITY (RFC 6710).
    pub priority: bool,
    /// XCLIENT, for clients that may speak for others.
    pub xclient: bool,
}

/// The figures of FUTURERELEASE (RFC 4865 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FutureReleaseOffer {
    /// For how many seconds a message may be held; at most nine digits.
    pub longest: u32,
    /// Until when, to the second.
    pub latest: Timestamp,
}

/// The SIZE extension with or without a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeOffer {
    /// No figure, or zero: no fixed limit is known (RFC 1870 §4).
    Unknown,
    /// The largest message in octets.
    Limit(u64),
}

/// The figures of LIMITS (RFC 9422 §4); each has one to six digits and is not zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfferedLimits {
    /// MAILMAX: transactions in one session.
    pub transactions: Option<u32>,
    /// RCPTMAX: recipients in one transaction.
    pub recipients: Option<u32>,
    /// RCPTDOMAINMAX: different recipient domains in one transaction.
    pub domains: Option<u32>,
}

/// The attributes of XCLIENT that we take.
pub(crate) const XCLIENT_ATTRIBUTES: &str = "XCLIENT NAME ADDR PORT PROTO HELO DESTADDR DESTPORT";
/// The largest figure that LIMITS can carry: six digits.
const MAX_LIMIT: u32 = 999_999;

impl Extensions {
    /// Takes in one line of the answer, without its code; the first line, the server's name, is none of them. What is
    /// not known or malformed is passed over, as RFC 5321 §4.1.1.1 asks.
    pub fn take(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        let Some(keyword) = words.next() else { return };
        match keyword.to_ascii_uppercase().as_str() {
            "PIPELINING" => self.pipelining = true,
            "SIZE" => {
                self.size = Some(match words.next().and_then(|figure| figure.parse().ok()) {
                    None | Some(0) => SizeOffer::Unknown,
                    Some(limit) => SizeOffer::Limit(limit),
                });
            }
            "8BITMIME" => self.eight_bit_mime = true,
            "SMTPUTF8" => self.utf8 = true,
            "ENHANCEDSTATUSCODES" => self.enhanced_status_codes = true,
            "DSN" => self.dsn = true,
            "CHUNKING" => self.chunking = true,
            "BINARYMIME" => self.binary_mime = true,
            "STARTTLS" => self.starttls = true,
            "REQUIRETLS" => self.require_tls = true,
            "AUTH" => words.for_each(|word| self.mechanism(word)),
            "DELIVERBY" => self.deliver_by = Some(words.next().and_then(|least| least.parse().ok()).unwrap_or(0)),
            "FUTURERELEASE" => self.future_release = FutureReleaseOffer::read(words),
            "MT-PRIORITY" => self.priority = true,
            "LIMITS" => self.limits = Some(OfferedLimits::read(words)),
            "XCLIENT" => self.xclient = true,
            keyword => {
                // Servers older than RFC 2554 wrote `AUTH=LOGIN`, and some write both.
                if let Some(first) = keyword.strip_prefix("AUTH=") {
                    self.mechanism(first);
                    words.for_each(|word| self.mechanism(word));
                }
            }
        }
    }

    fn mechanism(&mut self, word: &str) {
        let name = word.to_ascii_uppercase();
        if sasl::is_mechanism(&name) && !self.auth.contains(&name) {
            self.auth.push(name);
        }
    }

    /// The lines to offer, each a keyword with its figures.
    pub fn keywords(&self) -> Vec<String> {
        let size = self.size.map(|size| match size {
            SizeOffer::Unknown => "SIZE".to_owned(),
            SizeOffer::Limit(limit) => format!("SIZE {limit}"),
        });
        let simple = [
            (self.pipelining, "PIPELINING"),
            (self.eight_bit_mime, "8BITMIME"),
            (self.utf8, "SMTPUTF8"),
            (self.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
            (self.dsn, "DSN"),
            (self.chunking, "CHUNKING"),
            (self.binary_mime, "BINARYMIME"),
            (self.starttls, "STARTTLS"),
            (self.require_tls, "REQUIRETLS"),
            (self.priority, "MT-PRIORITY"),
            (self.xclient, XCLIENT_ATTRIBUTES),
        ];
        let auth = (!self.auth.is_empty()).then(|| format!("AUTH {}", self.auth.join(" ")));
        let deliver_by = self.deliver_by.map(|least| match least {
            0 => "DELIVERBY".to_owned(),
            least => format!("DELIVERBY {least}"),
        });
        let future_release = self.future_release.map(FutureReleaseOffer::line);
        let simple = simple.into_iter().filter(|(offered, _)| *offered).map(|(_, keyword)| keyword.to_owned());
        let figured = [auth, deliver_by, future_release, self.limits.map(OfferedLimits::line)];
        size.into_iter().chain(simple).chain(figured.into_iter().flatten()).collect()
    }
}

impl FutureReleaseOffer {
    fn read<'a>(mut words: impl Iterator<Item = &'a str>) -> Option<Self> {
        let longest = words.next()?.parse().ok()?;
        Some(Self { longest, latest: Timestamp::parse_rfc3339(words.next()?)? })
    }

    fn line(self) -> String {
        let latest = Timestamp::from_millis(self.latest.as_secs() * 1000).to_string();
        format!("FUTURERELEASE {} {}Z", self.longest, latest.split('.').next().unwrap_or_default())
    }
}

impl OfferedLimits {
    fn read<'a>(words: impl Iterator<Item = &'a str>) -> Self {
        let mut limits = Self::default();
        for word in words {
            let Some((name, figure)) = word.split_once('=') else { continue };
            let figure = figure.parse().ok().filter(|figure| (1..=MAX_LIMIT).contains(figure));
            match name.to_ascii_uppercase().as_str() {
                "MAILMAX" => limits.transactions = figure,
                "RCPTMAX" => limits.recipients = figure,
                "RCPTDOMAINMAX" => limits.domains = figure,
                _ => {}
            }
        }
        limits
    }

    fn line(self) -> String {
        let mut line = "LIMITS".to_owned();
        let figures = [("MAILMAX", self.transactions), ("RCPTMAX", self.recipients), ("RCPTDOMAINMAX", self.domains)];
        for (name, figure) in figures {
            if let Some(figure) = figure.filter(|&figure| figure > 0) {
                line.push_str(&format!(" {name}={}", figure.min(MAX_LIMIT)));
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn strange_lines_are_passed_over() {
        let mut offered = Extensions::default();
        for line in [
            "",
            "XYZZY 1",
            "SIZE huge",
            "limits rcptmax=0 RCPTMAX MAILMAX=20 foo=1",
            "8bitmime x",
            "auth plain LOGIN",
            "AUTH=LOGIN CRAM-MD5",
            "AUTH (x)",
            "DELIVERBY soon",
            "FUTURERELEASE 5",
            "AUTH=",
        ] {
            offered.take(line);
        }
        let limits = OfferedLimits { transactions: Some(20), ..OfferedLimits::default() };
        let expected = Extensions {
            size: Some(SizeOffer::Unknown),
            eight_bit_mime: true,
            limits: Some(limits),
            auth: vec!["PLAIN".into(), "LOGIN".into(), "CRAM-MD5".into()],
            deliver_by: Some(0),
            ..Extensions::default()
        };
        assert_eq!(offered, expected);
    }

    #[test]
    fn a_figure_for_limits_has_six_digits_at_most() {
        // RFC 9422 §4: no more than six digits, never zero.
        let limits = OfferedLimits { transactions: Some(5_000_000), recipients: Some(0), domains: None };
        assert_eq!(limits.line(), "LIMITS MAILMAX=999999");
    }

    proptest! {
        #[test]
        fn what_is_offered_is_understood(
            flags in any::<[bool; 11]>(),
            auth in proptest::collection::btree_set("[A-Z0-9_-]{1,20}", 0..4),
            deliver_by in any::<Option<u32>>(),
            future_release in proptest::option::of((any::<u32>(), 0..4_000_000_000_u64)),
            size in proptest::option::of(any::<u64>()),
            limits in proptest::option::of((1..=MAX_LIMIT, proptest::option::of(1..=MAX_LIMIT))),
        ) {
            let [pipelining, eight_bit_mime, utf8, enhanced_status_codes, dsn, chunking, binary_mime, xclient, ..] = flags;
            let [.., starttls, require_tls, priority] = flags;
            let future_release = future_release.map(|(longest, seconds)| {
                FutureReleaseOffer { longest, latest: Timestamp::from_millis(seconds * 1000) }
            });
            let size = size.map(|size| if size == 0 { SizeOffer::Unknown } else { SizeOffer::Limit(size) });
            let limits = limits.map(|(recipients, transactions)| {
                OfferedLimits { transactions, recipients: Some(recipients), domains: transactions }
            });
            let offer = Extensions {
                pipelining, size, eight_bit_mime, utf8, enhanced_status_codes, dsn, chunking, binary_mime, limits, xclient,
                starttls, require_tls, priority, deliver_by, future_release, auth: auth.into_iter().collect(),
            };
            let mut understood = Extensions::default();
            offer.keywords().iter().for_each(|line| understood.take(line));
            prop_assert_eq!(understood, offer);
        }
    }
}
