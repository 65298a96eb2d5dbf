//! A flood that breaks every limit at once, and the ten who behave.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::clients::{Ledger, counted, greeted};
use crate::harness::{Client, Line, PATIENCE, Postrider, Setup, Sink, own_address, own_socket, wait_for};
use crate::load::{MOST_MEMORY, is_measured};
use crate::system::most_resident;

/// How many behave, and how many messages each of them sends.
const GOOD: u8 = 10;
const MESSAGES: usize = 5;
/// Attackers of each kind: of three addresses in a network of their own, and more than either may have connections.
const EACH: usize = 27;
/// What a message of theirs may take where the load is measured. Anywhere else a busy machine may be the slow one.
const PROMPT: Duration = Duration::from_secs(1);
/// Between two connections of an attacker.
const PAUSE: Duration = Duration::from_millis(100);

/// Networks of which each has as many connections open as it may: together more than there may be in all.
const CROWD: u8 = 16;
const CROWD_EACH: u8 = 20;

const LIMITS: &str = "[connections]\ntotal = 320\nper_address = 8\nper_ipv4_network = 20\nper_ipv6_network = 20\n\
                      in_flight = \"2MiB\"\nproxy_time = \"1s\"\n\
                      [limits]\nmessage_size = \"256KiB\"\nrecipients = 100\nerrors = 5\nerror_delay = \"100ms\"\n\
                      junk = 20\nmessages = 10\ncommands = 150\ncommand_length = 1024\ndiscard = \"1MiB\"\n\
                      session_time = \"4s\"\n[tls]\nhandshake_time = \"1s\"";

/// What tells that a limit was met.
const LIMITS_MET: [&str; 18] = [
    "connections_refused_total{reason=\"total\"}",
    "connections_refused_total{reason=\"address\"}",
    "connections_refused_total{reason=\"ipv4_network\"}",
    "connections_refused_total{reason=\"ipv6_network\"}",
    "connections_refused_total{reason=\"proxy_time\"}",
    "tls_failures_total{reason=\"slow\"}",
    "tls_handshakes_total{version=\"TLSv1.3\",kind=\"full\"}",
    "closed_total{reason=\"session_time\"}",
    "closed_total{reason=\"discard\"}",
    "refused_total{reason=\"transactions\"}",
    "refused_total{reason=\"errors\"}",
    "refused_total{reason=\"junk\"}",
    "refused_total{reason=\"commands\"}",
    "refused_total{reason=\"too_many_recipients\"}",
    "refused_total{reason=\"message_size\"}",
    "refused_total{reason=\"relay_denied\"}",
    "refused_total{reason=\"command_line\"}",
    "in_flight_waits_total",
];

/// What an attacker does over a connection until the server ends it.
type Attack = fn(&mut TcpStream, &Over) -> std::io::Result<()>;

/// The listener that an attack is at.
#[derive(Clone, Copy)]
enum Door {
    /// The greeting comes at once.
    Plain,
    /// A PROXY header comes first.
    Proxied,
}

/// Whether it is over; it is when the test ends, also by a panic.
#[derive(Default)]
struct Over(AtomicBool);

/// Ends it when dropped.
struct Ends<'a>(&'a Over);

