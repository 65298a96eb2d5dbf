//! A small world of zones below a root of its own, signed anew for each answer, and a name server that hands its records
//! on without looking at them. Whatever it says can be forged.

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use hickory_resolver::proto::dnssec::crypto::EcdsaSigningKey;
use hickory_resolver::proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS, NSEC, RRSIG, SigInput};
use hickory_resolver::proto::dnssec::{Algorithm, DigestType, PublicKey, SigningKey, TBS};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{NS, SOA};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType, SerialNumber};

pub fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

pub fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(name(owner), 300, data)
}

pub fn dnssec(owner: &str, data: DNSSECRData) -> Record {
    record(owner, RData::DNSSEC(data))
}

/// A zone with its key.
pub struct Zone {
    pub apex: &'static str,
    key: EcdsaSigningKey,
}

impl Zone {
    pub fn new(apex: &'static str) -> Self {
        let pkcs8 = EcdsaSigningKey::generate_pkcs8(Algorithm::ECDSAP256SHA256).unwrap();
        Self { apex, key: EcdsaSigningKey::from_pkcs8(&pkcs8, Algorithm::ECDSAP256SHA256).unwrap() }
    }

    pub fn dnskey(&self) -> DNSKEY {
        DNSKEY::new(true, true, false, self.key.to_public_key().unwrap())
    }

    /// The digest of the key, as that of a zone.
    pub fn ds(&self, of: &str) -> DS {
        let digest = self.dnskey().to_digest(&name(of), DigestType::SHA256).unwrap().as_ref().to_vec();
        DS::new(self.dnskey().calculate_key_tag().unwrap(), Algorithm::ECDSAP256SHA256, DigestType::SHA256, digest)
    }

    /// The records, which are one set, and their signature.
    pub fn sign(&self, records: Vec<Record>) -> Vec<Record> {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as u32;
        self.sign_until(records, now + 3600)
    }

    /// The same with a signature that ends then, in seconds since 1970.
    pub fn sign_until(&self, mut records: Vec<Record>, end: u32) -> Vec<Record> {
        let owner = records[0].name.clone();
        let input = SigInput {
            type_covered: records[0].record_type(),
            algorithm: Algorithm::ECDSAP256SHA256,
            num_labels: owner.num_labels(),
            original_ttl: 300,
            sig_expiration: SerialNumber::new(end),
            sig_inception: SerialNumber::new(end - 7200),
            key_tag: self.dnskey().calculate_key_tag().unwrap(),
            signer_name: name(self.apex),
        };
        let signed = TBS::from_input(&owner, DNSClass::IN, &input, records.iter()).unwrap();
        let signature = RRSIG::from_sig(input, self.key.sign(&signed).unwrap());
        records.push(Record::from_rdata(owner, 300, RData::DNSSEC(DNSSECRData::RRSIG(signature))));
        records
    }

    /// A signed denial: the name has these types of records, and the next name is that.
    pub fn nsec(&self, owner: &str, next: &str, types: &[RecordType]) -> Vec<Record> {
        self.sign(vec![dnssec(owner, DNSSECRData::NSEC(NSEC::new_cover_self(name(next), types.iter().copied())))])
    }
}

pub fn soa(apex: &str) -> Record {
    record(apex, RData::SOA(SOA::new(name(apex), name(apex), 1, 1, 1, 1, 60)))
}

#[derive(Clone, Default)]
pub struct Said {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub authorities: Vec<Record>,
}

type Told = HashMap<(Name, RecordType), Said>;

