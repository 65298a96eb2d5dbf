//! What the scripted server says, without sockets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hickory_resolver::proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX, NS, PTR, SOA, TLSA, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use crate::TlsaRecord;

/// How the server treats questions for a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// By the records.
    #[default]
    Answer,
    /// SERVFAIL.
    ServFail,
    /// NXDOMAIN.
    NoSuchName,
    /// REFUSED.
    Refused,
    /// Not at all: the asker runs into its timeout.
    Silent,
    /// Over UDP an empty answer that is marked as cut; whole over TCP.
    Truncate,
    /// A referral to other name servers, as from a server that does not recurse.
    Refer,
    /// FORMERR for questions with EDNS, as from a very old server.
    NoEdns,
    /// SERVFAIL, unless the asker wants it unchecked (CD): the signatures are broken.
    Bogus,
}

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// In a datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

#[derive(Debug)]
pub(super) struct Zone {
    names: BTreeMap<Name, Entry>,
    asked: BTreeMap<(Name, RecordType, Transport), usize>,
    /// The names at and below which everything is signed.
    signed: Vec<Name>,
    /// The TTL of "no", with an SOA record; `None`: there is none.
    pub(super) negative_ttl: Option<u32>,
    /// Whether the records of an alias's target come with it.
    pub(super) chases: bool,
}

#[derive(Debug)]
struct Entry {
    behaviour: Behaviour,
    /// For some kinds of records another one.
    exceptions: BTreeMap<RecordType, Behaviour>,
    ttl: u32,
    records: Vec<RData>,
}

impl Default for Entry {
    fn default() -> Self {
        Self { behaviour: Behaviour::default(), exceptions: BTreeMap::new(), ttl: 300, records: Vec::new() }
    }
}

impl Default for Zone {
    fn default() -> Self {
        Self {
            names: BTreeMap::new(),
            asked: BTreeMap::new(),
            signed: Vec::new(),
            negative_ttl: Some(60),
            chases: true,
        }
    }
}

impl Zone {
    pub(super) fn add(&mut self, owner: &str, data: RData) {
        self.entry(owner).records.push(data);
    }

    pub(super) fn exists(&mut self, owner: &str) {
        self.entry(owner);
    }

    pub(super) fn behave(&mut self, owner: &str, behaviour: Behaviour) {
        self.entry(owner).behaviour = behaviour;
    }

    pub(super) fn behave_for(&mut self, owner: &str, kind: RecordType, behaviour: Behaviour) {
        self.entry(owner).exceptions.insert(kind, behaviour);
    }

    pub(super) fn sign(&mut self, apex: &str) {
        self.signed.push(name(apex));
    }

    pub(super) fn ttl(&mut self, owner: &str, seconds: u32) {
        self.entry(owner).ttl = seconds;
    }

    pub(super) fn forget(&mut self, owner: &str) {
        self.names.remove(&name(owner));
    }

    pub(super) fn asked(&self, owner: &str, kind: RecordType, transport: Transport) -> usize {
        self.asked.get(&(name(owner), kind, transport)).copied().unwrap_or(0)
    }

    fn entry(&mut self, owner: &str) -> &mut Entry {
        self.names.entry(name(owner)).or_default()
    }

    fn behaviour(&self, owner: &Name, kind: RecordType) -> Behaviour {
        let Some(entry) = self.names.get(owner) else { return Behaviour::Answer };
        entry.exceptions.get(&kind).copied().unwrap_or(entry.behaviour)
    }

