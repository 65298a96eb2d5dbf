//! From acceptance to the end: attempts at their times, restarts, routes that change.

use mail::{Domain, Host, Timestamp};
use queue::{LmtpServer, Match, Route, SmartHost, To};

use crate::house::{Does, HOUR, House, MINUTE};

#[tokio::test(start_paused = true)]
async fn a_message_is_delivered_to_all_its_destinations() {
    let mut house = House::new(|_| ()).await;
    house.start();
    let to = ["a@example.org", "b@example.com", "c@example.org"];
    let id = house.send("s@sender.example", &to).await;
    house.until(|peers| peers.finished(id) == 1).await;
    let mut seen: Vec<_> = house.peers.attempts().into_iter().map(|at| (at.site, at.recipient)).collect();
    seen.sort();
    let expected =
        [("mx.example.com", "b@example.com"), ("mx.example.org", "a@example.org"), ("mx.example.org", "c@example.org")];
    assert_eq!(seen, expected.map(|(site, to)| (site.to_owned(), to.to_owned())));
    assert_eq!(house.peers.outcomes("delivered"), 3);
    house.until_empty().await;
}

#[tokio::test(start_paused = true)]
async fn attempts_are_made_when_they_are_due() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Defer);
    house.send("s@sender.example", &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    for (number, minutes) in [(2, 5), (3, 10), (4, 20), (5, 40)] {
        house.advance(minutes * MINUTE - MINUTE).await;
        assert_eq!(house.peers.attempts().len(), number - 1, "not before its time");
        house.advance(MINUTE).await;
        house.until(|peers| peers.outcomes("deferred") == number).await;
    }
    let times: Vec<Timestamp> = house.peers.attempts().iter().map(|attempt| attempt.at).collect();
    for (pair, minutes) in times.windows(2).zip([5, 10, 20, 40]) {
        let waited = pair[1].since(pair[0]);
        assert!(waited >= minutes * MINUTE && waited < minutes * MINUTE + MINUTE, "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_where_it_was() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Defer);
    let id = house.send("s@sender.example", &["a@example.org", "b@example.com"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1 && peers.outcomes("delivered") == 1).await;
    let mut house = house.restart(|_| ()).await;
    house.peers.set("a@example.org", Does::Accept);
    house.start();
    house.advance(4 * MINUTE).await;
    assert_eq!(house.peers.attempts_for("a@example.org"), 1);
    house.advance(MINUTE).await;
    house.until(|peers| peers.finished(id) == 1).await;
    assert_eq!(house.peers.attempts_for("a@example.org"), 2);
    assert_eq!(house.peers.attempts_for("b@example.com"), 1, "what is delivered is not delivered again");
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_before_the_engine_ran_is_found() {
    let house = House::new(|_| ()).await;
    let id = house.send("s@sender.example", &["a@example.org"]).await;
    let mut house = house.restart(|_| ()).await;
    house.start();
    house.until(|peers| peers.finished(id) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_a_connection_drops_is_not_lost() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Panic);
    let id = house.send("s@sender.example", &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    assert_eq!(house.peers.attempts().len(), 2, "it went back to the lane once");
    house.peers.set("a@example.org", Does::Accept);
    house.advance(5 * MINUTE).await;
    house.until(|peers| peers.finished(id) == 1).await;
}

fn local_route() -> Route {
    Route::new(
        "local",
        vec![Match::Domain(Domain::parse("example.org").unwrap())],
        To::Lmtp(LmtpServer::Unix("/run/lmtp".into())),
    )
}

#[tokio::test(start_paused = true)]
async fn mail_of_a_route_that_vanished_is_routed_anew() {
    let mut house = House::new(|settings| settings.routes = vec![local_route()]).await;
    house.start();
    house.peers.set("a@example.org", Does::Defer);
    let id = house.send("s@sender.example", &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    assert_eq!(house.peers.attempts()[0].site, "lmtp:/run/lmtp");
    let mut without = queue::Settings::new(Domain::parse("mail.test.example").unwrap());
    without.retry.jitter = shaping::Jitter::NONE;
    house.queue.reconfigure(without).unwrap();
    house.peers.set("a@example.org", Does::Accept);
    house.advance(5 * MINUTE + MINUTE).await;
    house.until(|peers| peers.finished(id) == 1).await;
    assert_eq!(house.peers.attempts()[1].site, "mx.example.org");
}

#[tokio::test(start_paused = true)]
async fn mail_for_an_address_of_our_own_stays_inside_until_it_is_none() {
    let inside = |settings: &mut queue::Settings| {
        settings.routes = vec![local_route()];
        settings.inside = vec!["reports@example.org".parse().unwrap()];
    };
    let mut house = House::new(inside).await;
    house.start();
    house.peers.set("Reports@example.org", Does::Defer);
    let id = house.send("s@sender.example", &["a@example.org", "Reports@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1 && peers.outcomes("delivered") == 1).await;
    let mut seen: Vec<_> = house.peers.attempts().into_iter().map(|at| (at.recipient, at.site)).collect();
    seen.sort();
    let expected = [("Reports@example.org", "inside:reports@example.org"), ("a@example.org", "lmtp:/run/lmtp")];
    assert_eq!(seen, expected.map(|(to, site)| (to.to_owned(), site.to_owned())));

    let mut house = house.restart(|settings| settings.routes = vec![local_route()]).await;
    house.peers.set("Reports@example.org", Does::Accept);
    house.start();
    house.advance(5 * MINUTE + MINUTE).await;
    house.until(|peers| peers.finished(id) == 1).await;
    assert_eq!(house.peers.attempts().last().unwrap().site, "lmtp:/run/lmtp");
}

#[tokio::test(start_paused = true)]
async fn a_new_route_takes_what_was_queued_for_the_exchanges() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Defer);
    let id = house.send("s@sender.example", &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    let mut house = house.restart(|settings| settings.routes = vec![local_route()]).await;
    house.peers.set("a@example.org", Does::Accept);
    house.start();
    house.advance(5 * MINUTE + MINUTE).await;
    house.until(|peers| peers.finished(id) == 1).await;
    assert_eq!(house.peers.attempts()[1].site, "lmtp:/run/lmtp");
}

#[tokio::test(start_paused = true)]
async fn mail_follows_a_domain_that_moves_from_one_route_to_another() {
    let route = |name: &str, domain: &str| Route {
        name: name.into(),
        matches: vec![Match::Domain(Domain::parse(domain).unwrap())],
        to: To::Lmtp(LmtpServer::Unix(format!("/run/{name}").into())),
        ..local_route()
    };
    let mut house = House::new(|settings| settings.routes = vec![route("one", "example.org")]).await;
    house.start();
    house.peers.set("a@example.org", Does::Defer);
    let id = house.send("s@sender.example", &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    let moved = vec![route("one", "example.com"), route("two", "example.org")];
    let mut house = house.restart(|settings| settings.routes = moved).await;
    house.peers.set("a@example.org", Does::Accept);
    house.start();
    house.advance(5 * MINUTE + MINUTE).await;
    house.until(|peers| peers.finished(id) == 1).await;
    let sites: Vec<_> = house.peers.attempts().into_iter().map(|attempt| attempt.site).collect();
    assert_eq!(sites, ["lmtp:/run/one", "lmtp:/run/two"]);
}

#[tokio::test(start_paused = true)]
async fn literals_smart_hosts_and_their_exchanges_have_sites() {
    let smart = |name: &str, domain: &str, mx| {
        Route::new(
            name,
            vec![Match::Domain(Domain::parse(domain).unwrap())],
            To::SmartHosts(vec![SmartHost { host: Host::parse("example.net").unwrap(), port: 587, mx }]),
        )
    };
    let routes = vec![smart("by-host", "one.example", false), smart("by-mx", "two.example", true)];
    let mut house = House::new(|settings| settings.routes = routes).await;
    house.start();
    let to = ["a@[192.0.2.7]", "b@one.example", "c@two.example"];
    let id = house.send("s@sender.example", &to).await;
    house.until(|peers| peers.finished(id) == 1).await;
    let mut sites: Vec<_> = house.peers.attempts().into_iter().map(|attempt| attempt.site).collect();
    sites.sort();
    assert_eq!(sites, ["[192.0.2.7]", "hosts:example.net:587", "hosts:mx.example.net:587"]);
    let explained = house.queue.explain(&Host::parse("two.example").unwrap()).to_string();
    assert_eq!(
        explained,
        "two.example: route by-mx (two.example) sends it to example.net:587 (mail exchanges), from source default, \
         as destination route:by-mx"
    );
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_connections_and_keeps_the_rest() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Hang);
    house.send("s@sender.example", &["a@example.org"]).await;
    house.until(|peers| peers.attempts().len() == 1).await;
    let second = house.send("s@sender.example", &["b@example.org"]).await;
    let stopping = tokio::spawn({
        let queue = house.queue.clone();
        async move { queue.stop().await }
    });
    house.peers.set("a@example.org", Does::Accept);
    stopping.await.unwrap();
    assert!(house.queue.grant().await.is_none());
    assert_eq!(house.peers.outcomes("delivered"), house.peers.attempts().len(), "what was begun was finished");
    let mut house = house.restart(|_| ()).await;
    house.start();
    house.until_empty().await;
    house.until(|peers| peers.finished(second) == 1).await;
    assert_eq!(house.peers.attempts_for("b@example.org"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_goes_back_delays_nothing() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Defer);
    let old = house.send("s@sender.example", &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    house.clock.jump(-3_600_000);
    house.advance(MINUTE).await;
    let new = house.send("s@sender.example", &["b@example.org"]).await;
    house.until(|peers| peers.finished(new) == 1).await;
    house.peers.set("a@example.org", Does::Accept);
    house.advance(5 * MINUTE).await;
    house.until(|peers| peers.finished(old) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_right_after_the_clock_went_back_waits_for_its_time() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.send("s@sender.example", &["b@example.org"]).await;
    house.until_empty().await;
    house.peers.set("a@example.org", Does::Defer);
    house.clock.jump(-3_600_000);
    house.send("s@sender.example", &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    house.advance(4 * MINUTE).await;
    assert_eq!(house.peers.attempts_for("a@example.org"), 1);
    house.advance(MINUTE).await;
    house.until(|peers| peers.outcomes("deferred") == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_went_back_before_the_start_delays_nothing() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Defer);
    let id = house.send("s@sender.example", &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    let clock = house.clock.clone();
    let mut house = house.restart(move |_| clock.jump(-31 * 86_400_000)).await;
    house.peers.set("a@example.org", Does::Accept);
    house.start();
    house.advance(4 * MINUTE).await;
    assert_eq!(house.peers.attempts().len(), 1, "nor does anything come early");
    house.advance(2 * MINUTE).await;
    house.until(|peers| peers.finished(id) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_goes_back_in_each_life_neither_delays_nor_hastens() {
    let mut house = House::new(|_| ()).await;
    house.start();
    for who in ["a@example.org", "b@example.com"] {
        house.peers.set(who, Does::Defer);
    }
    let first = house.send("s@sender.example", &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    house.clock.jump(-7_200_000);
    house.advance(MINUTE).await;
    let mut house = house.restart(|_| ()).await;
    house.start();
    let second = house.send("s@sender.example", &["b@example.com"]).await;
    house.until(|peers| peers.outcomes("deferred") == 2).await;
    let clock = house.clock.clone();
    let mut house = house.restart(move |_| clock.jump(-7_200_000)).await;
    for who in ["a@example.org", "b@example.com"] {
        house.peers.set(who, Does::Accept);
    }
    house.start();
    house.advance(3 * MINUTE).await;
    assert_eq!(house.peers.outcomes("delivered"), 0, "nothing comes early");
    house.advance(MINUTE + MINUTE / 2).await;
    house.until(|peers| peers.finished(first) == 1).await;
    assert_eq!(house.peers.finished(second), 0, "nor that");
    house.advance(MINUTE).await;
    house.until(|peers| peers.finished(second) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_schedule_that_was_made_shorter_is_no_clock_that_went_back() {
    let every = |wait| {
        move |settings: &mut queue::Settings| {
            settings.retry.intervals = shaping::Intervals::listed(vec![wait]).unwrap();
        }
    };
    let mut house = House::new(every(3 * HOUR)).await;
    house.start();
    house.peers.set("a@example.org", Does::Defer);
    let id = house.send("s@sender.example", &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    let due = house.queue.show(id).await.unwrap().unwrap().deliveries[0].due.unwrap();
    let mut house = house.restart(every(MINUTE)).await;
    house.peers.set("a@example.org", Does::Accept);
    house.start();
    house.advance(2 * HOUR).await;
    assert_eq!(house.peers.attempts().len(), 1);
    assert_eq!(house.queue.show(id).await.unwrap().unwrap().deliveries[0].due, Some(due));
    house.advance(HOUR).await;
    house.until(|peers| peers.finished(id) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_jumps_ahead_bounces_nothing_at_once() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Defer);
    let id = house.send("s@sender.example", &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    house.advance(MINUTE).await;
    house.clock.jump(31 * 86_400_000);
    house.advance(MINUTE).await;
    house.until(|peers| peers.outcomes("deferred") == 2).await;
    assert_eq!(house.peers.outcomes("expired"), 0);
    house.clock.jump(-31 * 86_400_000);
    house.peers.set("a@example.org", Does::Accept);
    house.advance(MINUTE).await;
    let new = house.send("s@sender.example", &["b@example.org"]).await;
    house.until(|peers| peers.finished(new) == 1).await;
    house.advance(12 * MINUTE).await;
    house.until(|peers| peers.finished(id) == 1).await;
}