impl Over {
    fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Connections that are opened and held, too many for an address and a network.
fn hold(stream: &mut TcpStream, over: &Over) -> std::io::Result<()> {
    drain(stream, over)
}

/// The same from a network of IPv6, by a proxy.
fn ipv6(stream: &mut TcpStream, over: &Over) -> std::io::Result<()> {
    let port = stream.local_addr()?.port();
    say(stream, &format!("PROXY TCP6 2001:db8::{port:x} 2001:db8:1::1 {port} 25\r\n"))?;
    drain(stream, over)
}

/// Handshakes one after the other.
fn handshakes(stream: &mut TcpStream, _: &Over) -> std::io::Result<()> {
    say(stream, "EHLO flood.test\r\n")?;
    say(stream, "STARTTLS\r\n")?;
    let mut line = Line::Clear(stream.try_clone()?).secure("mx.test", Duration::from_secs(5))?;
    line.write(b"EHLO flood.test\r\n")
}

/// Handshakes that never begin.
fn stalls(stream: &mut TcpStream, over: &Over) -> std::io::Result<()> {
    say(stream, "EHLO flood.test\r\n")?;
    say(stream, "STARTTLS\r\n")?;
    drain(stream, over)
}

/// More messages than a session may have. They are good ones, and go where the others go.
fn messages(stream: &mut TcpStream, over: &Over) -> std::io::Result<()> {
    say(stream, "EHLO flood.test\r\n")?;
    let one = "MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nBDAT 17 LAST\r\nSubject: hi\r\n\r\n\r\n";
    say(stream, &one.repeat(12))?;
    drain(stream, over)
}

/// Commands that do not exist.
fn errors(stream: &mut TcpStream, over: &Over) -> std::io::Result<()> {
    say(stream, "EHLO flood.test\r\n")?;
    for _ in 0..10 {
        say(stream, "FOO\r\n")?;
    }
    drain(stream, over)
}

/// Commands that bring no mail.
fn junk(stream: &mut TcpStream, over: &Over) -> std::io::Result<()> {
    say(stream, "EHLO flood.test\r\n")?;
    say(stream, &"RSET\r\n".repeat(50))?;
    drain(stream, over)
}

/// More commands than a session may have.
fn commands(stream: &mut TcpStream, over: &Over) -> std::io::Result<()> {
    transaction(stream)?;
    for _ in 0..4 {
        say(stream, &"RCPT TO:<b@example.net>\r\n".repeat(40))?;
    }
    drain(stream, over)
}

/// More recipients than a message may have.
fn recipients(stream: &mut TcpStream, over: &Over) -> std::io::Result<()> {
    transaction(stream)?;
    let many: String = (0..110).map(|number| format!("RCPT TO:<c{number}@example.net>\r\n")).collect();
    say(stream, &many)?;
    drain(stream, over)
}

/// Where mail may not go.
fn strangers(stream: &mut TcpStream, over: &Over) -> std::io::Result<()> {
    transaction(stream)?;
    say(stream, "RCPT TO:<b@elsewhere.example>\r\n")?;
    drain(stream, over)
}

/// A line without end.
fn lines(stream: &mut TcpStream, over: &Over) -> std::io::Result<()> {
    say(stream, "EHLO flood.test\r\n")?;
    while !over.is() {
        stream.write_all(&[b'x'; 4096])?;
        std::thread::sleep(PAUSE / 10);
    }
    Ok(())
}

/// More content than a message may have.
fn size(stream: &mut TcpStream, over: &Over) -> std::io::Result<()> {
    transaction(stream)?;
    say(stream, "DATA\r\n")?;
    stream.write_all("all work and no play\r\n".repeat(20_000).as_bytes())?;
    say(stream, ".\r\n")?;
    drain(stream, over)
}

/// So much more that nobody reads it to its end.
fn surplus(stream: &mut TcpStream, over: &Over) -> std::io::Result<()> {
    transaction(stream)?;
    say(stream, "DATA\r\n")?;
    stream.write_all("all work and no play\r\n".repeat(80_000).as_bytes())?;
    drain(stream, over)
}

/// As much memory as can be had, for as long as it can be had.
fn memory(stream: &mut TcpStream, over: &Over) -> std::io::Result<()> {
    transaction(stream)?;
    say(stream, "DATA\r\n")?;
    stream.write_all("all work and no play\r\n".repeat(11_000).as_bytes())?;
    while !over.is() {
        stream.write_all(b"x\r\n")?;
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Opens a transaction.
fn transaction(stream: &mut TcpStream) -> std::io::Result<()> {
    say(stream, "EHLO flood.test\r\n")?;
    say(stream, "MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\n")
}

/// Writes, and waits for some reply.
fn say(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(text.as_bytes())?;
    let mut buffer = [0; 4096];
    if stream.read(&mut buffer)? == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

const ATTACKS: [(Door, Attack); 15] = [
    (Door::Plain, hold),
    (Door::Proxied, ipv6),
    (Door::Proxied, hold),
    (Door::Plain, handshakes),
    (Door::Plain, stalls),
    (Door::Plain, errors),
    (Door::Plain, junk),
    (Door::Plain, commands),
    (Door::Plain, messages),
    (Door::Plain, recipients),
    (Door::Plain, strangers),
    (Door::Plain, lines),
    (Door::Plain, size),
    (Door::Plain, surplus),
    (Door::Plain, memory),
];

/// Reads until the server has enough.
fn drain(stream: &mut TcpStream, over: &Over) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    while !over.is() {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// A connection from an address of this machine.
fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect(&to.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

/// An address whose network is its own.
fn address(network: u8, host: u8) -> IpAddr {
    let IpAddr::V4(own) = own_address() else { unreachable!("they are IPv4") };
    let [_, second, ..] = own.octets();
    IpAddr::V4(Ipv4Addr::new(127, second, network, host))
}

/// More connections than there may be in all, from networks that each have no more than they may.
fn crowd(server: &Postrider) {
    wait_for("more connections than there may be", || {
        let networks = (0..CROWD).map(|network| 100 + network);
        let all = networks.flat_map(|network| (0..CROWD_EACH).map(move |number| address(network, 1 + number % 3)));
        let _open: Vec<_> = all.map(|from| connect(from, server.setup().address)).collect();
        (counted(server, &format!("postrider_reception_{}", LIMITS_MET[0])) > 0.0).then_some(())
    });
}

/// One attacker, again and again.
fn attack(kind: usize, number: usize, to: SocketAddr, over: &Over) {
    let (door, attack) = ATTACKS[kind];
    let from = address(200 + kind as u8, 1 + (number % 3) as u8);
    while !over.is() {
        let _ = connect(from, to).and_then(|mut stream| {
            if matches!(door, Door::Plain) {
                say(&mut stream, "")?;
            }
            attack(&mut stream, over)
        });
        // A flood that takes the whole machine tests the machine.
        std::thread::sleep(PAUSE);
    }
}

#[test]
fn ten_who_behave_get_through_a_flood() {
    let (sink, proxied) = (Sink::start(), own_socket());
    let door = format!("[[listener]]\nname = \"proxied\"\naddress = \"{proxied}\"\nproxies = [\"127.0.0.0/8\"]");
    let setup = Setup::to(&sink).top("domains = [\"example.net\"]").networks("192.0.2.0/24").table(LIMITS).table(&door);
    let (server, to) = (Postrider::start(&setup), setup.address);
    let over = Over::default();
    let (mut latencies, mut ledger) = (Vec::new(), Ledger::default());
    std::thread::scope(|scope| {
        let _ends = Ends(&over);
        for (kind, (door, _)) in ATTACKS.iter().enumerate() {
            let at = if matches!(door, Door::Plain) { to } else { proxied };
            for number in 0..EACH {
                let over = &over;
                scope.spawn(move || attack(kind, number, at, over));
            }
        }
        // They begin when the flood has broken every limit. Of that in all nobody can have more than a moment: while it is
        // reached, everybody is put off.
        crowd(&server);
        for limit in LIMITS_MET {
            wait_for(limit, || (counted(&server, &format!("postrider_reception_{limit}")) > 0.0).then_some(()));
        }
        let good = (1..=GOOD).map(|number| scope.spawn(move || behave(number, to)));
        for good in good.collect::<Vec<_>>() {
            let (times, promised) = good.join().expect("a client");
            latencies.extend(times);
            ledger.join(promised);
        }
    });
    latencies.sort();
    let (median, worst) = (latencies[latencies.len() / 2], latencies[latencies.len() - 1]);
    let memory = most_resident(server.pid());
    println!(
        "{} messages of {GOOD} clients in a flood: median {median:?}, worst {worst:?}; {} MiB resident at most",
        latencies.len(),
        memory >> 20
    );
    let bound = if is_measured() { PROMPT } else { PATIENCE };
    assert!(worst <= bound, "the slowest message took {worst:?}, and {bound:?} is allowed");
    assert!(memory <= MOST_MEMORY, "{} MiB", memory >> 20);
    assert_eq!(ledger.len(), usize::from(GOOD) * MESSAGES);
    ledger.settle_among_others(&sink);
    server.stop();
}

/// Sends messages one after the other, each over a connection of its own; how long each of them took, and to whom.
fn behave(number: u8, to: SocketAddr) -> (Vec<Duration>, Ledger) {
    let mut ledger = Ledger::default();
    let send = |message| {
        let begun = Instant::now();
        let stream = connect(address(number, 1), to).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut client = Client::over(stream);
        greeted(&mut client).expect("no reason to refuse");
        let sent = ledger.post_by(&mut client, &format!("good{number}m{message}"), "hello");
        sent.expect("no reason to refuse");
        begun.elapsed()
    };
    let times = (0..MESSAGES).map(send).collect();
    (times, ledger)
}
