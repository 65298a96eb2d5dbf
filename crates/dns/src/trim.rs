//! What of an answer is evidence about its question.
//!
//! hickory proves the records of an answer one by one, but asks hardly whether they are about the question: it would take
//! the signed NSEC record of somebody else's zone for a proof that a name does not exist, the DS records of another name
//! for those of the zone, and an answer with somebody's unsigned SOA record beside it for insecure. So it gets to see
//! only what can be evidence:
//!
//! - records of the name in question, or its alias alone; where the alias leads is a question of its own,
//! - denials of one zone, which holds the name and has signed them (for DS records: the zone above it),
//! - the SOA record of a zone that holds the name.

use std::mem;

use hickory_resolver::proto::dnssec::rdata::{DNSSECRData, RRSIG};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

/// The most keys, and the most digests of keys, of a zone.
const MAX_KEYS: usize = 64;
/// The most signatures of a set of records.
const MAX_SIGNATURES: usize = 8;

/// Leaves of an answer what is evidence about the question for `wanted` records of `name`.
pub(crate) fn trim(message: &mut Message, name: &Name, wanted: RecordType) {
    let answers = mem::take(&mut message.answers);
    let authorities = mem::take(&mut message.authorities);
    message.additionals.clear();
    let mut kept = set(&answers, name, wanted, is_above(wanted));
    if kept.is_empty() && !is_above(wanted) && wanted != RecordType::DNSKEY {
        kept = alias(&answers, name);
    }
    if kept.is_empty() {
        message.authorities = denial(&authorities, name, wanted);
        return;
    }
    // RFC 6604 §3: the code is about the name at the end of the chain, which is not looked at.
    message.metadata.response_code = ResponseCode::NoError;
    // RFC 4035 §5.3.4: what a wildcard gave needs the proof that there is nothing closer.
    if let Some(zone) = kept.iter().find_map(|record| wildcard_signer(record, name)) {
        message.authorities = denials(&authorities, zone);
    }
    message.answers = kept;
}

/// RFC 4035 §2.4: DS records are those of the zone above.
fn is_above(wanted: RecordType) -> bool {
    wanted == RecordType::DS
}

/// The alias of a name, with the DNAME record (RFC 6672) that it may come from.
fn alias(answers: &[Record], name: &Name) -> Vec<Record> {
    let mut kept = set(answers, name, RecordType::CNAME, false);
    let above = |record: &&Record| record.record_type() == RecordType::DNAME && is_below(name, &record.name);
    let dname = answers.iter().filter(above).max_by_key(|record| record.name.num_labels());
    if let Some(dname) = dname
        && !kept.is_empty()
    {
        kept.extend(set(answers, &dname.name, RecordType::DNAME, false));
    }
    kept
}

/// Whether `name` is below `zone` and not the same.
fn is_below(name: &Name, zone: &Name) -> bool {
    zone.zone_of(name) && zone != name
}

/// The records of a name and type with the signatures of one zone: the closest that has any.
fn set(records: &[Record], name: &Name, wanted: RecordType, above: bool) -> Vec<Record> {
    let most = if matches!(wanted, RecordType::DS | RecordType::DNSKEY) { MAX_KEYS } else { usize::MAX };
    let is_of = |record: &&Record| record.record_type() == wanted && record.name == *name;
    let mut kept: Vec<Record> = records.iter().filter(is_of).take(most).cloned().collect();
    if kept.is_empty() {
        return kept;
    }
    let signature = |record: &Record| {
        let signature = signature(record).filter(|signature| signature.input().type_covered == wanted)?;
        let signer = &signature.input().signer_name;
        let fits = if above { is_below(name, signer) } else { signer.zone_of(name) };
        (record.name == *name && fits).then(|| signer.clone())
    };
    let closest = records.iter().filter_map(signature).max_by_key(Name::num_labels);
    let by_closest = |record: &&Record| signature(record).is_some_and(|signer| Some(&signer) == closest.as_ref());
    kept.extend(records.iter().filter(by_closest).take(MAX_SIGNATURES).cloned());
    kept
}

fn signature(record: &Record) -> Option<&RRSIG> {
    match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(signature)) => Some(signature),
        _ => None,
    }
}

/// Who signed a set of records that a wildcard gave for this name.
fn wildcard_signer<'a>(record: &'a Record, name: &Name) -> Option<&'a Name> {
    let input = signature(record)?.input();
    (record.name == *name && input.num_labels < name.num_labels()).then_some(&input.signer_name)
}

/// What says that there are no such records: the denials of the closest zone that signed any, with its SOA record, or the
/// SOA record of an unsigned zone.
fn denial(authorities: &[Record], name: &Name, wanted: RecordType) -> Vec<Record> {
    let holds = |zone: &Name| if is_above(wanted) { is_below(name, zone) } else { zone.zone_of(name) };
    let signer = |record: &Record| {
        let input = signature(record)?.input();
        let is_denial = matches!(input.type_covered, RecordType::NSEC | RecordType::NSEC3);
        (is_denial && holds(&input.signer_name)).then(|| input.signer_name.clone())
    };
    let zone = authorities.iter().filter_map(signer).max_by_key(Name::num_labels);
    if let Some(zone) = zone {
        let mut kept = denials(authorities, &zone);
        kept.extend(set(authorities, &zone, RecordType::SOA, false));
        return kept;
    }
    let is_soa = |record: &&Record| record.record_type() == RecordType::SOA && holds(&record.name);
    let soa = authorities.iter().find(is_soa);
    soa.map(|soa| set(authorities, &soa.name, RecordType::SOA, false)).unwrap_or_default()
}

/// The NSEC and NSEC3 records that a zone signed, about names of its own.
fn denials(authorities: &[Record], zone: &Name) -> Vec<Record> {
    let signed = |record: &Record, covered: RecordType| {
        signature(record).is_some_and(|signature| {
            signature.input().type_covered == covered && signature.input().signer_name == *zone
        })
    };
    let is_own = |record: &Record, kind: RecordType| match kind {
        // RFC 5155 §3: their names are a hash in front of that of the zone.
        RecordType::NSEC3 => record.name.base_name() == *zone,
        _ => zone.zone_of(&record.name),
    };
    let belongs = |record: &Record, kind: RecordType| {
        let has_signature = || authorities.iter().any(|other| other.name == record.name && signed(other, kind));
        is_own(record, kind) && (signed(record, kind) || record.record_type() == kind && has_signature())
    };
    let kinds = [RecordType::NSEC, RecordType::NSEC3];
    authorities.iter().filter(|record| kinds.into_iter().any(|kind| belongs(record, kind))).cloned().collect()
}
