//! The process is told to end: what is under way comes to its end, in time or not, and what was heard is written down.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::house::House;
use crate::ledger::{Ledger, Recipient};
use crate::run::harm_passing;
use crate::scene::Scene;

/// Ends the process as a signal does, in the order of the server.
pub async fn stop(scene: &Arc<Scene>, house: &Arc<House>, limit: Duration) {
    let end = async {
        let (drained, quiet) = tokio::join!(house.reception.drain(limit), timeout(limit, house.queue.stop()));
        let (served, sent) = (drained.cut == 0, quiet.is_ok());
        nothing_open(scene, served, sent);
        house.store.clone().close().await;
        sent
    };
    // A full disk holds it up.
    let quiet = tokio::select! {
        biased;
        quiet = end => quiet,
        never = harm_passing(scene) => match never {},
    };
    if scene.life.is_over() {
        return;
    }
    if quiet {
        scene.ledger().stopped();
    }
    scene.note(format_args!("the process has ended{}", if quiet { "" } else { ", and cut deliveries off" }));
    scene.life.stops();
}

/// After an end in time nobody is left: no client, or no host and no outcome that was heard and not told.
fn nothing_open(scene: &Scene, served: bool, sent: bool) {
    let mut ledger = scene.ledger();
    let (clients, hosts) = (scene.places.total(), scene.calls.total());
    if scene.life.is_over() {
        return;
    }
    if served && clients > 0 || sent && hosts > 0 {
        ledger.fail("an orderly end leaves nothing open", format!("{clients} clients, {hosts} hosts"));
    }
    let life = ledger.life;
    let recipients = ledger.transactions.iter().flat_map(|transaction| &transaction.recipients);
    let heard = recipients.filter(|recipient| sent && recipient.heard_in(life).is_some());
    for address in heard.map(|recipient| recipient.address.clone()).collect::<Vec<_>>() {
        if ledger.state_of(&address).is_some_and(|state| state.flying || state.end.is_none()) {
            ledger.fail("an orderly end loses no outcome", address);
        }
    }
}

impl Ledger {
    /// The process has come to an orderly end.
    pub fn stopped(&mut self) {
        self.counts.stops += 1;
        self.orderly.insert(self.life);
    }

    /// When the process had read that a host took the message, in a life that came to an orderly end.
    pub fn heard_in_order(&self, recipient: &Recipient) -> Option<Duration> {
        self.orderly.iter().find_map(|life| recipient.heard_in(*life))
    }
}
