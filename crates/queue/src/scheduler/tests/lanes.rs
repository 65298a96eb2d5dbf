//! Lanes and their connections.

use super::*;

#[test]
fn connections_follow_the_work_and_the_limits() {
    let mut world = World::new(Windows { connections: 100, ..Windows::default() }, 1);
    world.arrive(0);
    world.engine();
    assert!(world.grant().is_some());
    assert!(world.grant().is_none(), "one delivery needs one connection");
    for _ in 0..50 {
        world.arrive(0);
    }
    assert!(world.grant().is_some());
    assert!(world.grant().is_none(), "a new lane starts with two connections");
    for _ in 0..2 {
        for at in 0..2 {
            world.pull(at).unwrap();
            world.scheduler.progressed(world.grants[at].0, None, world.now);
        }
    }
    assert!(world.grant().is_some(), "success makes room for more");
}

#[test]
fn a_lane_that_cannot_be_reached_rests_as_one_and_is_probed_once() {
    let mut world = World::new(Windows::default(), 2);
    for _ in 0..20 {
        world.arrive(0);
        world.arrive(1);
    }
    world.engine();
    let grants: Vec<_> = std::iter::from_fn(|| world.grant()).collect();
    assert_eq!(grants.len(), 4);
    let dead =
        grants.iter().copied().find(|grant| world.scheduler.lanes.site_of(*grant).as_deref() == Some("s0")).unwrap();
    let setback = world.scheduler.unreachable(dead, fault(), world.now).expect("the lane rests");
    assert_eq!(setback.until, world.now.due + Duration::from_secs(60));
    assert!(world.scheduler.unreachable(dead, fault(), world.now).is_none(), "an echo changes nothing");
    let put_off = world.scheduler.next_attention(1000);
    assert_eq!(put_off.len(), 20, "all of the lane and nothing else is put off");
    for (item, _, why) in put_off {
        assert!(matches!(why, Why::LaneRests(_, until) if until == setback.until));
        world.settle(item.key, Some((0, setback.until)));
    }
    while !world.grants.is_empty() {
        world.end(0);
    }
    world.advance(Duration::from_secs(60));
    world.engine();
    let granted: Vec<_> = std::iter::from_fn(|| world.grant()).collect();
    let probes = granted.iter().filter(|grant| world.scheduler.lanes.site_of(**grant).as_deref() == Some("s0"));
    assert_eq!(probes.count(), 1, "one probe goes out");
}

/// Destination 1 waits for room in its lane, which destination 0 fills; then all of that is taken away.
fn full_lane() -> (World, Vec<Key>) {
    let mut world = World::new(Windows { total: 1000, lane: 16, ..Windows::default() }, 1);
    let filling: Vec<Key> = (0..40).map(|_| world.arrive(0)).collect();
    world.engine();
    world.stored(1, world.now.due);
    world.scheduler.scheduled(&World::name(1), world.now.due, world.now);
    world.arrive(1);
    world.engine();
    world.stored(1, world.now.due);
    world.scheduler.scheduled(&World::name(1), world.now.due, world.now);
    world.engine();
    assert_eq!(world.scheduler.lanes.parked_in_all(), 1);
    (world, filling)
}

#[test]
fn who_waits_for_room_in_a_lane_gets_it_when_all_of_it_is_taken_away() {
    let (mut world, filling) = full_lane();
    for key in filling {
        assert_eq!(world.scheduler.claim(key, &World::name(0), world.now), Claim::Taken);
        world.settle(key, None);
    }
    assert_eq!(world.scheduler.lanes.parked_in_all(), 0);
    let (mut world, _) = full_lane();
    let grant = world.grant().unwrap();
    world.scheduler.unreachable(grant, fault(), world.now).unwrap();
    assert_eq!(world.scheduler.lanes.parked_in_all(), 0);
}

