//! What one answer of a name server says about a question.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use mail::Domain;

use crate::{LookupError, MAX_ALIASES, MAX_RECORDS, MxAnswer, MxRecord, TlsaRecord};

/// The kinds of records that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Mail exchanges.
    Mx,
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Which certificates a service has.
    Tlsa,
    /// Texts.
    Txt,
    /// Names of an address.
    Ptr,
    /// The alias itself.
    Cname,
}

impl Kind {
    pub(crate) fn record_type(self) -> RecordType {
        match self {
            Kind::Mx => RecordType::MX,
            Kind::A => RecordType::A,
            Kind::Aaaa => RecordType::AAAA,
            Kind::Tlsa => RecordType::TLSA,
            Kind::Txt => RecordType::TXT,
            Kind::Ptr => RecordType::PTR,
            Kind::Cname => RecordType::CNAME,
        }
    }
}

/// The records of one kind, as the rest of the program knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Records {
    Mx(MxAnswer),
    Addresses(Arc<[IpAddr]>),
    Tlsa(Arc<[TlsaRecord]>),
    Txt(Arc<[Vec<u8>]>),
    Names(Arc<[Domain]>),
    Alias,
}

/// The parts of an answer that count.
pub(crate) struct Response {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    /// Whether DNSSEC vouches for all of the answers.
    pub(crate) secure: bool,
    /// The negative TTL in seconds, if the answer has an SOA record (RFC 2308 §5).
    pub(crate) negative_ttl: Option<u32>,
}

/// What to do with an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It has the records.
    Found { records: Records, ttl: u32, at: Name },
    /// It is a final no. Without a TTL it is not to be kept.
    Nothing { error: LookupError, ttl: Option<u32> },
    /// It has only aliases: ask for this name.
    Alias { to: Name, ttl: u32, followed: usize },
    /// It leads nowhere.
    Astray { why: &'static str },
}

/// Reads an answer to the question for `kind` records of `name`. The TTL is the lowest of all records used, for each of
/// the aliases on the way may change.
pub(crate) fn read(response: &Response, name: &Name, kind: Kind) -> Step {
    let wanted = kind.record_type();
    let (mut at, mut ttl) = (name, u32::MAX);
    for followed in 0..=MAX_ALIASES {
        let here = || response.answers.iter().filter(|record| record.name == *at);
        let found: Vec<&Record> = here().filter(|record| record.record_type() == wanted).collect();
        if !found.is_empty() {
            let ttl = found.iter().map(|record| bounded(record.ttl)).fold(ttl, u32::min);
            return Step::Found { records: records(kind, &found), ttl, at: at.clone() };
        }
        let Some((target, alias_ttl)) = here().find_map(alias) else {
            return no_records(response, at, ttl, followed);
        };
        (at, ttl) = (target, ttl.min(bounded(alias_ttl)));
    }
    Step::Astray { why: "too many aliases (CNAME) in a row" }
}

/// The answer ends at the name `at` without the records asked for.
fn no_records(response: &Response, at: &Name, ttl: u32, followed: usize) -> Step {
    // RFC 6604 §3: the code is about the last name of the chain.
    let error = match response.code {
        ResponseCode::NXDomain => LookupError::NoSuchDomain,
        _ => LookupError::NoRecords,
    };
    let is_whole = followed == 0 || response.negative_ttl.is_some() || error == LookupError::NoSuchDomain;
    if !is_whole {
        return Step::Alias { to: at.clone(), ttl, followed };
    }
    Step::Nothing { error, ttl: response.negative_ttl.map(|negative| bounded(negative).min(ttl)) }
}

fn alias(record: &Record) -> Option<(&Name, u32)> {
    match &record.data {
        RData::CNAME(target) => Some((&target.0, record.ttl)),
        _ => None,
    }
}

