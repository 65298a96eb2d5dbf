//! A server that follows a script, one script for each connection.

use std::net::SocketAddr;
use std::sync::Arc;

use mail::TargetHost;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// A server that takes as many connections as it has scripts, and nothing after that.
pub struct Peer {
    pub address: SocketAddr,
    serving: JoinHandle<Followed>,
    gate: Arc<Semaphore>,
}

/// The usual start, PIPELINING offered.
pub const HELLO: &str = "S 220 mx\nC EHLO us.example\nS 250-mx\nS 250 PIPELINING\n";
/// One message for one recipient, taken.
pub const TAKES: &str =
    "C MAIL FROM:<s@us.example>\nC RCPT TO:<0@x.example>\nC DATA\nS 250 ok\nS 250 ok\nS 354 go\ncontent\nS 250 taken\n";
/// The usual end.
pub const BYE: &str = "C QUIT\nS 221 bye\n";

impl Peer {
    /// `S text`: says it, `|` for a line end. `C text`: reads a line, which must be this. `content`: reads to the final dot. `octets N`: reads
    /// N octets of content. `cut`: ends the connection, as does the end of the script. `reset`: ends it hard. `hang`:
    /// says nothing more, until the client leaves. `deaf`: reads nothing more, and leaves the connection open. `unread`:
    /// waits for input and leaves it there, so that the connection ends by a reset. `wait`: until [`Peer::go_on`].
    pub async fn start(scripts: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", scripts).await
    }

    /// At an address of one's own.
    pub async fn start_at(address: &str, scripts: &[&str]) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let scripts: Vec<String> = scripts.iter().map(|&script| script.to_owned()).collect();
        let gate = Arc::new(Semaphore::new(0));
        let mut followed = Followed { contents: Vec::new(), deaf: Vec::new(), gate: Arc::clone(&gate) };
        let serving = tokio::spawn(async move {
            for script in scripts {
                let (stream, _) = listener.accept().await.unwrap();
                followed.follow(stream, &script).await;
            }
            followed
        });
        Self { address, serving, gate }
    }

    /// Ends one `wait`.
    pub fn go_on(&self) {
        self.gate.add_permits(1);
    }

    /// As a host of a target.
    pub fn host(&self, preference: u16) -> TargetHost {
        TargetHost::Address { address: self.address, preference }
    }

    /// The contents that it got. All scripts must have been followed.
    pub async fn contents(self) -> Vec<String> {
        assert!(self.serving.is_finished() || settled(&self.serving).await, "a script was not followed to its end");
        self.serving.await.unwrap().contents
    }
}

/// Gives the server the chance to see the last of the client's end.
async fn settled(serving: &JoinHandle<Followed>) -> bool {
    for _ in 0..1000 {
        if serving.is_finished() {
            return true;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    false
}

/// What the scripts have led to so far.
struct Followed {
    contents: Vec<String>,
    deaf: Vec<BufReader<TcpStream>>,
    gate: Arc<Semaphore>,
}

impl Followed {
    async fn follow(&mut self, stream: TcpStream, script: &str) {
        let mut stream = BufReader::new(stream);
        for step in script.lines() {
            match step.split_once(' ').unwrap_or((step, "")) {
                ("S", text) => {
                    // The client may have left already: that is its right.
                    let text = format!("{}\r\n", text.replace('|', "\r\n"));
                    let _ = stream.write_all(text.as_bytes()).await;
                }
                ("C", expected) => {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.unwrap();
                    assert_eq!(line.trim_end_matches("\r\n"), expected, "in\n{script}");
                }
                ("content", _) => {
                    let mut content = String::new();
                    while !content.ends_with("\r\n.\r\n") {
                        assert_ne!(
                            stream.read_line(&mut content).await.unwrap(),
                            0,
                            "the content ended early: {content}"
                        );
                    }
                    self.contents.push(content);
                }
                ("octets", count) => {
                    let mut content = vec![0; count.parse().unwrap()];
                    stream.read_exact(&mut content).await.unwrap();
                    self.contents.push(String::from_utf8(content).unwrap());
                }
                ("cut", _) => return,
                ("reset", _) => return stream.get_ref().set_zero_linger().unwrap(),
                ("deaf", _) => return self.deaf.push(stream),
                ("unread", _) => {
                    stream.get_ref().peek(&mut [0]).await.unwrap();
                }
                ("wait", _) => self.gate.acquire().await.unwrap().forget(),
                ("hang", _) => {
                    let mut rest = Vec::new();
                    let _ = stream.read_to_end(&mut rest).await;
                    return;
                }
                other => panic!("what is {other:?}?"),
            }
        }
    }
}
