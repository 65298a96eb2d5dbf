//! `postrider dns-records`: what to publish in the DNS for the configuration.

use std::path::{Path, PathBuf};

use mail::Domain;
use serde::Serialize;

use crate::config::{self, Configuration, Pattern, Problems};
use crate::output;
use crate::server::{TLS_FOLDER, certificate_chains};

/// The longest string of a TXT record (RFC 1035 §3.3).
const LONGEST_STRING: usize = 255;

/// Why there is nothing to print.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The configuration cannot be used.
    #[error("the configuration cannot be used")]
    Configuration(#[from] Problems),
    /// The configuration names no domain.
    #[error("the configuration names no domain of its own")]
    NoDomain,
    /// The answer cannot be written.
    #[error("{0}")]
    Output(#[from] std::io::Error),
}

/// A record to publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Its name, without the root's dot.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its value, as a zone file has it.
    pub value: String,
    /// What it is good for.
    pub purpose: String,
}

/// Prints the records.
pub fn run(path: &Path, domain: Option<&Domain>, json: bool) -> Result<(), RecordsError> {
    let loaded = config::load(path)?;
    let configuration = &loaded.configuration;
    let own = configuration.domains.iter().filter_map(|pattern| match pattern {
        Pattern::Exact(domain) => Some(domain.clone()),
        Pattern::Below(_) | Pattern::Any => None,
    });
    let domains: Vec<Domain> = domain.map_or_else(|| own.collect(), |domain| vec![domain.clone()]);
    if domains.is_empty() {
        return Err(RecordsError::NoDomain);
    }
    let mut records: Vec<Record> = domains.iter().flat_map(|domain| of_domain(configuration, domain)).collect();
    let (of_host, trouble) = of_host(configuration);
    records.extend(of_host);
    for why in trouble {
        eprintln!("postrider: no TLSA record: {}", output::harmless(&why));
    }
    let mut last = String::new();
    for record in &records {
        if json {
            output::line(serde_json::to_string(record).map_err(std::io::Error::other)?)?;
            continue;
        }
        if record.purpose != last {
            output::line(format_args!("; {}", record.purpose))?;
            last.clone_from(&record.purpose);
        }
        output::line(format_args!("{}. IN {} {}", record.name, record.kind, record.value))?;
    }
    Ok(())
}

/// The records of a domain whose mail comes here.
fn of_domain(configuration: &Configuration, domain: &Domain) -> Vec<Record> {
    let exchange = Record {
        name: domain.to_string(),
        kind: "MX",
        value: format!("10 {}.", configuration.hostname.0),
        purpose: format!("mail for {domain} comes to this server"),
    };
    let mut records = vec![exchange, sender_policy(configuration, domain)];
    records.extend(transport(configuration, domain));
    records
}

/// Who may send in the domain's name (SPF, RFC 7208).
pub fn sender_policy(configuration: &Configuration, domain: &Domain) -> Record {
    Record {
        name: domain.to_string(),
        kind: "TXT",
        value: text(&spf(configuration)),
        purpose: format!("mail from {domain} leaves by this server (add what else sends in its name)"),
    }
}

/// What others are told about TLS with the domain's servers.
pub fn transport(configuration: &Configuration, domain: &Domain) -> Vec<Record> {
    let (host, mut records) = (&configuration.hostname.0, Vec::new());
    if let Some(policy) = configuration.own_policies().get(domain) {
        let purpose = format!("who sends to {domain} finds its MTA-STS policy, mode {}", policy.mode);
        records.push(Record {
            name: format!("mta-sts.{domain}"),
            kind: "CNAME",
            value: format!("{host}."),
            purpose: purpose.clone(),
        });
        records.push(Record {
            name: format!("_mta-sts.{domain}"),
            kind: "TXT",
            value: text(&policy.record()),
            purpose,
        });
    }
    if let Some(address) = &configuration.tls_reports.address {
        records.push(Record {
            name: format!("_smtp._tls.{domain}"),
            kind: "TXT",
            value: text(&format!("v=TLSRPTv1; rua=mailto:{}", encoded(&address.0.to_string()))),
            purpose: format!("others report how TLS with {domain} went"),
        });
    }
    records
}

/// The domain's MX hosts send, and the addresses of the configured sources.
fn spf(configuration: &Configuration) -> String {
    let mut text = "v=spf1 mx".to_owned();
    for source in &configuration.source {
        for ip in [source.ipv4, source.ipv6].into_iter().flatten() {
            let kind = if ip.0.is_ipv4() { "ip4" } else { "ip6" };
            text.push_str(&format!(" {kind}:{}", ip.0));
        }
    }
    text + " -all"
}

/// The records of the server itself: the keys of all its certificates, each once, and what keeps one from being told.
pub fn of_host(configuration: &Configuration) -> (Vec<Record>, Vec<String>) {
    let own = tls::Certificates::self_signed_files(&configuration.store.path.join(TLS_FOLDER)).0;
    let chains = certificate_chains(configuration);
    if chains == [own.clone()] {
        // That would bind others to a key that is about to be replaced.
        if !configuration.acme.names.is_empty() {
            return (Vec::new(), vec!["[acme] has brought no certificate yet".to_owned()]);
        }
        if matches!(own.try_exists(), Ok(false)) {
            return (Vec::new(), vec!["the server makes its certificate at its first start".to_owned()]);
        }
    }
    let (keys, trouble) = keys(&chains, configuration.hostname.0.as_str());
    (keys.iter().map(|key| tlsa(configuration, key)).collect(), trouble)
}

