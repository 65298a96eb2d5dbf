//! Clocks that jump, and what waits for a better moment.

use super::*;

#[test]
fn nothing_expires_while_the_clock_is_under_suspicion() {
    let mut world = World::new(Windows::default(), 1);
    world.scheduler.watch_clocks(world.now);
    world.jump(30 * 86_400);
    assert!(matches!(world.scheduler.watch_clocks(world.now), Some(Jump::Ahead(_))));
    assert!(!world.scheduler.may_expire(world.now));
    world.advance(Duration::from_secs(3600));
    assert_eq!(world.scheduler.watch_clocks(world.now), None);
    assert!(world.scheduler.may_expire(world.now));
}

#[test]
fn the_schedule_never_goes_back_and_returns_when_the_clock_does() {
    let mut world = World::new(Windows::default(), 1);
    let hour = Duration::from_secs(3600);
    world.scheduler.watch_clocks(world.now);
    let (before, wall) = (world.now.due, world.now.wall());
    world.jump(-3600);
    assert_eq!(world.scheduler.watch_clocks(world.now), Some(Jump::Back(hour)));
    world.jump(0);
    assert_eq!((world.now.due, world.now.wall()), (before, wall - hour));
    world.advance(hour);
    assert_eq!(world.scheduler.watch_clocks(world.now), None);
    world.jump(3600);
    assert_eq!(world.scheduler.watch_clocks(world.now), None, "it is where it would be");
    world.jump(0);
    assert_eq!((world.now.due, world.now.lead), (before + hour, Duration::ZERO));
    assert!(!world.scheduler.may_expire(world.now), "what came meanwhile bears a time that was wrong");
    world.advance(hour);
    assert_eq!(world.scheduler.watch_clocks(world.now), None);
    assert!(world.scheduler.may_expire(world.now));
}

#[test]
fn what_cannot_be_worked_on_waits_alone_and_longer_each_time() {
    let mut world = World::new(Windows::default(), 1);
    let keys: Vec<Key> = (0..3).map(|_| world.stored(0, world.now.due)).collect();
    world.scheduler.scheduled(&World::name(0), world.now.due, world.now);
    world.engine();
    world.grant().unwrap();
    let bad = world.pull(0).unwrap();
    assert_eq!(bad, keys[0]);
    for seconds in [5, 10, 20, 40, 80, 160, 320, 600, 600] {
        world.land(0).unwrap();
        world.scheduler.restore(bad, world.now);
        assert_eq!(world.scheduler.aside(), 1);
        world.engine();
        while let Some(other) = world.pull(0) {
            assert_ne!(other, bad, "it is left alone for {seconds} s");
            let (key, _) = world.land(0).unwrap();
            world.settle(key, None);
        }
        world.advance(Duration::from_secs(seconds));
        world.scheduler.take_up(world.now);
        world.engine();
        assert_eq!(world.pull(0), Some(bad), "then it is tried again");
    }
    let (key, _) = world.land(0).unwrap();
    world.settle(key, None);
    assert!(world.at.is_empty(), "the others went on");
    assert_eq!((world.scheduler.aside(), world.scheduler.len()), (0, 0));
}

#[test]
fn when_much_is_set_aside_memory_is_not_taken_by_it() {
    let mut world = World::new(Windows { total: 80, ..Windows::default() }, 1);
    for _ in 0..40 {
        world.stored(0, world.now.due);
    }
    world.scheduler.scheduled(&World::name(0), world.now.due, world.now);
    world.engine();
    world.grant().unwrap();
    while world.pull(0).is_some() {
        let (key, _) = world.land(0).unwrap();
        world.scheduler.restore(key, world.now);
        assert!(world.scheduler.aside() <= 10);
    }
    world.drain();
}

#[test]
fn after_a_start_the_schedule_goes_on_with_its_own_clock() {
    let (hour, second) = (Duration::from_secs(3600), Duration::from_secs(1));
    let resumed = |time: Timestamp, lead, wall: Timestamp| {
        let mut world = World::new(Windows::default(), 1);
        let back = world.scheduler.resume(ScheduleClock { time, lead }, world.now.instant, wall);
        let now = world.scheduler.now(world.now.instant, wall);
        assert_eq!(world.scheduler.watch_clocks(now), None, "that is no jump");
        assert_eq!(now.wall(), wall);
        (back, now.due)
    };
    let start = Timestamp::from_millis(START);
    assert_eq!(resumed(start, Duration::ZERO, start + hour), (Duration::ZERO, start + hour));
    assert_eq!(resumed(start, hour, start - hour + second), (Duration::ZERO, start + second));
    assert_eq!(resumed(start, Duration::ZERO, start - 5 * second), (Duration::ZERO, start - 5 * second), "no step");
    assert_eq!(resumed(start, Duration::ZERO, start - hour), (hour, start));
    assert_eq!(resumed(start, hour, start - 3 * hour), (2 * hour, start), "set back before and during the stop");
}

#[test]
fn a_page_that_is_under_way_does_not_end_a_pause() {
    let mut world = World::new(Windows { total: 16, ..Windows::default() }, 1);
    // As many are set aside as may be: now destinations wait.
    for _ in 0..2 {
        world.arrive(1);
        world.engine();
        world.grant().unwrap();
        world.pull(0).unwrap();
        let (key, _) = world.land(0).unwrap();
        world.scheduler.restore(key, world.now);
        world.end(0);
    }
    let first = world.arrive(0);
    world.engine();
    world.grant().unwrap();
    assert_eq!(world.pull(0), Some(first));
    world.stored(0, world.now.due);
    world.scheduler.scheduled(&World::name(0), world.now.due, world.now);
    let load = world.scheduler.next_load(world.now).unwrap();
    let page = world.page(&load);
    assert_eq!(page.items.len(), 2);
    world.land(0).unwrap();
    world.scheduler.restore(first, world.now);
    world.scheduler.loaded(&load, page, world.now);
    world.advance(Duration::from_secs(4));
    assert!(world.scheduler.next_load(world.now).is_none() && world.scheduler.len() == 2);
    world.advance(Duration::from_secs(1));
    let load = world.scheduler.next_load(world.now).unwrap();
    let page = world.page(&load);
    world.scheduler.loaded(&load, page, world.now);
    assert_eq!(world.scheduler.len(), 4);
}