/// `.`, `test`, `signed.test` and `evil.test` are signed; `plain.test` is not.
pub struct World {
    pub root: Arc<Zone>,
    pub test: Arc<Zone>,
    pub signed: Arc<Zone>,
    pub evil: Arc<Zone>,
    pub address: SocketAddr,
    told: Arc<Mutex<Told>>,
    folder: tempfile::TempDir,
    stopping: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl World {
    pub fn new() -> Self {
        let [root, test, signed, evil] =
            [".", "test.", "signed.test.", "evil.test."].map(|apex| Arc::new(Zone::new(apex)));
        let told = Arc::new(Mutex::new(Told::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let zones = [&root, &test, &signed, &evil].map(Arc::clone);
        let shared = (Arc::clone(&told), Arc::clone(&stopping));
        let server = std::thread::spawn(move || serve(&socket, &zones, &shared.0, &shared.1));
        let folder = tempfile::tempdir().unwrap();
        let world = Self { root, test, signed, evil, address, told, folder, stopping, server: Some(server) };
        for zone in [&world.root, &world.test, &world.signed, &world.evil] {
            world.tell(zone, vec![dnssec(zone.apex, DNSSECRData::DNSKEY(zone.dnskey()))]);
            world.tell(zone, vec![record(zone.apex, RData::NS(NS(name("ns.test."))))]);
            world.tell(zone, vec![soa(zone.apex)]);
        }
        world.tell_unsigned(vec![record("plain.test.", RData::NS(NS(name("ns.test."))))]);
        world.tell(&world.root, vec![dnssec("test.", DNSSECRData::DS(world.test.ds("test.")))]);
        for zone in [&world.signed, &world.evil] {
            world.tell(&world.test, vec![dnssec(zone.apex, DNSSECRData::DS(zone.ds(zone.apex)))]);
        }
        world
    }

    /// The root's key, in a file.
    pub fn anchors(&self) -> PathBuf {
        let file = self.folder.path().join("root.key");
        let key = self.root.dnskey();
        let octets: &[u8] = key.public_key().public_bytes();
        use base64::Engine;
        let key = base64::engine::general_purpose::STANDARD.encode(octets);
        std::fs::write(&file, format!(". IN DNSKEY 257 3 13 {key}\n")).unwrap();
        file
    }

    /// One set of records with its signature.
    pub fn tell(&self, zone: &Zone, records: Vec<Record>) {
        self.tell_unsigned(zone.sign(records));
    }

    pub fn tell_unsigned(&self, records: Vec<Record>) {
        let of = (records[0].name.clone(), records[0].record_type());
        self.forge(&of.0.to_ascii(), of.1, Said { answers: records, ..Said::default() });
    }

    /// Whatever it is, this is what is said.
    pub fn forge(&self, of: &str, kind: RecordType, said: Said) {
        self.told.lock().unwrap().insert((name(of).to_lowercase(), kind), said);
    }

    pub fn told(&self, of: &str, kind: RecordType) -> Said {
        self.told.lock().unwrap()[&(name(of), kind)].clone()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&[], self.address).ok();
        self.server.take().map(|server| server.join().ok());
    }
}

fn serve(socket: &UdpSocket, zones: &[Arc<Zone>], told: &Mutex<Told>, stopping: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer)
        && !stopping.load(Ordering::SeqCst)
    {
        let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
        let query = question.queries[0].clone();
        let of = (query.name().to_lowercase(), query.query_type());
        let said = told.lock().unwrap().get(&of).cloned();
        let said = said.unwrap_or_else(|| absent(zones, &told.lock().unwrap(), &of.0, of.1));
        let mut answer = Message::response(question.id, question.op_code);
        answer.metadata.recursion_available = true;
        answer.metadata.response_code = said.code;
        answer.add_query(query);
        answer.answers = said.answers;
        answer.authorities = said.authorities;
        answer.edns = question.edns.clone();
        socket.send_to(&answer.to_vec().unwrap(), peer).ok();
    }
}

/// The denial of a name server that signs while it answers (RFC 4470): the name exists, but without such records.
fn absent(zones: &[Arc<Zone>], told: &Told, of: &Name, kind: RecordType) -> Said {
    let plain = name("plain.test.");
    let holds = |zone: &&Arc<Zone>| {
        let apex = name(zone.apex);
        apex.zone_of(of) && !(kind == RecordType::DS && apex == *of)
    };
    if plain.zone_of(of) && !(plain == *of && kind == RecordType::DS) {
        return Said { authorities: vec![soa("plain.test.")], ..Said::default() };
    }
    let zone = zones.iter().filter(holds).max_by_key(|zone| name(zone.apex).num_labels()).unwrap();
    let types: Vec<RecordType> = told.keys().filter(|(owner, _)| owner == of).map(|(_, kind)| *kind).collect();
    let next = of.prepend_label("\\000").unwrap_or_else(|_| name(zone.apex)).to_ascii();
    let mut authorities = zone.nsec(&of.to_ascii(), &next, &types);
    authorities.extend(zone.sign(vec![soa(zone.apex)]));
    Said { authorities, ..Said::default() }
}
