//! Drain: what ends at once, what may finish, what is cut.

use std::time::Duration;

use reception::Drained;
use tokio::net::TcpStream;

use crate::testing::{Server, settings, until, within};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn idle_clients_are_sent_away_and_transactions_finish() {
    let mut server = Server::start(settings());
    let mut idle = server.connect().await.greeted().await;
    let mut busy = server.connect().await.greeted().await.in_data().await;
    let (address, reception) = (server.address(), server.reception.clone());
    let draining = tokio::spawn(async move { reception.drain(LONG).await });
    idle.expect("421 4.3.2 ").await;
    idle.expect_end().await;
    within(async { while TcpStream::connect(address).await.is_ok() {} }).await;
    busy.ask("Subject: hi\r\n\r\n.", "250 2.0.0 ").await;
    busy.expect("421 4.3.2 ").await;
    busy.expect_end().await;
    assert_eq!(server.arrived().await.content, "Subject: hi\r\n\r\n");
    let Drained { open, cut } = within(draining).await.unwrap();
    assert!(open >= 1 && cut == 0, "{open} {cut}");
    assert_eq!(server.metrics.sessions.get(), 0);
}

#[tokio::test]
async fn transactions_are_cut_at_the_limit() {
    let mut server = Server::start(settings());
    let mut busy = server.connect().await.greeted().await.in_data().await;
    busy.say("Subject: hi\r\n\r\nnever fini").await;
    let drained = server.drain(Duration::from_millis(20)).await;
    assert_eq!(drained, Drained { open: 1, cut: 1 });
    busy.expect("421 4.3.2 ").await;
    busy.expect_end().await;
    assert!(server.nothing_arrived());
}

#[tokio::test]
async fn a_commit_under_way_is_still_acknowledged() {
    let mut server = Server::start(settings());
    server.close_gate();
    let mut busy = server.connect().await.greeted().await.in_data().await;
    busy.say("Subject: hi\r\n\r\n.\r\n").await;
    server.submit_waits().await;
    let reception = server.reception.clone();
    let draining = tokio::spawn(async move { reception.drain(Duration::ZERO).await });
    until(|| server.reception.local_addresses().is_empty()).await;
    server.inbox.gate.add_permits(1);
    busy.expect("250 2.0.0 ").await;
    busy.expect("421 4.3.2 ").await;
    within(draining).await.unwrap();
    server.arrived().await;
}

#[tokio::test]
async fn serving_ends_with_the_drain() {
    let server = Server::bound(settings());
    let reception = server.reception.clone();
    let serving = tokio::spawn(async move { reception.serve().await });
    server.connect().await.greeted().await;
    server.drain(LONG).await;
    within(serving).await.unwrap();
    assert!(server.reception.reconfigure(settings()).is_err());
}
