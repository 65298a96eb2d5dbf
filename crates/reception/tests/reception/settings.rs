//! Settings that change while sessions are open.

use std::net::TcpListener;
use std::sync::Arc;

use mail::{Domain, Protocol};
use reception::{Listener, ReceptionError, Socket};
use tokio::net::TcpStream;

use crate::testing::{Client, Server, listener, settings, within};

fn named(name: &str) -> Listener {
    Listener { name: name.into(), ..listener() }
}

/// A listener at a port of another address, so that it can be told from `listener`'s.
fn second() -> Listener {
    Listener { socket: Socket::Bind("127.0.0.2:0".parse().unwrap()), ..named("second") }
}

#[tokio::test]
async fn new_sessions_get_new_settings_and_old_ones_go_on() {
    let server = Server::start(settings());
    let address = server.address();
    let mut old = server.connect().await.greeted().await;
    let mut changed = settings();
    changed.listeners[0].session.hostname = Domain::parse("new.example.org").unwrap();
    changed.listeners[0].relay.domains.clear();
    server.reception.reconfigure(changed).unwrap();
    assert_eq!(server.address(), address, "the socket stays");
    let mut new = server.connect().await;
    new.expect("220 new.example.org").await;
    new.ask("EHLO client.example", "250-new.example.org").await;
    new.ask("MAIL FROM:<>", "250 ").await;
    new.ask("RCPT TO:<b@example.org>", "550 5.7.1").await;
    let mut old = {
        old.ask("NOOP", "250 ").await;
        old.in_data().await
    };
    old.ask("Subject: hi\r\n\r\n.", "250 2.0.0 ").await;
}

#[tokio::test]
async fn listeners_come_and_go() {
    let server = Server::start(settings());
    let gone = server.address();
    let mut old = server.connect().await.greeted().await;
    let mut changed = settings();
    changed.listeners = vec![second()];
    server.reception.reconfigure(changed).unwrap();
    let [address] = server.reception.local_addresses()[..] else { panic!("one listener") };
    assert_eq!(address.ip().to_string(), "127.0.0.2");
    Client::connect(address).await.greeted().await;
    within(async { while TcpStream::connect(gone).await.is_ok() {} }).await;
    old.ask("NOOP", "250 ").await;
}

#[tokio::test]
async fn each_listener_keeps_its_own_socket() {
    let mut two = settings();
    two.listeners.push(named("second"));
    two.listeners[1].session.hostname = Domain::parse("second.example.org").unwrap();
    let server = Server::start(two.clone());
    let before = server.reception.local_addresses();
    server.reception.reconfigure(two).unwrap();
    assert_eq!(server.reception.local_addresses(), before);
    Client::connect(before[0]).await.expect("220 mx.example.org").await;
    Client::connect(before[1]).await.expect("220 second.example.org").await;
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_changes_nothing() {
    let server = Server::start(settings());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut changed = settings();
    changed.listeners[0].session.hostname = Domain::parse("new.example.org").unwrap();
    changed.listeners.push(second());
    changed.listeners.push(Listener { socket: Socket::Bind(taken.local_addr().unwrap()), ..named("third") });
    let error = server.reception.reconfigure(changed).unwrap_err();
    assert!(matches!(&error, ReceptionError::Bind { name, .. } if name == "third"), "{error}");
    assert_eq!(server.reception.local_addresses().len(), 1);
    server.connect().await.expect("220 mx.example.org").await;
}

#[tokio::test]
async fn contradictions_are_told() {
    let server = Server::start(settings());
    let mut twice = settings();
    twice.listeners.push(listener());
    assert!(matches!(server.reception.reconfigure(twice), Err(ReceptionError::Name { .. })));
    let mut lmtp = settings();
    lmtp.listeners[0].session.protocol = Protocol::Lmtp;
    lmtp.listeners[0].socket = Socket::Bind("127.0.0.1:25".parse().unwrap());
    assert!(matches!(server.reception.reconfigure(lmtp), Err(ReceptionError::LmtpPort { .. })));
}

#[tokio::test]
async fn a_socket_handed_in_is_used_and_stays() {
    let inherited = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let with = |inherited: &Arc<TcpListener>| {
        let mut settings = settings();
        settings.listeners[0].socket = Socket::Inherited(inherited.clone());
        settings
    };
    let server = Server::start(with(&inherited));
    assert_eq!(server.address(), inherited.local_addr().unwrap());
    server.connect().await.greeted().await;
    server.reception.reconfigure(with(&inherited)).unwrap();
    server.connect().await.greeted().await;
}

#[tokio::test]
async fn ipv6_and_ipv4_of_one_port_are_two_listeners() {
    let Ok(probe) = TcpListener::bind("[::1]:0") else { return println!("skipped: no IPv6 here") };
    drop(probe);
    let any_v4 = Listener { socket: Socket::Bind("0.0.0.0:0".parse().unwrap()), ..named("v4") };
    let server = Server::start(reception::Settings::new(vec![any_v4.clone()]));
    let port = server.address().port();
    let any_v6 = Listener { socket: Socket::Bind(format!("[::]:{port}").parse().unwrap()), ..named("v6") };
    server.reception.reconfigure(reception::Settings::new(vec![any_v4, any_v6])).unwrap();
    Client::connect(format!("127.0.0.1:{port}").parse().unwrap()).await.greeted().await;
    Client::connect(format!("[::1]:{port}").parse().unwrap()).await.greeted().await;
}

#[tokio::test]
async fn connections_may_be_accepted_by_somebody_else() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = elsewhere.local_addr().unwrap();
    let mut settings = settings();
    settings.listeners[0].socket = Socket::Elsewhere(address);
    settings.connections.per_address = 1;
    let server = Server::start(settings);
    assert_eq!(server.address(), address, "the listener has the address, and no socket");
    elsewhere.set_nonblocking(true).unwrap();
    let accepting = tokio::net::TcpListener::from_std(elsewhere).unwrap();
    let accept = async |name: &str| {
        let (stream, peer) = within(accepting.accept()).await.unwrap();
        server.reception.take(name, stream, peer, address)
    };
    let (mut client, taken) = tokio::join!(Client::connect(address), accept("mx"));
    taken.unwrap();
    client = client.greeted().await;
    let (mut second, taken) = tokio::join!(Client::connect(address), accept("mx"));
    taken.unwrap();
    second.expect("421 4.7.0").await;
    client.ask("NOOP", "250 ").await;
    let (_, taken) = tokio::join!(Client::connect(address), accept("other"));
    assert!(matches!(taken, Err(ReceptionError::NoListener { name }) if name == "other"));
}
