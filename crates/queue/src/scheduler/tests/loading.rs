//! What is loaded, when, and how much of it.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_destination_with_very_much_due_leaves_room_for_others() {
    let limits = Windows { total: 1000, destination: 200, lane: 2000, ..Windows::default() };
    let mut world = World::new(limits, 1000);
    for destination in 0..50 {
        for _ in 0..500 {
            world.stored(destination, world.now.due);
        }
        world.scheduler.scheduled(&World::name(destination), world.now.due, world.now);
    }
    world.engine();
    assert!(world.scheduler.len() <= 1000);
    world.stored(777, world.now.due);
    world.scheduler.scheduled(&World::name(777), world.now.due, world.now);
    let last = world.arrive(778);
    world.engine();
    assert_eq!(world.scheduler.claim(last, &World::name(778), world.now), Claim::Taken, "new mail is in memory");
    let states = world.scheduler.busiest_lanes(100, world.now);
    assert!(states.iter().any(|state| state.lane.site.as_str() == "s777" && state.ready == 1), "so is a retry");
}

#[test]
fn loading_goes_on_from_where_it_was() {
    let limits = Windows { total: 100, destination: 10, ..Windows::default() };
    let mut world = World::new(limits, 1);
    for _ in 0..1000 {
        world.stored(0, world.now.due);
    }
    world.scheduler.scheduled(&World::name(0), world.now.due, world.now);
    let (mut read, mut loads) = (0, 0);
    while !world.at.is_empty() {
        while let Some((id, _)) = world.next_unplaced() {
            world.scheduler.placed(id, target(0), placement(), world.now);
        }
        while let Some(load) = world.scheduler.next_load(world.now) {
            let page = world.page(&load);
            read += page.items.len();
            loads += 1;
            world.scheduler.loaded(&load, page, world.now);
        }
        while world.grant().is_some() {}
        while let Some(_key) = world.pull(0) {
            let (key, _) = world.land(0).unwrap();
            world.settle(key, None);
        }
        world.advance(Duration::from_millis(100));
    }
    assert!(read <= 1100, "{read} entries read for 1000 deliveries");
    assert!(loads <= 250, "{loads} pages for 1000 deliveries");
}

#[test]
fn new_mail_beyond_the_window_comes_in_as_soon_as_there_is_room() {
    let mut world = World::new(Windows { total: 1000, destination: 20, ..Windows::default() }, 1);
    for _ in 0..200 {
        world.arrive(0);
        world.engine();
    }
    world.grant().unwrap();
    let mut delivered = 0;
    while world.pull(0).is_some() {
        let (key, _) = world.land(0).unwrap();
        world.settle(key, None);
        delivered += 1;
        world.engine();
    }
    assert_eq!(delivered, 200, "without a moment of waiting");
}

#[test]
fn pages_are_whole_also_when_memory_is_full() {
    let mut world = World::new(Windows { total: 200, lane: 2000, ..Windows::default() }, 1000);
    for destination in 0..400 {
        for _ in 0..8 {
            world.stored(destination, world.now.due);
        }
        world.scheduler.scheduled(&World::name(destination), world.now.due, world.now);
    }
    let mut loads = 0;
    while !world.at.is_empty() {
        while let Some((id, name)) = world.next_unplaced() {
            world.scheduler.placed(id, target(World::number(&name)), placement(), world.now);
        }
        while let Some(load) = world.scheduler.next_load(world.now) {
            let page = world.page(&load);
            loads += 1;
            world.scheduler.loaded(&load, page, world.now);
            world.check();
        }
        while world.grant().is_some() {}
        for at in (0..world.grants.len()).rev() {
            while world.pull(at).is_some() {
                let (key, _) = world.land(at).unwrap();
                world.settle(key, None);
            }
            world.end(at);
        }
        world.advance(Duration::from_millis(10));
    }
    assert!(loads <= 1000, "{loads} pages for 400 destinations with 8 each");
}

#[test]
fn a_window_far_wider_than_the_lane_keeps_nothing_out() {
    let mut world = World::new(Windows { total: 1_000_000, destination: 50_000, ..Windows::default() }, 1);
    world.stored(0, world.now.due);
    world.scheduler.scheduled(&World::name(0), world.now.due, world.now);
    world.engine();
    assert_eq!(world.scheduler.len(), 1);
}

