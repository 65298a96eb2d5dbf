//! Bare segments: bodies one after another in files whose space is there already, one sync for all that wait. No envelope,
//! no checksum, no index, nothing is ever read again. What the disk and the runtime allow a store that keeps its promise.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use store::{File, Files};
use tokio::sync::{mpsc, oneshot};

/// As large as the store's own.
const SEGMENT: u64 = 64 << 20;
/// They are used again in turn.
const SEGMENTS: usize = 4;
/// The most bodies of one write: the most slices that Linux takes.
const BATCH: usize = 1024;

type Job = (Bytes, oneshot::Sender<()>);

/// Hands bodies to the thread that writes.
#[derive(Clone)]
pub struct Bare {
    line: mpsc::UnboundedSender<Job>,
}

impl Bare {
    /// Makes the segments, and starts the thread; it ends with the last clone.
    pub fn start(files: Arc<dyn Files>) -> Self {
        let segment = |number| files.create(&format!("bare.{number}"), SEGMENT).expect("a segment");
        let segments: Vec<_> = (0..SEGMENTS).map(segment).collect();
        files.sync_names().expect("names");
        let (line, jobs) = mpsc::unbounded_channel();
        std::thread::spawn(move || write(&segments, jobs));
        Self { line }
    }

    /// Returns when it is durable.
    pub async fn put(&self, body: Bytes) {
        let (sender, done) = oneshot::channel();
        self.line.send((body, sender)).expect("the thread lives");
        done.await.expect("the thread lives");
    }
}

fn write(segments: &[Arc<dyn File>], mut jobs: mpsc::UnboundedReceiver<Job>) {
    let (mut number, mut offset) = (0, 0);
    let mut batch = Vec::new();
    while jobs.blocking_recv_many(&mut batch, BATCH) > 0 {
        let octets: u64 = batch.iter().map(|(body, _)| body.len() as u64).sum();
        if offset + octets > SEGMENT {
            (number, offset) = ((number + 1) % segments.len(), 0);
        }
        let slices: Vec<_> = batch.iter().map(|(body, _)| IoSlice::new(body)).collect();
        segments[number].write(&slices, offset).expect("a write");
        segments[number].sync().expect("a sync");
        offset += octets;
        for (_, done) in batch.drain(..) {
            let _ = done.send(());
        }
    }
}
