//! Clients: the messages that one would send, SCRAM by a library that others wrote.

use std::net::SocketAddr;
use std::sync::Arc;

use directory::{
    AuthFailure, BackendSettings, CertificateAccount, ChannelFacts, Directory, Exchange, Metrics, Secret, Settings,
    Step,
};
use rsasl::prelude::{Mechname, SASLClient, SASLConfig};

/// A directory with a backend.
pub fn open(backend: BackendSettings) -> Directory {
    open_with(Settings::new(backend, Secret::random()))
}

/// A directory with settings.
pub fn open_with(settings: Settings) -> Directory {
    let directory = Directory::new(Metrics::default());
    directory.configure(Some(settings)).expect("good settings");
    directory
}

/// A TLS 1.3 channel.
pub fn facts() -> ChannelFacts {
    let peer: SocketAddr = "192.0.2.1:4711".parse().expect("an address");
    ChannelFacts { peer, tls: true, tls_exporter: Some([7; 32]), certificate: None }
}

/// The same, with a certificate of somebody.
pub fn certified(account: &str) -> ChannelFacts {
    ChannelFacts { certificate: Some(CertificateAccount { account: account.to_owned() }), ..facts() }
}

/// Who it is and what it may send as, or why not.
pub type Outcome = Result<(String, String), AuthFailure>;

fn outcome(step: Step) -> Outcome {
    match step {
        Step::Done { account, .. } => Ok((account.name.clone(), account.send_as.describe())),
        Step::Failed(failure) => Err(failure),
        Step::Challenge(text) => panic!("still asked: {}", String::from_utf8_lossy(&text)),
    }
}

pub fn is(name: &str) -> Outcome {
    Ok((name.to_owned(), name.to_owned()))
}

pub async fn plain(directory: &Directory, name: &str, password: &str) -> Outcome {
    let mut exchange = directory.begin("PLAIN", facts()).expect("PLAIN");
    outcome(exchange.step(Some(format!("\0{name}\0{password}").as_bytes())).await)
}

/// An exchange by PLAIN that is over.
pub async fn tried(directory: &Directory, name: &str, password: &str) -> Exchange {
    let mut exchange = directory.begin("PLAIN", facts()).expect("PLAIN");
    exchange.step(Some(format!("\0{name}\0{password}").as_bytes())).await;
    exchange
}

pub async fn login(directory: &Directory, name: &str, password: &str) -> Outcome {
    let mut exchange = directory.begin("LOGIN", facts()).expect("LOGIN");
    assert_eq!(exchange.step(None).await, Step::Challenge(b"Username:".to_vec()));
    assert_eq!(exchange.step(Some(name.as_bytes())).await, Step::Challenge(b"Password:".to_vec()));
    outcome(exchange.step(Some(password.as_bytes())).await)
}

pub async fn external(directory: &Directory, account: &str) -> Outcome {
    let mut exchange = directory.begin("EXTERNAL", certified(account)).expect("EXTERNAL");
    outcome(exchange.step(Some(b"")).await)
}

/// SCRAM-SHA-256 by rsasl's client, which also checks that the server knows the password.
pub async fn scram(directory: &Directory, name: &str, password: &str) -> Outcome {
    let config: Arc<SASLConfig> =
        SASLConfig::with_credentials(None, name.to_owned(), password.to_owned()).expect("a client");
    let mechanism = Mechname::parse(b"SCRAM-SHA-256").expect("a name");
    let mut client = SASLClient::new(config).start_suggested(&[mechanism]).expect("a session");
    let mut exchange = directory.begin("SCRAM-SHA-256", facts()).expect("SCRAM");
    let mut message = Vec::new();
    client.step(None, &mut message).expect("a first message");
    let Step::Challenge(challenge) = exchange.step(Some(&message)).await else { panic!("no challenge") };
    let mut proof = Vec::new();
    client.step(Some(&challenge), &mut proof).expect("a proof");
    match exchange.step(Some(&proof)).await {
        Step::Done { account, last } => {
            client.step(Some(&last.expect("the server's signature")), &mut Vec::new()).expect("it is right");
            Ok((account.name.clone(), account.send_as.describe()))
        }
        // Dovecot says its last word as a challenge if it must.
        step => outcome(step),
    }
}
