//! Whether a wildcard could give an answer: there must be nothing closer to the name in its zone (RFC 4035 §5.3.4, RFC
//! 5155 §8.8). hickory's own check takes some proofs for good that leave a closer name, and refuses that of a wildcard
//! right above the name.

use hickory_resolver::proto::dnssec::rdata::{DNSSECRData, NSEC, NSEC3};
use hickory_resolver::proto::dnssec::{Nsec3HashAlgorithm, Proof};
use hickory_resolver::proto::rr::{Name, RData, Record};

/// RFC 9276 §3.2: more rounds of hashing are not worth it; what they prove counts as unsigned.
const MAX_ITERATIONS: u16 = 100;

/// The proof that a wildcard which gave the records of `name` may have done so; nothing if no wildcard did.
pub(crate) fn proof(name: &Name, answers: &[Record], authorities: &[Record]) -> Option<Proof> {
    let labels = answers.iter().filter_map(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::RRSIG(signature)) if record.name == *name && record.proof == Proof::Secure => {
            Some(signature.input().num_labels)
        }
        _ => None,
    });
    let labels = labels.min().filter(|labels| *labels < name.num_labels())?;
    // What must not exist: the name below which the wildcard would not reach.
    let closer = name.trim_to(usize::from(labels) + 1);
    let proven = authorities.iter().filter(|record| record.proof == Proof::Secure);
    let proofs = proven.filter_map(|record| match &record.data {
        RData::DNSSEC(DNSSECRData::NSEC(nsec)) => spans(&record.name, nsec, name, &closer).then_some(Proof::Secure),
        RData::DNSSEC(DNSSECRData::NSEC3(nsec3)) => hides(&record.name, nsec3, &closer),
        _ => None,
    });
    Some(proofs.max().unwrap_or(Proof::Bogus))
}

/// Whether nothing is between two names that exist, where the name would be, and neither of the two is `closer` or below.
fn spans(owner: &Name, nsec: &NSEC, name: &Name, closer: &Name) -> bool {
    let next = nsec.next_domain_name();
    // The last name of the zone leads back to the first.
    let is_within = owner < name && (name < next || next <= owner && next.zone_of(name));
    let is_cut = nsec.is_ancestor_delegation() && owner.zone_of(name);
    is_within && !is_cut && !closer.zone_of(owner) && !closer.zone_of(next)
}

/// The same by hashes.
fn hides(owner: &Name, nsec3: &NSEC3, closer: &Name) -> Option<Proof> {
    if nsec3.iterations() > MAX_ITERATIONS {
        return Some(Proof::Insecure);
    }
    let hash = Nsec3HashAlgorithm::SHA1.hash(nsec3.salt(), closer, nsec3.iterations()).ok()?;
    let hash = base32(hash.as_ref());
    let from = owner.iter().next()?.to_ascii_lowercase();
    let to = base32(nsec3.next_hashed_owner_name());
    let is_within = if from < to { from < hash && hash < to } else { from < hash || hash < to };
    is_within.then_some(Proof::Secure)
}

/// RFC 4648 §7: keeps the order of what it stands for.
fn base32(octets: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let bits = octets.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1));
    let bits: Vec<u8> = bits.collect();
    let digit = |five: &[u8]| {
        let value = five.iter().fold(0, |value, bit| value << 1 | bit) << (5 - five.len());
        DIGITS[usize::from(value)]
    };
    bits.chunks(5).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_written_as_in_the_rfc() {
        // RFC 5155 appendix A.
        let hash = |name: &str| {
            let salt = [0xaa, 0xbb, 0xcc, 0xdd];
            let hash = Nsec3HashAlgorithm::SHA1.hash(&salt, &Name::from_ascii(name).unwrap(), 12).unwrap();
            String::from_utf8(base32(hash.as_ref())).unwrap()
        };
        assert_eq!(hash("example."), "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom");
        assert_eq!(hash("*.w.example."), "r53bq7cc2uvmubfu5ocmm6pers9tk9en");
    }

    #[test]
    fn the_span_is_around_the_closer_name() {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let spans = |owner: &str, next: &str| {
            let nsec = NSEC::new_cover_self(name(next), []);
            spans(&name(owner), &nsec, &name("a.b.example."), &name("b.example."))
        };
        assert!(spans("*.example.", "c.example."));
        assert!(spans("ab.example.", "example."));
        assert!(!spans("*.example.", "a.example."), "not around the name");
        assert!(!spans("b.example.", "c.example."), "the closer name exists");
        assert!(!spans("*.example.", "z.b.example."), "something below it exists");
        assert!(!spans("a.b.example.", "c.example."), "the name exists");
    }
}
