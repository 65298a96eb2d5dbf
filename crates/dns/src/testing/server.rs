//! The scripted server's sockets. It runs on threads of its own, so that tests need no runtime for it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use hickory_resolver::proto::op::Message;

use super::zone::{self, Behaviour, Transport, Zone};
use crate::TlsaRecord;
use crate::answer::Kind;

/// How often to look for a port that is free for both UDP and TCP.
const PORT_ATTEMPTS: usize = 50;

/// A DNS server on a free port of 127.0.0.1, UDP and TCP. It stops when it is dropped.
///
/// It is the recursive server of a small world: what is not in its script does not exist. The script may be changed
/// while it runs.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    zone: Mutex<Zone>,
    stopping: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl DnsServer {
    /// Starts a server with an empty script.
    pub fn start() -> Self {
        let (udp, tcp) = bind();
        let address = udp.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::default());
        let (for_udp, for_tcp) = (shared.clone(), shared.clone());
        let threads =
            vec![thread::spawn(move || serve_udp(&udp, &for_udp)), thread::spawn(move || serve_tcp(&tcp, &for_tcp))];
        Self { address, shared, threads }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds an MX record.
    pub fn mx(&self, name: &str, preference: u16, host: &str) -> &Self {
        self.change(|zone| zone.add(name, zone::mx(preference, host)))
    }

    /// Adds an SOA record.
    pub fn soa(&self, name: &str) -> &Self {
        self.change(|zone| zone.add(name, zone::soa(300)))
    }

    /// Adds a null MX record.
    pub fn null_mx(&self, name: &str) -> &Self {
        self.change(|zone| zone.add(name, zone::mx(0, ".")))
    }

    /// Adds an A or AAAA record.
    pub fn host(&self, name: &str, address: &str) -> &Self {
        self.change(|zone| zone.add(name, zone::address(address)))
    }

    /// Adds an alias (CNAME).
    pub fn alias(&self, name: &str, target: &str) -> &Self {
        self.change(|zone| zone.add(name, zone::alias(target)))
    }

    /// Adds a TLSA record.
    pub fn tlsa(&self, name: &str, record: TlsaRecord) -> &Self {
        self.change(|zone| zone.add(name, zone::tlsa(record)))
    }

    /// Adds a TXT record, in strings of 255 octets.
    pub fn text(&self, name: &str, text: &str) -> &Self {
        self.change(|zone| zone.add(name, zone::text(text)))
    }

    /// Adds a PTR record to the name of an address.
    pub fn ptr(&self, address: &str, host: &str) -> &Self {
        let name = crate::reverse(address.parse().expect("an IP address"));
        self.change(|zone| zone.add(name.as_str(), zone::ptr(host)))
    }

    /// Everything at and below the name is signed, and the server validates it: answers have the AD bit.
    pub fn signed(&self, apex: &str) -> &Self {
        self.change(|zone| zone.sign(apex))
    }

    /// The name exists, perhaps without any records.
    pub fn exists(&self, name: &str) -> &Self {
        self.change(|zone| zone.exists(name))
    }

    /// How questions for the name are treated. The name exists from now on.
    pub fn behave(&self, name: &str, behaviour: Behaviour) -> &Self {
        self.change(|zone| zone.behave(name, behaviour))
    }

    /// How questions for one kind of the name's records are treated, whatever is said of the others.
    pub fn behave_for(&self, name: &str, kind: Kind, behaviour: Behaviour) -> &Self {
        self.change(|zone| zone.behave_for(name, kind.record_type(), behaviour))
    }

    /// The TTL of the name's records, in seconds; 300 if nothing is said.
    pub fn ttl(&self, name: &str, seconds: u32) -> &Self {
        self.change(|zone| zone.ttl(name, seconds))
    }

    /// The TTL of "no such name" and "no such records", in seconds; `None` leaves the SOA record out. 60 if nothing is
    /// said.
    pub fn negative_ttl(&self, seconds: Option<u32>) -> &Self {
        self.change(|zone| zone.negative_ttl = seconds)
    }

    /// Whether answers with an alias bring the records of its target along; they do if nothing is said.
    pub fn follow_aliases(&self, follow: bool) -> &Self {
        self.change(|zone| zone.chases = follow)
    }

    /// Takes the name with all its records and its behaviour out of the script.
    pub fn forget(&self, name: &str) -> &Self {
        self.change(|zone| zone.forget(name))
    }

    /// How often it was asked for records of the name, repetitions included.
    pub fn asked(&self, name: &str, kind: Kind) -> usize {
        self.asked_over(name, kind, Transport::Udp) + self.asked_over(name, kind, Transport::Tcp)
    }

    /// How often it was asked that way.
    pub fn asked_over(&self, name: &str, kind: Kind, transport: Transport) -> usize {
        locked(&self.shared.zone).asked(name, kind.record_type(), transport)
    }

    fn change(&self, change: impl FnOnce(&mut Zone)) -> &Self {
        change(&mut locked(&self.shared.zone));
        self
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Both threads wait for something to come in: this is it. Where it fails, the thread has ended already.
        if let Ok(socket) = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
            socket.send_to(&[], self.address).ok();
        }
        TcpStream::connect(self.address).ok();
        for connection in locked(&self.shared.connections).drain(..) {
            connection.shutdown(Shutdown::Both).ok();
        }
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// A UDP and a TCP socket with the same port.
fn bind() -> (UdpSocket, TcpListener) {
    (0..PORT_ATTEMPTS)
        .find_map(|_| {
            let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
            let tcp = TcpListener::bind(udp.local_addr().ok()?).ok()?;
            Some((udp, tcp))
        })
        .expect("a free port on 127.0.0.1")
}

fn serve_udp(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 4096];
    while let Ok((length, peer)) = socket.recv_from(&mut buffer)
        && !shared.stopping.load(Ordering::SeqCst)
    {
        if let Some(answer) = answer(shared, &buffer[..length], Transport::Udp) {
            socket.send_to(&answer, peer).ok();
        }
    }
}

fn serve_tcp(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((connection, _)) = listener.accept()
        && !shared.stopping.load(Ordering::SeqCst)
    {
        let Ok(handle) = connection.try_clone() else { continue };
        locked(&shared.connections).push(handle);
        let shared = shared.clone();
        thread::spawn(move || serve_connection(connection, &shared));
    }
}

/// RFC 1035 §4.2.2: each message has its length in two octets in front.
fn serve_connection(mut connection: TcpStream, shared: &Shared) {
    let mut length = [0; 2];
    while connection.read_exact(&mut length).is_ok() {
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        if connection.read_exact(&mut question).is_err() {
            return;
        }
        let Some(answer) = answer(shared, &question, Transport::Tcp) else { continue };
        let Ok(length) = u16::try_from(answer.len()) else { return };
        let message = [&length.to_be_bytes(), answer.as_slice()].concat();
        if connection.write_all(&message).is_err() {
            return;
        }
    }
}

/// The answer as octets. Over UDP, one that is too long for the asker is cut (RFC 2181 §9).
fn answer(shared: &Shared, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let question = Message::from_vec(question).ok()?;
    let answer = locked(&shared.zone).answer(&question, transport)?;
    let octets = answer.to_vec().ok()?;
    if transport == Transport::Udp && octets.len() > usize::from(question.max_payload()) {
        return answer.truncate().to_vec().ok();
    }
    Some(octets)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