    /// The answer to a question, or none.
    pub(super) fn answer(&mut self, question: &Message, transport: Transport) -> Option<Message> {
        let query = question.queries.first()?;
        *self.asked.entry((query.name.clone(), query.query_type, transport)).or_default() += 1;
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        if question.edns.is_some() {
            answer.set_edns(Edns::new());
        }
        match self.behaviour(&query.name, query.query_type) {
            Behaviour::Silent => return None,
            Behaviour::ServFail => answer.metadata.response_code = ResponseCode::ServFail,
            Behaviour::NoSuchName => answer.metadata.response_code = ResponseCode::NXDomain,
            Behaviour::Refused => answer.metadata.response_code = ResponseCode::Refused,
            Behaviour::Truncate if transport == Transport::Udp => answer.metadata.truncation = true,
            Behaviour::NoEdns if question.edns.is_some() => answer.metadata.response_code = ResponseCode::FormErr,
            Behaviour::Refer => {
                let server = RData::NS(NS(name("ns.elsewhere.test")));
                answer.add_authority(Record::from_rdata(query.name.base_name(), 300, server));
            }
            Behaviour::Bogus if !question.metadata.checking_disabled => {
                answer.metadata.response_code = ResponseCode::ServFail;
            }
            Behaviour::Answer | Behaviour::Truncate | Behaviour::NoEdns | Behaviour::Bogus => {
                self.fill(&mut answer, &query.name, query.query_type);
                // RFC 6840 §5.8: the bit is for those who ask for it.
                let is_signed = |owner: &Name| self.signed.iter().any(|apex| apex.zone_of(owner));
                let all_signed = is_signed(&query.name) && answer.answers.iter().all(|record| is_signed(&record.name));
                let wanted = question.metadata.authentic_data && !question.metadata.checking_disabled;
                answer.metadata.authentic_data = wanted && all_signed;
            }
        }
        Some(answer)
    }

    /// The records, along a chain of aliases if the server follows them.
    fn fill(&self, answer: &mut Message, owner: &Name, kind: RecordType) {
        let mut at = owner.clone();
        for _ in 0..20 {
            let Some(entry) = self.names.get(&at) else {
                // A name that only has names below it exists, too (RFC 8020 §2).
                if !self.names.keys().any(|name| at.zone_of(name)) {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                return self.deny(answer);
            };
            let record = |data: &RData| Record::from_rdata(at.clone(), entry.ttl, data.clone());
            let found: Vec<Record> =
                entry.records.iter().filter(|data| data.record_type() == kind).map(record).collect();
            if !found.is_empty() {
                answer.add_answers(found);
                return;
            }
            let alias = entry.records.iter().find_map(|data| match data {
                RData::CNAME(target) => Some((record(data), target.0.clone())),
                _ => None,
            });
            let Some((record, target)) = alias else { return self.deny(answer) };
            answer.add_answer(record);
            if !self.chases {
                return;
            }
            at = target;
        }
        answer.metadata.response_code = ResponseCode::ServFail;
        answer.answers.clear();
    }

    fn deny(&self, answer: &mut Message) {
        let Some(ttl) = self.negative_ttl else { return };
        answer.add_authority(Record::from_rdata(Name::root(), ttl, soa(ttl)));
    }
}

pub(super) fn soa(ttl: u32) -> RData {
    RData::SOA(SOA::new(name("ns.test"), name("hostmaster.test"), 1, 3600, 600, 86400, ttl))
}

pub(super) fn mx(preference: u16, host: &str) -> RData {
    RData::MX(MX::new(preference, name(host)))
}

pub(super) fn tlsa(record: TlsaRecord) -> RData {
    let TlsaRecord { usage, selector, matching, data } = record;
    RData::TLSA(TLSA::new(usage.into(), selector.into(), matching.into(), data.to_vec()))
}

pub(super) fn ptr(host: &str) -> RData {
    RData::PTR(PTR(name(host)))
}

pub(super) fn text(text: &str) -> RData {
    let strings = text.as_bytes().chunks(255);
    RData::TXT(TXT::from_bytes(strings.collect()))
}

pub(super) fn alias(target: &str) -> RData {
    RData::CNAME(CNAME(name(target)))
}

pub(super) fn address(address: &str) -> RData {
    match address.parse().expect("an IP address") {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// A full name, with or without the last dot.
fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).expect("a domain name");
    name.set_fqdn(true);
    name
}
