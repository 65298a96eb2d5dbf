//! A run: life after life until harm has ceased and the queue is empty.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use mail::{Clock, Randomness};
use queue::{Action, Selection};
use store::Schedule;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::audit;
use crate::clock::SimClock;
use crate::counts::Counts;
use crate::harm::Harm;
use crate::house::{self, House};
use crate::ledger::{Failure, Hold};
use crate::life::{Death, Life};
use crate::network::Places;
use crate::plan::Options;
use crate::scene::{Scene, World};
use crate::sender;
use crate::stop;
use crate::watch::Watched;

/// How a run went.
#[derive(Debug)]
pub struct Report {
    /// What decided it.
    pub options: Options,
    /// The first thing that did not hold.
    pub failure: Option<Failure>,
    /// What was counted.
    pub counts: Counts,
    /// The story as one number: the same for the same options.
    pub hash: u64,
    /// Lines of the story, if they were kept.
    pub lines: Vec<String>,
}

/// How a life ended.
enum Ended {
    /// The process died, or its store did not open; the world goes on at that age.
    Died { at: Duration, opened: bool },
    /// All is done, or something does not hold.
    Done,
}

/// How often the ledger is held against the store.
const AUDITS: Duration = Duration::from_secs(300);
/// The same in a large world, where it takes a while.
const LARGE_AUDITS: Duration = Duration::from_secs(6 * 3600);
/// Beyond everything that may still have to come, the time in which the queue becomes empty when harm has ceased.
const DRAIN: Duration = Duration::from_secs(6 * 3600);
/// The most lives of a run in which the store opened.
const MOST_LIVES: u32 = 200;

/// Runs a world to its end. `keeps_text`: keep the story for people.
pub fn run(options: &Options, keeps_text: bool) -> Report {
    let watched = Watched::begin(options);
    let world = World::new(options.clone(), keeps_text);
    // What panics here is known to the watch.
    let _ = catch_unwind(AssertUnwindSafe(|| lives(&world, &watched)));
    let mut ledger = world.ledger();
    if let Some(panic) = watched.panic() {
        ledger.fail("nothing panics", panic);
    }
    if !ledger.closed && ledger.failure.is_none() {
        let life = ledger.life;
        ledger.fail("the world comes to its end", format!("it is left in life {life}"));
    }
    ledger.counts.age = ledger.age;
    Report {
        options: options.clone(),
        failure: ledger.failure.clone(),
        counts: ledger.counts.clone(),
        hash: ledger.trace.hash(),
        lines: ledger.trace.take_lines(),
    }
}

fn lives(world: &Arc<World>, watched: &Watched) {
    let mut age = Duration::ZERO;
    let mut harms = 0;
    let mut opened = 0;
    for number in 1.. {
        world.ledger().life = number;
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build() {
            Ok(runtime) => runtime,
            Err(error) => return world.ledger().fail("a life has a runtime", error.to_string()),
        };
        let ended = runtime.block_on(live(world, age, &mut harms));
        drop(runtime);
        match ended {
            // A store that does not open makes time pass, and must open once the world is calm.
            Ended::Died { at, opened: one } if watched.panic().is_none() => {
                (age, opened) = (at, opened + u32::from(one))
            }
            _ => return,
        }
        if opened == MOST_LIVES {
            return;
        }
    }
}