#[test]
fn what_a_connection_drops_goes_back_once_and_is_then_put_off() {
    let mut world = World::new(Windows::default(), 1);
    let key = world.arrive(0);
    world.engine();
    for _ in 0..2 {
        world.grant().unwrap();
        assert_eq!(world.pull(0), Some(key));
        world.end(0);
    }
    assert!(world.grant().is_none());
    let put_off = world.scheduler.next_attention(10);
    assert!(matches!(put_off.as_slice(), [(item, _, Why::Dropped)] if item.key == key));
}

#[test]
fn an_idle_connection_gives_its_place_to_a_lane_that_needs_it() {
    let mut world = World::new(Windows { connections: 1, ..Windows::default() }, 2);
    world.arrive(0);
    world.engine();
    world.grant().unwrap();
    world.pull(0).unwrap();
    let (key, _) = world.land(0).unwrap();
    world.settle(key, None);
    assert!(world.pull(0).is_none() && world.grants.len() == 1, "the connection waits for more");
    world.arrive(1);
    world.engine();
    assert!(world.grant().is_none(), "all connections are in use");
    assert_eq!(world.scheduler.rung.len(), 1, "the idle one is asked");
    assert!(world.pull(0).is_none() && world.grants.is_empty(), "and ends");
    assert!(world.grant().is_some());
}

#[test]
fn domains_that_rank_the_hosts_of_a_site_differently_have_lanes_of_their_own() {
    let ranked = |first: &str, second: &str| {
        let host =
            |name: &str, preference| TargetHost::Name { name: Domain::parse(name).unwrap(), port: 25, preference };
        let target = Arc::unwrap_or_clone(target(0));
        Arc::new(Target { hosts: vec![host(first, 10), host(second, 20)], ..target })
    };
    let mut world = World::new(Windows::default(), 1);
    for (domain, target) in [(0, ranked("a.example", "b.example")), (1, ranked("b.example", "a.example"))] {
        world.arrive(domain);
        let (id, _) = world.next_unplaced().unwrap();
        world.scheduler.placed(id, target, placement(), world.now);
    }
    world.arrive(2);
    let (id, _) = world.next_unplaced().unwrap();
    world.scheduler.placed(id, ranked("a.example", "b.example"), placement(), world.now);
    let states = world.scheduler.busiest_lanes(100, world.now);
    let mut ready: Vec<usize> = states.iter().map(|state| state.ready).collect();
    ready.sort_unstable();
    assert_eq!(ready, [1, 2], "the third shares the lane of the first");
}

#[test]
fn a_probe_that_finds_nobody_while_others_work_does_not_close_the_lane_for_ever() {
    let mut world = World::new(Windows { connections: 100, ..Windows::default() }, 1);
    // Success makes room for several connections.
    for _ in 0..20 {
        for _ in 0..8 {
            world.arrive(0);
        }
        world.engine();
        while world.grant().is_some() {}
        for at in (0..world.grants.len()).rev() {
            while world.pull(at).is_some() {
                world.scheduler.progressed(world.grants[at].0, None, world.now);
                let (key, _) = world.land(at).unwrap();
                world.settle(key, None);
            }
            world.end(at);
        }
    }
    for _ in 0..3 {
        world.arrive(0);
    }
    world.engine();
    let (slow, dead) = (world.grant().unwrap(), world.grant().unwrap());
    world.pull(0).unwrap();
    assert!(world.scheduler.unreachable(dead, fault(), world.now).is_some());
    world.end(1);
    world.engine();
    let rest = |world: &mut World| {
        world.advance(Duration::from_secs(600));
        world.arrive(0);
        world.engine();
        world.grant().expect("a probe goes out")
    };
    let probe = rest(&mut world);
    world.pull(1).unwrap();
    world.scheduler.progressed(slow, None, world.now);
    assert!(world.scheduler.progressed(probe, Some(fault()), world.now).is_some());
    let (key, _) = world.land(1).unwrap();
    world.settle(key, None);
    world.end(1);
    world.engine();
    let probe = rest(&mut world);
    assert!(world.scheduler.unreachable(probe, fault(), world.now).is_none(), "the slow one works");
    world.end(1);
    world.end(0);
    world.advance(Duration::from_secs(600));
    world.drain();
}
