//! With the real store and queue: what was acknowledged is there, also after the store was opened anew.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dns::testing::Fixed;
use mail::{Clock, Domain, MessageId, Randomness, SystemClock};
use queue::Queue;
use reception::{Metrics, QueueIntake, Reception};
use store::{Options, RealFiles, Store};

use tokio::task::JoinHandle;

use crate::testing::{Client, bind, settings, within};

fn open(path: &Path) -> Store {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let randomness = Randomness::from_system();
    Store::open(Options::small(), RealFiles::open(path).unwrap(), clock, randomness, store::Metrics::default()).unwrap()
}

fn serve(store: &Store) -> (Reception, JoinHandle<()>) {
    let queue = Queue::new(queue::Parts {
        store: store.clone(),
        resolver: Arc::new(Fixed::default()),
        settings: queue::Settings::new(Domain::parse("mx.example.org").unwrap()),
        clock: Arc::new(SystemClock),
        randomness: Randomness::from_system(),
        observer: Arc::new(()),
        metrics: queue::Metrics::default(),
    })
    .unwrap();
    let reception = bind(Arc::new(QueueIntake::new(queue)), Metrics::default(), settings());
    let serving = reception.clone();
    let serving = tokio::spawn(async move { serving.serve().await });
    (reception, serving)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_in_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (reception, serving) = serve(&store);
    let address = reception.local_addresses()[0];
    // One fits into memory, one streams to disk.
    let contents: Vec<_> =
        [10, 5000].iter().map(|lines| format!("Subject: hi\r\n\r\n{}", "0123456789\r\n".repeat(*lines))).collect();
    let mut ids = Vec::new();
    let mut client = Client::connect(address).await.greeted().await;
    for content in &contents {
        client = client.in_data().await;
        client.say(content).await;
        let reply = client.ask(".", "250 2.0.0 ").await;
        ids.push(MessageId::parse(reply.split(' ').nth(2).unwrap()).unwrap());
    }
    within(reception.drain(Duration::from_secs(30))).await;
    within(serving).await.unwrap();
    // It holds the store by its intake.
    drop(reception);
    within(store.close()).await;

    let store = open(folder.path());
    for (id, content) in ids.into_iter().zip(contents) {
        let message = within(store.message(id)).await.unwrap().unwrap();
        assert_eq!(message.envelope.recipients[0].path.to_string(), "<b@example.org>");
        let stored = within(store.content(id)).await.unwrap().unwrap().collect().await.unwrap();
        let stored = String::from_utf8(stored.to_vec()).unwrap();
        let (trace, rest) = stored.split_once("Subject:").unwrap();
        assert!(trace.starts_with("Received: from client.example ([127.0.0.1])\r\n\tby mx.example.org with ESMTP"));
        assert_eq!(format!("Subject:{rest}"), content);
    }
    within(store.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_finished_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (reception, serving) = serve(&store);
    let mut client = Client::connect(reception.local_addresses()[0]).await.greeted().await.in_data().await;
    client.say(format!("Subject: hi\r\n\r\n{}", "0123456789\r\n".repeat(5000))).await;
    drop(client);
    within(reception.drain(Duration::from_secs(30))).await;
    within(serving).await.unwrap();
    assert!(within(store.page(None, 10)).await.unwrap().is_empty());
    assert_eq!(store.status().messages, 0);
    within(store.close()).await;
}