/// One life, and the time until the next.
async fn live(world: &Arc<World>, age: Duration, harms: &mut usize) -> Ended {
    let random = Randomness::seeded(world.random.next_u64());
    let scene = Arc::new(Scene {
        world: world.clone(),
        life: Arc::new(Life::new(Randomness::seeded(world.random.next_u64()))),
        clock: SimClock::new(&world.skew, age),
        places: Places::default(),
        calls: Places::default(),
        alarm: Notify::new(),
    });
    let number = world.ledger().life;
    scene.note(format_args!("life {number} begins"));
    scene.ledger().troubled = age;
    if let Some((steps, how)) = death_at_start(world) {
        scene.life.dies_after(steps, how);
    }
    let mut pause = Duration::from_secs(1 + world.random.below(20) as u64);
    let hurt = world.disk_is_hurt();
    note_trouble(&scene);
    let opening = House::open(&scene, &random);
    let opened = opening.is_ok();
    match opening {
        Ok(house) => {
            let house = Arc::new(house);
            audit::audit(&scene, &house.store).await;
            let mut outside = people(&scene, &house);
            let done = tokio::select! {
                biased;
                () = scene.alarm.notified() => true,
                () = scene.life.ended() => false,
                () = events(&scene, &house, harms, &mut pause) => true,
            };
            if done {
                return Ended::Done;
            }
            // What is on its way may still arrive; senders find their connections broken.
            scene.note(format_args!("the process dies: {:?}", scene.life.death()));
            let _ = timeout(pause, async { while outside.join_next().await.is_some() {} }).await;
        }
        Err(error) => {
            scene.note(format_args!("the store does not open: {error}"));
            if !hurt && !scene.life.is_over() {
                scene.ledger().fail("the store opens when nothing is wrong", error.to_string());
                return Ended::Done;
            }
            wait(&scene, harms, pause).await;
        }
    }
    sleep(Duration::from_secs(1)).await;
    if scene.life.is_over() && scene.life.death() == Death::PowerCut {
        world.put_disk(world.disk().restart(world.random.next_u64()));
    }
    world.clear();
    world.ledger().died();
    Ended::Died { at: scene.clock.age(), opened }
}

/// Now and then the next death falls into the start, when the store reads, repairs and writes what the last one left:
/// after how many steps, and how. Only in worlds in which processes die.
fn death_at_start(world: &World) -> Option<(u64, Death)> {
    let how = |(_, harm): &(Duration, Harm)| if let Harm::Death { how, .. } = harm { Some(*how) } else { None };
    let deaths: Vec<Death> = world.plan.harms.iter().filter_map(how).collect();
    if deaths.is_empty() || world.is_calm() || world.random.below(4) > 0 {
        return None;
    }
    let most = [10, 50, 300][world.random.below(3)];
    Some((1 + world.random.below(most) as u64, deaths[world.random.below(deaths.len())]))
}

/// The world goes on without the process.
async fn wait(scene: &Scene, harms: &mut usize, pause: Duration) {
    sleep(pause).await;
    let world = &scene.world;
    let age = scene.clock.age();
    world.let_pass(age);
    while let Some((_, harm)) = world.plan.harms.get(*harms).filter(|(at, _)| *at <= age) {
        *harms += 1;
        scene.note(format_args!("{harm:?}, and no process"));
        befall(scene, harm);
    }
    if age >= world.plan.calm && !world.is_calm() {
        scene.note(format_args!("harm ceases"));
        world.calm_down();
    }
}

/// The senders.
fn people(scene: &Arc<Scene>, house: &House) -> JoinSet<()> {
    let mut mailings: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, mailing) in scene.world.plan.mailings.iter().enumerate() {
        if scene.world.progress(place).next.is_some() {
            mailings.entry(mailing.sender).or_default().push(place);
        }
    }
    let door = sender::door(scene, &house.reception, scene.world.plan.policy.incoming);
    let mut senders = JoinSet::new();
    for (number, own) in mailings {
        senders.spawn(sender::run(scene.clone(), number, own, door.clone()));
    }
    senders
}

