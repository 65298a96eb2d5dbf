//! A flood that breaks every limit at once, and the ten who behave.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::clients::{Ledger, counted, greeted};
use crate::harness::{Client, PATIENCE, Postrider, Setup, Sink, own_address, wait_for};
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

const LIMITS: &str = "[connections]\nper_address = 8\nper_ipv4_network = 20\nin_flight = \"2MiB\"\n\
                      [limits]\nmessage_size = \"256KiB\"\nrecipients = 100\nerrors = 5\nerror_delay = \"100ms\"\n\
                      junk = 20\nmessages = 10\ncommands = 150\ncommand_length = 1024\ndiscard = \"1MiB\"";

/// What tells that a limit was met.
const LIMITS_MET: [&str; 10] = [
    "connections_refused_total{reason=\"address\"}",
    "connections_refused_total{reason=\"ipv4_network\"}",
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

const ATTACKS: [Attack; 9] = [hold, errors, junk, commands, recipients, strangers, lines, size, memory];

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

#[test]
fn ten_who_behave_get_through_a_flood() {
    let sink = Sink::start();
    let setup = Setup::to(&sink).top("domains = [\"example.net\"]").networks("192.0.2.0/24").table(LIMITS);
    let server = Postrider::start(&setup);
    let over = Over::default();
    let mut latencies = std::thread::scope(|scope| {
        let _ends = Ends(&over);
        for (kind, attack) in ATTACKS.iter().enumerate() {
            for number in 0..EACH {
                let from = address(200 + kind as u8, 1 + (number % 3) as u8);
                let (over, to) = (&over, setup.address);
                scope.spawn(move || {
                    while !over.is() {
                        let _ = connect(from, to).and_then(|mut stream| {
                            say(&mut stream, "")?;
                            attack(&mut stream, over)
                        });
                        // A flood that takes the whole machine tests the machine.
                        std::thread::sleep(PAUSE);
                    }
                });
            }
        }
        // They begin when the flood has broken every limit.
        for limit in LIMITS_MET {
            wait_for(limit, || (counted(&server, &format!("postrider_reception_{limit}")) > 0.0).then_some(()));
        }
        let good = (1..=GOOD).map(|number| scope.spawn(move || behave(number, setup.address)));
        let good: Vec<_> = good.collect();
        good.into_iter().flat_map(|good| good.join().expect("a client")).collect::<Vec<Duration>>()
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
    server.stop();
}

/// Sends messages one after the other, each over a connection of its own; how long each of them took.
fn behave(number: u8, to: SocketAddr) -> Vec<Duration> {
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
    (0..MESSAGES).map(send).collect()
}