/// The digests of the keys of all certificates for the host, each once, and what kept one from being read.
fn keys(chains: &[PathBuf], host: &str) -> (Vec<[u8; 32]>, Vec<String>) {
    let (mut keys, mut trouble) = (Vec::new(), Vec::new());
    for chain in chains {
        match tls::IdentityFacts::from_file(chain) {
            Ok(facts) if facts.covers(host) && !keys.contains(&facts.spki_sha256) => keys.push(facts.spki_sha256),
            Ok(_) => {}
            Err(error) => trouble.push(error.to_string()),
        }
    }
    (keys, trouble)
}

/// DANE-EE by the key's SHA-256 (RFC 7671 §5.1): it stays good as long as the key stays, whatever the certificate says.
fn tlsa(configuration: &Configuration, key: &[u8; 32]) -> Record {
    let digest: String = key.iter().map(|octet| format!("{octet:02x}")).collect();
    Record {
        name: format!("_25._tcp.{}", configuration.hostname.0),
        kind: "TLSA",
        value: format!("3 1 1 {digest}"),
        purpose: "who sends here knows this server's key (DANE; only in a zone that is signed)".to_owned(),
    }
}

/// The value of a TXT record, in strings of the length that they may have.
fn text(value: &str) -> String {
    let octets: Vec<char> = value.chars().collect();
    let strings = octets.chunks(LONGEST_STRING).map(|piece| {
        let piece: String = piece.iter().collect();
        format!("\"{}\"", piece.replace('\\', "\\\\").replace('"', "\\\""))
    });
    strings.collect::<Vec<_>>().join(" ")
}

/// An address in a URI of the record (RFC 8460 §3: `,`, `!` and `;` must be encoded, and RFC 6068 §2 what else is not
/// plain).
fn encoded(address: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@.-_~+=".contains(c);
    address.chars().map(|c| if plain(c) { c.to_string() } else { format!("%{:02X}", u32::from(c)) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str, domain: &str) -> Vec<String> {
        let loaded = config::load_text("test.toml", text).unwrap();
        let records = of_domain(&loaded.configuration, &Domain::parse(domain).unwrap());
        records.into_iter().map(|record| format!("{} {} {}", record.name, record.kind, record.value)).collect()
    }

    #[test]
    fn a_domain_has_what_is_configured_for_it() {
        let text = "hostname = \"mail.example.org\"\ndomains = [\"example.org\", \"example.net\"]\n\
                    [[source]]\nname = \"a\"\nipv4 = \"192.0.2.1\"\n[[route]]\ndomains = \"*\"\nto = \"lmtp:/x\"\n\
                    [mta_sts]\ndomains = [\"example.org\"]\nmode = \"enforce\"\n\
                    [tls_reports]\naddress = \"tls!x@example.org\"\n";
        let found = records(text, "example.org");
        assert_eq!(found[0], "example.org MX 10 mail.example.org.");
        assert_eq!(found[1], "example.org TXT \"v=spf1 mx ip4:192.0.2.1 -all\"");
        assert_eq!(found[2], "mta-sts.example.org CNAME mail.example.org.");
        assert!(found[3].starts_with("_mta-sts.example.org TXT \"v=STSv1; id="), "{}", found[3]);
        assert_eq!(found[4], "_smtp._tls.example.org TXT \"v=TLSRPTv1; rua=mailto:tls%21x@example.org\"");
        assert_eq!(records(text, "example.net").len(), 3, "no policy is served for it");
    }

    #[test]
    fn a_key_that_does_not_stay_or_is_not_there_yet_is_not_told() {
        let store = tempfile::tempdir().unwrap();
        let text = format!("hostname = \"mail.example.org\"\n[store]\npath = {:?}\n", store.path());
        let told =
            |more: &str| of_host(&config::load_text("test.toml", &format!("{text}{more}")).unwrap().configuration);
        let (records, trouble) = told("");
        assert!(records.is_empty() && trouble[0].contains("at its first start"), "{trouble:?}");
        let (chain, key) = tls::Certificates::self_signed_files(&store.path().join(TLS_FOLDER));
        let made = tls::self_signed(&["mail.example.org".to_owned()], None).unwrap();
        std::fs::create_dir(store.path().join(TLS_FOLDER)).unwrap();
        std::fs::write(chain, made.0).and_then(|()| std::fs::write(key, made.1)).unwrap();
        let (records, trouble) = told("");
        assert!(records[0].value.starts_with("3 1 1 ") && trouble.is_empty(), "{records:?} {trouble:?}");
        let (records, trouble) = told("[acme]\nnames = [\"mail.example.org\"]\ncontact = [\"a@example.org\"]\n");
        assert!(records.is_empty() && trouble[0].contains("[acme]"), "{records:?} {trouble:?}");
    }

    #[test]
    fn long_texts_are_cut_into_strings() {
        assert_eq!(text(&"x".repeat(256)), format!("\"{}\" \"x\"", "x".repeat(255)));
        assert_eq!(text("a\"b"), "\"a\\\"b\"");
    }
}