/// Harm in its order, audits in between, and the end.
async fn events(scene: &Arc<Scene>, house: &Arc<House>, harms: &mut usize, pause: &mut Duration) {
    let world = &scene.world;
    let mut audited = scene.clock.age();
    let policy = &world.plan.policy;
    let audits = if world.options.large { LARGE_AUDITS } else { AUDITS };
    loop {
        let age = scene.clock.age();
        world.let_pass(age);
        note_trouble(scene);
        while let Some((_, harm)) = world.plan.harms.get(*harms).filter(|(at, _)| *at <= age) {
            *harms += 1;
            scene.note(format_args!("{harm:?}"));
            scene.ledger().troubled = age;
            inflict(scene, house, harm, pause).await;
            if scene.life.is_over() {
                // What comes next comes to the next life.
                std::future::pending::<()>().await;
            }
            note_trouble(scene);
        }
        if age >= world.plan.calm && !world.is_calm() {
            scene.life.dies_at_last();
            scene.note(format_args!("harm ceases"));
            scene.ledger().troubled = age;
            world.calm_down();
        }
        if age >= audited + audits {
            audited = age;
            house.gauges.check(scene);
            let Some(found) = audit::audit(scene, &house.store).await else { continue };
            if scene.ledger().failure.is_some() {
                return;
            }
            if world.is_calm() {
                if found.empty && world.all_sent() {
                    audit::close(&mut scene.ledger());
                    scene.note(format_args!("all is done"));
                    return;
                }
                // What was accepted before the clock went back is that much younger.
                if age >= world.plan.calm + policy.retry.expire + policy.backoff.most + world.skew.back() + DRAIN {
                    return starved(scene, house).await;
                }
                // Nothing else may be touched: what the queue forgot is to stay forgotten.
                for id in found.held {
                    command(scene, house, Action::Release, Selection::message(id)).await;
                }
            }
        }
        let next = world.plan.harms.get(*harms).map_or(Duration::MAX, |(at, _)| *at);
        let calm = if world.is_calm() { Duration::MAX } else { world.plan.calm };
        let wait = next.min(calm).min(audited + audits).saturating_sub(age).min(Duration::from_secs(60));
        sleep(wait.max(Duration::from_millis(1))).await;
    }
}

fn note_trouble(scene: &Scene) {
    let mut ledger = scene.ledger();
    if scene.world.is_troubled() {
        ledger.troubled = ledger.age;
    }
    if scene.world.disk_is_hurt() {
        ledger.disk_hurt = ledger.age;
    }
}

async fn inflict(scene: &Arc<Scene>, house: &Arc<House>, harm: &Harm, pause: &mut Duration) {
    match harm {
        Harm::Death { how, at_outcome, steps, pause: length } => {
            *pause = *length;
            match at_outcome {
                true => scene.life.dies_after_outcome(*steps, *how),
                false => scene.life.dies_after(*steps, *how),
            }
        }
        Harm::Operator { action, everything } => {
            let id = {
                let ledger = scene.ledger();
                let open = |told: &&mail::MessageId| ledger.told[*told].recipients.iter().any(|it| it.end.is_none());
                let open: Vec<mail::MessageId> = ledger.told.keys().filter(open).copied().collect();
                (!open.is_empty()).then(|| open[scene.world.random.below(open.len())])
            };
            let selection = match id {
                _ if *everything => Selection::everything(),
                Some(id) => Selection::message(id),
                None => return,
            };
            command(scene, house, *action, selection).await;
        }
        Harm::Reload { .. } => {
            befall(scene, harm);
            scene.ledger().counts.reloads += 1;
            house.queue.reconfigure(house::settings(scene)).expect("the settings are sound");
            house.reception.reconfigure(house::listeners(scene)).expect("nothing is to be bound");
        }
        Harm::Stop { limit, pause: length } => {
            *pause = *length;
            stop::stop(scene, house, *limit).await;
        }
        _ => befall(scene, harm),
    }
}

/// Harm to the world, which needs no process.
fn befall(scene: &Scene, harm: &Harm) {
    let world = &scene.world;
    let age = scene.clock.age();
    match harm {
        Harm::Disk { fault, times } => world.fail_disk(*fault, *times),
        Harm::Full { lasts, inodes } => world.fill_disk(age + *lasts, *inodes),
        Harm::Dns { mood, lasts } => world.put_dns(*mood, age + *lasts),
        Harm::Clock { millis } => {
            scene.ledger().reasons.jumps(age, scene.clock.now());
            world.skew.jump(*millis);
        }
        Harm::Hosts { site, often, lasts } => world.put_site(*site, *often, age + *lasts),
        Harm::Senders { often, lasts } => world.put_senders(*often, age + *lasts),
        // For those that start without a process: it will read the configuration when it starts.
        Harm::Reload { ways } => world.put_ways(ways, age),
        Harm::Death { .. } | Harm::Operator { .. } | Harm::Stop { .. } => {}
    }
}

/// Lets what lasts only for a while come to its end.
pub async fn harm_passing(scene: &Arc<Scene>) -> Infallible {
    loop {
        scene.world.let_pass(scene.clock.age());
        sleep(Duration::from_secs(1)).await;
    }
}

