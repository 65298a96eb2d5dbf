//! Many clients at once, and how much memory they cost.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpStream};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::clients::{ask, greeted, metric};
use crate::harness::{Client, Postrider, Setup, Sink, skipped, wait_for};
use crate::system::{most_resident, resident};

/// So many connections of a thread are served in turn.
const CHUNK: usize = 50;
/// Octets of memory that the server may have at most, under whatever load.
pub const MOST_MEMORY: u64 = 300 << 20;

/// Whether `./dev bench load` runs this, on a machine and with a binary that are fast enough for bounds on time.
pub fn is_measured() -> bool {
    std::env::var_os("POSTRIDER_LOAD_MEASURED").is_some()
}

#[test]
fn hundreds_of_connections_cost_little_each() {
    let Some(cost) = load(1000, 100, 5) else { return };
    assert!(cost.idle <= 12 << 10, "{} octets for an idle connection", cost.idle);
    assert!(cost.resident <= 150 << 20, "{} MiB in all", cost.resident >> 20);
}

#[test]
#[ignore = "a load of its own: ./dev bench load"]
fn ten_thousand_idle_and_a_thousand_active_connections_fit_in_300_mib() {
    let Some(cost) = load(10_000, 1000, 20) else { panic!("this machine allows too few open files") };
    assert!(cost.resident <= MOST_MEMORY, "{} MiB in all", cost.resident >> 20);
}

/// What the connections cost, in octets of memory that is really there.
struct Cost {
    idle: u64,
    resident: u64,
}

/// So many clients say EHLO and then nothing. So many others are in the middle of a message, all at the same time, and then
/// send so many more, each as fast as it is served.
fn load(idle: usize, active: usize, more: usize) -> Option<Cost> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the kernel tells");
    if hard < (idle + active + 500) as u64 || setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_err() {
        skipped(&format!("only {hard} files may be open at once here"));
        return None;
    }
    let sink = Sink::start();
    let limits = format!("[connections]\ntotal = {}\n[delivery]\nconnections = 100", idle + active + 10);
    let server = Postrider::start(&Setup::to(&sink).table(&limits));
    let address = server.setup().address;
    let empty = resident(server.pid());
    let sleeping = connect(address, idle);
    let with_idle = resident(server.pid());
    let mut busy = connect(address, active);
    let content = "all work and no play\r\n".repeat(400);
    std::thread::scope(|scope| {
        for (at, clients) in busy.chunks_mut(CHUNK).enumerate() {
            let content = &content;
            scope.spawn(move || begin(clients, at, 0, content));
        }
        let open = (active * content.len()) as f64;
        let enough = || metric(&server, "postrider_reception_in_flight_bytes") >= open;
        wait_for("all messages half sent", || enough().then_some(()));
    });
    std::thread::scope(|scope| {
        let arrived = scope.spawn(|| gather(&sink, active * (1 + more)));
        for (at, clients) in busy.chunks_mut(CHUNK).enumerate() {
            let content = &content;
            scope.spawn(move || {
                finish(clients);
                (1..=more).for_each(|round| send(clients, at, round, content));
            });
        }
        arrived.join().expect("each message comes once");
    });
    let resident = most_resident(server.pid());
    assert_eq!(metric(&server, "postrider_reception_sessions"), (idle + active) as f64);
    assert_eq!(metric(&server, "postrider_reception_messages_total"), (active * (1 + more)) as f64);
    let each = with_idle.saturating_sub(empty) / idle as u64;
    println!(
        "{idle} idle and {active} active connections: {} MiB resident at most ({} MiB before them), {each} octets for an idle one",
        resident >> 20,
        empty >> 20
    );
    drop(sleeping);
    server.stop();
    Some(Cost { idle: each, resident })
}

fn connect(address: SocketAddr, count: usize) -> Vec<Client> {
    let mut clients = Vec::with_capacity(count);
    // In turns, so that no queue of the operating system overflows.
    for turn in (0..count).step_by(500) {
        let connected = (turn..count.min(turn + 500)).map(|_| TcpStream::connect(address).expect("the server listens"));
        let from = clients.len();
        clients.extend(connected.map(Client::over));
        for client in &mut clients[from..] {
            greeted(client).expect("there is room for everybody");
        }
    }
    clients
}

/// Leaves every client in the middle of a message.
fn begin(clients: &mut [Client], at: usize, round: usize, content: &str) {
    for (number, client) in clients.iter_mut().enumerate() {
        ask(client, "MAIL FROM:<a@example.org>", '2').expect("room");
        ask(client, &format!("RCPT TO:<n{at}x{number}r{round}@example.net>"), '2').expect("room");
        ask(client, "DATA", '3').expect("room");
        client.write(format!("Subject: hi\r\n\r\n{content}").as_bytes());
    }
}

fn finish(clients: &mut [Client]) {
    for client in clients.iter_mut() {
        client.write(b".\r\n");
    }
    for client in clients {
        client.expect(250);
    }
}

/// A message of each client. All wait for the same reply at the same time.
fn send(clients: &mut [Client], at: usize, round: usize, content: &str) {
    let recipient = |number: usize| format!("RCPT TO:<n{at}x{number}r{round}@example.net>\r\n");
    for (number, client) in clients.iter_mut().enumerate() {
        client.write(format!("MAIL FROM:<a@example.org>\r\n{}DATA\r\n", recipient(number)).as_bytes());
    }
    for client in clients.iter_mut() {
        [250, 250, 354].into_iter().for_each(|code| drop(client.expect(code)));
        client.write(format!("Subject: hi\r\n\r\n{content}").as_bytes());
    }
    finish(clients);
}

/// Takes so many messages, each for somebody else.
fn gather(sink: &Sink, count: usize) {
    let mut seen = HashSet::new();
    for _ in 0..count {
        let to = sink.next().to;
        assert!(seen.insert(to.clone()), "{to:?} got it twice");
    }
    assert!(sink.is_empty(), "more came than was sent");
}