#[test]
fn slow_look_ups_hold_up_nothing_that_needs_none() {
    let mut world = World::new(Windows::default(), 1);
    world.visit(0);
    for destination in 1..300 {
        world.stored(destination, world.now.due);
        world.scheduler.scheduled(&World::name(destination), world.now.due, world.now);
    }
    world.advance(Duration::from_secs(1));
    let report = Destination::new("notice:mx:d0.example");
    for name in [World::name(0), report.clone()] {
        world.scheduler.scheduled(&name, world.now.due, world.now);
    }
    assert_eq!(world.scheduler.next_load(world.now).unwrap().destination, World::name(0), "its hosts are known");
    assert!(world.scheduler.next_load(world.now).is_none());
    let (id, name) = world.scheduler.next_unplaced(Seek::AtHand).unwrap();
    assert_eq!(name, report);
    world.scheduler.unplaceable(id, Resting::Notices, world.now);
    assert_eq!(world.scheduler.next_load(world.now).unwrap().destination, report);
    let waiting = std::iter::from_fn(|| world.scheduler.next_unplaced(Seek::Dns)).count();
    assert!(waiting < 200, "{waiting} look-ups are in line at once");
    assert!(world.scheduler.deadline(true, world.now).is_some(), "then the others are looked at");
}

#[test]
fn known_hosts_that_are_no_longer_believed_wait_with_those_to_be_found() {
    let mut world = World::new(Windows::default(), 1);
    world.visit(0);
    for destination in 0..300 {
        let due = if destination == 0 { world.now.due + HOUR } else { world.now.due };
        world.stored(destination, due);
        world.scheduler.scheduled(&World::name(destination), due, world.now);
    }
    world.advance(HOUR);
    assert!(world.scheduler.next_load(world.now).is_none());
    assert!(world.scheduler.next_load(world.now).is_none());
    assert_eq!(world.scheduler.deadline(true, world.now), None, "nothing turns in circles meanwhile");
    world.drain();
}

#[test]
fn what_falls_idle_again_and_again_counts_once() {
    let mut world = World::new(Windows { places: 8, ..Windows::default() }, 10);
    world.scheduler.sweep(world.now);
    (0..3).for_each(|destination| world.visit(destination));
    (0..60).for_each(|_| world.visit(3));
    world.scheduler.sweep(world.now);
    assert_eq!(world.scheduler.destinations(), 4);
    (4..20).for_each(|destination| world.visit(destination));
    world.scheduler.sweep(world.now);
    assert!((4..=8).contains(&world.scheduler.destinations()), "{} are remembered", world.scheduler.destinations());
}

#[test]
fn lanes_are_looked_through_now_and_then_and_not_for_each_destination_too_many() {
    let mut world = World::new(Windows { places: 1, ..Windows::default() }, 10);
    world.visit(0);
    world.advance(Duration::from_secs(595));
    world.scheduler.sweep(world.now);
    world.visit(1);
    world.visit(2);
    world.advance(Duration::from_secs(9));
    world.scheduler.sweep(world.now);
    assert_eq!((world.scheduler.count_lanes(world.now).0, world.scheduler.destinations()), (3, 1));
    world.advance(Duration::from_secs(2));
    world.scheduler.sweep(world.now);
    assert_eq!(world.scheduler.count_lanes(world.now).0, 2);
}

#[test]
fn what_was_found_in_the_store_before_it_was_admitted_is_read_again() {
    let mut world = World::new(windows(), 1);
    let (id, other) = (MessageId::from_u128(1), MessageId::from_u128(1000));
    world.scheduler.comes(id);
    world.scheduler.comes(other);
    let key = world.stored(0, world.now.due);
    assert_eq!(key.0, id);
    world.scheduler.scheduled(&World::name(0), world.now.due, world.now);
    world.engine();
    world.grant().unwrap();
    assert_eq!(world.pull(0), Some(key));
    world.land(0).unwrap();
    world.settle(key, None);
    assert!(world.scheduler.came(id), "it was delivered meanwhile");
    assert!(!world.scheduler.came(id));
    let claimed = (other, 0);
    assert_eq!(world.scheduler.claim(claimed, &World::name(0), world.now), Claim::Taken);
    assert!(world.scheduler.came(other), "an operator did something with it");
    let unseen = MessageId::from_u128(2000);
    world.scheduler.comes(unseen);
    assert!(!world.scheduler.came(unseen));
}
