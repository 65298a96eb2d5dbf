//! A wire between the server and clients that tell nothing: it notes what the server has acknowledged as it passes.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::harness::own_address;
use crate::letters::acknowledged;

/// A running relay.
pub struct Relay {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    acknowledged: Receiver<String>,
}

impl Relay {
    /// Carries every connection to this server.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((own_address(), 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let (sender, acknowledged) = channel();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let sender = sender.clone();
                // A server that is not there ends the connection, as it would without us.
                std::thread::spawn(move || TcpStream::connect(server).map(|server| carry(&client, &server, &sender)));
            }
        });
        Self { address, over, acknowledged }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it once the server has closed every connection; gives the queue ids that passed.
    pub fn stop(self) -> Vec<String> {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        self.acknowledged.iter().collect()
    }
}

/// Carries octets both ways. What a server that was killed had sent is read to its end, and counts.
fn carry(client: &TcpStream, server: &TcpStream, ids: &Sender<String>) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::copy(&mut &*client, &mut &*server);
            let _ = server.shutdown(Shutdown::Write);
        });
        let (mut replies, mut line) = (BufReader::new(server), Vec::new());
        while replies.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if let Some(id) = String::from_utf8_lossy(&line).strip_suffix("\r\n").and_then(acknowledged) {
                let _ = ids.send(id.to_owned());
            }
            // A client that has gone does not undo what it was told.
            let _ = (&*client).write_all(&line);
            line.clear();
        }
        let _ = client.shutdown(Shutdown::Both);
    });
}

#[test]
fn what_was_acknowledged_is_known_whether_or_not_the_client_reads_it() {
    const ID: &str = "01kan8q3v7c4x1m0z9t6w2r5hd";
    let server = TcpListener::bind((own_address(), 0)).expect("a free port");
    let relay = Relay::start(server.local_addr().expect("a bound socket"));
    let client = TcpStream::connect(relay.address()).expect("the relay listens");
    let (mut connection, _) = server.accept().expect("the relay connects");
    drop(client);
    connection.write_all(b"250 2.0.0 ok\r\n250 2.0.0 ").expect("the relay reads");
    connection.write_all(format!("{ID} queued\r\n250 2.0.0 {ID} que").as_bytes()).expect("the relay reads");
    drop(connection);
    assert_eq!(relay.stop(), [ID]);
}
