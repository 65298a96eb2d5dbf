//! Clients that take their time before and beside SMTP: in a TLS handshake, a PROXY header, an authentication.

use std::net::{SocketAddr, TcpStream};

use crate::clients::{Ledger, counted, metric};
use crate::harness::{Line, PATIENCE, Postrider, Setup, Sink, own_socket, wait_for};
use crate::slow::{LIMITS, until_closed};

/// A client that becomes slow where SMTP is not spoken.
struct Slow {
    /// The listener.
    door: Door,
    /// What is said in SMTP before it, each with the code of its reply.
    commands: &'static [(&'static str, &'static str)],
    /// Whether the handshake is made after STARTTLS.
    is_secure: bool,
    /// What it sends then.
    first: &'static [u8],
    /// What it sends after that, again and again.
    drip: &'static [u8],
    /// What it is told at the end.
    told: &'static str,
    /// What counts it.
    metric: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    /// TLS is offered, and AUTH in it.
    Offered,
    /// TLS from the first octet on.
    Implicit,
    /// A PROXY header comes first.
    Proxied,
}

/// The head of a record with a ClientHello of 512 octets, of which the first are there.
const HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
const SLOW_HANDSHAKE: &str = "tls_failures_total{reason=\"slow\"}";
const LATE_HEADER: &str = "connections_refused_total{reason=\"proxy_time\"}";
const LATE_COMMAND: &str = "closed_total{reason=\"command_time\"}";
const NO_HEADER: &str = "554 5.7.0 a PROXY header must come first from here\r\n";
const TOO_LATE: &str = "421 4.4.2 waited too long for input\r\n";
const EHLO: (&str, &str) = ("EHLO slow.test", "250");
const STARTTLS: (&str, &str) = ("STARTTLS", "220");
const UNTIL_TLS: &[(&str, &str)] = &[EHLO, STARTTLS];
const IN_TLS: &[(&str, &str)] = &[EHLO, STARTTLS, EHLO, ("AUTH PLAIN", "334")];

/// A handshake or a header that does not come to its end.
const fn slow(
    door: Door,
    commands: &'static [(&'static str, &'static str)],
    first: &'static [u8],
    drip: &'static [u8],
) -> Slow {
    let (told, metric) = match door {
        Door::Proxied => (NO_HEADER, LATE_HEADER),
        Door::Offered | Door::Implicit => ("", SLOW_HANDSHAKE),
    };
    Slow { door, commands, is_secure: false, first, drip, told, metric }
}

/// In the middle of an authentication.
const fn login(first: &'static [u8], drip: &'static [u8]) -> Slow {
    Slow { is_secure: true, told: TOO_LATE, metric: LATE_COMMAND, ..slow(Door::Offered, IN_TLS, first, drip) }
}

const PHASES: [Slow; 9] = [
    slow(Door::Implicit, &[], b"", b""),
    slow(Door::Implicit, &[], HELLO, b""),
    slow(Door::Implicit, &[], HELLO, b"\0"),
    slow(Door::Offered, UNTIL_TLS, b"", b""),
    slow(Door::Offered, UNTIL_TLS, HELLO, b"\0"),
    slow(Door::Proxied, &[], b"", b""),
    slow(Door::Proxied, &[], b"PROXY TCP4 192", b"."),
    login(b"", b""),
    login(b"AGpvZQ", b"A"),
];

impl Slow {
    /// Does all it can to stay, and gives what it was told until the end.
    fn run(&self, address: SocketAddr) -> String {
        let stream = TcpStream::connect(address).expect("the server listens");
        let mut line = Line::Clear(stream);
        if self.door == Door::Offered {
            expect(&mut line, "220");
        }
        for (command, code) in self.commands {
            line.write(format!("{command}\r\n").as_bytes()).expect("the connection stands");
            expect(&mut line, code);
            if self.is_secure && *command == "STARTTLS" {
                line = line.secure("mx.test", PATIENCE).expect("a handshake");
            }
        }
        line.write(self.first).expect("the connection stands");
        until_closed(line, self.drip)
    }
}

/// Reads a reply, which must have this code.
fn expect(line: &mut Line, code: &str) {
    line.socket().set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut reply = [0; 1024];
    let read = line.read(&mut reply).expect("a reply in time");
    assert!(reply[..read].starts_with(code.as_bytes()), "{}", String::from_utf8_lossy(&reply[..read]));
}

#[test]
fn handshakes_headers_and_logins_have_their_limits_too() {
    let sink = Sink::start();
    let (implicit, proxied) = (own_socket(), own_socket());
    let setup = Setup::to(&sink).listener("auth = \"offered\"").table("[accounts]").table(&format!(
        "[[listener]]\nname = \"implicit\"\naddress = \"{implicit}\"\ntls = \"implicit\"\n\
         [[listener]]\nname = \"proxied\"\naddress = \"{proxied}\"\nproxies = [\"127.0.0.0/8\"]\n\
         [connections]\nproxy_time = \"1s\"\n[tls]\nhandshake_time = \"1s\"\n{LIMITS}"
    ));
    setup.write();
    std::fs::write(setup.folder().join("accounts.toml"), "").expect("our own file");
    let server = Postrider::start(&setup);
    let mut ledger = Ledger::default();
    std::thread::scope(|scope| {
        let slow = PHASES.each_ref().map(|phase| {
            let address = match phase.door {
                Door::Offered => setup.address,
                Door::Implicit => implicit,
                Door::Proxied => proxied,
            };
            (phase, scope.spawn(move || phase.run(address)))
        });
        for number in 0..20 {
            ledger.post(setup.address, &format!("n{number}"), "hello").expect("others are slow, not this one");
        }
        for (number, (phase, thread)) in slow.into_iter().enumerate() {
            assert_eq!(thread.join().expect("a client"), phase.told, "the client number {number}");
        }
    });
    ledger.settle(&sink);
    for metric in [SLOW_HANDSHAKE, LATE_HEADER, LATE_COMMAND] {
        let phases = PHASES.iter().filter(|phase| phase.metric == metric).count();
        assert_eq!(counted(&server, &format!("postrider_reception_{metric}")), phases as f64, "{metric}");
    }
    wait_for("their ends", || (metric(&server, "postrider_reception_sessions") == 0.0).then_some(()));
    server.stop();
}