/// RFC 2181 §8: a TTL with the highest bit set counts as zero.
fn bounded(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

fn records(kind: Kind, found: &[&Record]) -> Records {
    match kind {
        Kind::Mx => Records::Mx(mx(found)),
        Kind::A | Kind::Aaaa => Records::Addresses(found.iter().filter_map(address).take(MAX_RECORDS).collect()),
        Kind::Tlsa => Records::Tlsa(found.iter().filter_map(tlsa).take(MAX_RECORDS).collect()),
        Kind::Txt => Records::Txt(found.iter().filter_map(text).take(MAX_RECORDS).collect()),
        Kind::Ptr => Records::Names(found.iter().filter_map(target).take(MAX_RECORDS).collect()),
        Kind::Cname => Records::Alias,
    }
}

fn tlsa(record: &&Record) -> Option<TlsaRecord> {
    let RData::TLSA(tlsa) = &record.data else { return None };
    Some(TlsaRecord {
        usage: tlsa.cert_usage.into(),
        selector: tlsa.selector.into(),
        matching: tlsa.matching.into(),
        data: tlsa.cert_data.as_slice().into(),
    })
}

/// RFC 7208 §3.3, RFC 8461 §3.1: the strings of a record are one text.
fn text(record: &&Record) -> Option<Vec<u8>> {
    let RData::TXT(text) = &record.data else { return None };
    Some(text.txt_data.concat())
}

/// A target that is not a host name names nobody.
fn target(record: &&Record) -> Option<Domain> {
    let RData::PTR(target) = &record.data else { return None };
    Domain::parse(&target.0.to_ascii()).ok()
}

fn address(record: &&Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

fn mx(found: &[&Record]) -> MxAnswer {
    let targets = || found.iter().filter_map(|record| if let RData::MX(mx) = &record.data { Some(mx) } else { None });
    // RFC 7505 §3: a null MX stands alone. Where it does not, the other records count: somebody wants the mail.
    if targets().all(|mx| mx.exchange.is_root()) {
        return MxAnswer::Null;
    }
    // A target that is not a host name can't be connected to.
    let mut hosts: Vec<MxRecord> = targets()
        .filter_map(|mx| {
            let host = Domain::parse(&mx.exchange.to_ascii()).ok()?;
            Some(MxRecord { preference: mx.preference, host })
        })
        .collect();
    hosts.sort_unstable();
    hosts.dedup();
    hosts.truncate(MAX_RECORDS);
    MxAnswer::Hosts(hosts.into())
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::rdata::{A, CNAME, MX};

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn record(owner: &str, ttl: u32, data: RData) -> Record {
        Record::from_rdata(name(owner), ttl, data)
    }

    fn cname(owner: &str, target: &str) -> Record {
        record(owner, 60, RData::CNAME(CNAME(name(target))))
    }

    fn a(owner: &str, ttl: u32) -> Record {
        record(owner, ttl, RData::A(A::new(192, 0, 2, 1)))
    }

    fn mx_record(preference: u16, target: &str) -> Record {
        record("example.org.", 60, RData::MX(MX::new(preference, name(target))))
    }

    fn response(answers: Vec<Record>) -> Response {
        Response { code: ResponseCode::NoError, answers, secure: false, negative_ttl: None }
    }

    fn read_a(response: &Response) -> Step {
        read(response, &name("a.example."), Kind::A)
    }

    fn read_mx(answers: Vec<Record>) -> MxAnswer {
        match read(&response(answers), &name("example.org."), Kind::Mx) {
            Step::Found { records: Records::Mx(answer), .. } => answer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn aliases_are_followed_in_any_order_and_the_lowest_ttl_counts() {
        let step = read_a(&response(vec![
            a("c.example.", 300),
            cname("b.example.", "c.example."),
            cname("A.Example.", "b.example."),
        ]));
        assert!(matches!(step, Step::Found { ttl: 60, .. }), "{step:?}");
    }

    #[test]
    fn records_of_other_names_are_not_believed() {
        let step = read_a(&response(vec![a("evil.example.", 300)]));
        assert_eq!(step, Step::Nothing { error: LookupError::NoRecords, ttl: None });
    }

    #[test]
    fn an_unfinished_chain_is_asked_on_and_a_finished_one_is_not() {
        let mut unfinished = response(vec![cname("a.example.", "b.example.")]);
        assert_eq!(read_a(&unfinished), Step::Alias { to: name("b.example."), ttl: 60, followed: 1 });
        unfinished.negative_ttl = Some(900);
        assert_eq!(read_a(&unfinished), Step::Nothing { error: LookupError::NoRecords, ttl: Some(60) });
        unfinished.code = ResponseCode::NXDomain;
        assert_eq!(read_a(&unfinished), Step::Nothing { error: LookupError::NoSuchDomain, ttl: Some(60) });
    }

    #[test]
    fn a_circle_of_aliases_leads_nowhere() {
        let step = read_a(&response(vec![cname("a.example.", "b.example."), cname("b.example.", "a.example.")]));
        assert!(matches!(step, Step::Astray { .. }), "{step:?}");
    }

    #[test]
    fn a_ttl_with_the_highest_bit_is_zero() {
        assert!(matches!(read_a(&response(vec![a("a.example.", u32::MAX)])), Step::Found { ttl: 0, .. }));
    }

    #[test]
    fn a_null_mx_counts_only_alone() {
        assert_eq!(read_mx(vec![mx_record(0, ".")]), MxAnswer::Null);
        let both = read_mx(vec![mx_record(0, "."), mx_record(10, "mx.example.org.")]);
        let host = MxRecord { preference: 10, host: Domain::parse("mx.example.org").unwrap() };
        assert_eq!(both, MxAnswer::Hosts([host].into()));
    }

    #[test]
    fn targets_that_are_no_host_names_are_left_out() {
        let target = Name::from_labels([&b"mail server"[..], b"example", b"org"]).unwrap();
        let odd = record("example.org.", 60, RData::MX(MX::new(10, target)));
        assert_eq!(read_mx(vec![odd]), MxAnswer::Hosts([].into()));
    }

    #[test]
    fn a_huge_answer_is_cut_to_the_most_preferred() {
        let records = (0..1000).rev().map(|n| mx_record(n, &format!("mx{n}.example.org."))).collect();
        let MxAnswer::Hosts(hosts) = read_mx(records) else { panic!("not null") };
        assert_eq!(hosts.len(), MAX_RECORDS);
        assert!(hosts.iter().map(|mx| usize::from(mx.preference)).eq(0..MAX_RECORDS));
    }
}