/// An operator's command, written down before and after.
async fn command(scene: &Arc<Scene>, house: &Arc<House>, action: Action, selection: Selection) {
    let meant = |id: &mail::MessageId| selection.id.is_none_or(|it| it == *id);
    let removes = action == Action::Remove;
    // Those that this command alone may remove.
    let mut removable = Vec::new();
    {
        let mut ledger = scene.ledger();
        ledger.commanded = true;
        ledger.removes_all = removes && selection.id.is_none();
        ledger.may_be_retried |= action == Action::Retry;
        for (id, told) in ledger.told.iter_mut().filter(|(id, _)| meant(id)) {
            for (place, state) in told.recipients.iter_mut().enumerate() {
                // Until it is over nobody knows.
                state.hold = Hold::Perhaps;
                state.next = None;
                if removes && !state.may_be_removed {
                    state.may_be_removed = true;
                    removable.push((*id, place));
                }
            }
        }
    }
    // A full disk holds the command up, so what passes by itself must pass meanwhile.
    let acted = tokio::select! {
        biased;
        acted = house.queue.act(action, &selection, "operator", "simulation") => acted,
        never = harm_passing(scene) => match never {},
    };
    if acted.as_ref().map_or(true, |acted| acted.changed > 0) || !scene.world.is_calm() {
        scene.note(format_args!("{action:?} {:?}: {acted:?}", selection.id));
    }
    if scene.life.is_over() {
        return;
    }
    {
        let mut ledger = scene.ledger();
        (ledger.commanded, ledger.removes_all) = (false, false);
        ledger.acted = Some(ledger.age);
    }
    let Ok(acted) = acted else { return };
    if removes && acted.changed + acted.in_flight + acted.busy == 0 {
        let mut ledger = scene.ledger();
        for (id, place) in removable {
            let told = ledger.told.get_mut(&id);
            told.into_iter().for_each(|told| told.recipients[place].may_be_removed = false);
        }
    }
    if action == Action::Hold && selection.id.is_none() {
        return hold_all(scene, house).await;
    }
    let certain = acted.busy == 0 && acted.in_flight == 0 && selection.id.is_some();
    let mut ledger = scene.ledger();
    for state in ledger.told.iter_mut().filter(|(id, _)| meant(id)).flat_map(|(_, told)| &mut told.recipients) {
        match action {
            Action::Hold if certain && acted.recipients > 0 && state.end.is_none() && !state.flying => {
                state.hold = Hold::Firm;
            }
            Action::Release if certain => state.hold = Hold::No,
            _ => {}
        }
    }
}

/// All that was there when a hold of everything was acknowledged stays, except for attempts that were under way: what the
/// store has on hold then is not attempted.
async fn hold_all(scene: &Arc<Scene>, house: &Arc<House>) {
    let Ok(page) = house.store.page(None, usize::MAX).await else { return };
    if scene.life.is_over() {
        return;
    }
    let mut ledger = scene.ledger();
    for stored in page {
        let Some(told) = ledger.told.get_mut(&stored.id) else { continue };
        let held = stored.deliveries.iter().filter(|delivery| matches!(delivery.when(), Schedule::Held(_)));
        for place in held.flat_map(|delivery| &delivery.recipients).map(|recipient| recipient.index as usize) {
            let state = told.recipients.get_mut(place).filter(|state| state.end.is_none() && !state.flying);
            state.into_iter().for_each(|state| state.hold = Hold::Firm);
        }
    }
}

/// The queue should be empty long since.
async fn starved(scene: &Scene, house: &House) {
    let page = house.store.page(None, 3).await.unwrap_or_default();
    let left: Vec<String> = page
        .iter()
        .flat_map(|stored| stored.deliveries.iter().map(|delivery| (stored.id, delivery)))
        .map(|(id, delivery)| format!("{id} to {}: {:?}", delivery.destination, delivery.when()))
        .collect();
    let found = if left.is_empty() { "a sender is never done".to_owned() } else { left.join("; ") };
    scene.ledger().fail("when harm has ceased the queue becomes empty", found);
}
