//! What operators see and do.

use mail::{Clock, Event, Site};
use queue::{Action, Pattern, Selection, State};

use crate::house::{Does, HOUR, House, MINUTE};

const SENDER: &str = "s@sender.example";

async fn deferred(house: &mut House, recipients: &[&str]) -> Vec<mail::MessageId> {
    house.start();
    let mut ids = Vec::new();
    for recipient in recipients {
        house.peers.set(recipient, Does::Defer);
        ids.push(house.send(SENDER, &[recipient]).await);
    }
    let count = recipients.len();
    house.until(|peers| peers.outcomes("deferred") == count).await;
    ids
}

#[tokio::test(start_paused = true)]
async fn what_is_held_waits_for_its_release_over_restarts() {
    let mut house = House::new(|_| ()).await;
    let ids = deferred(&mut house, &["a@example.org"]).await;
    let acted = house.queue.act(Action::Hold, &Selection::message(ids[0]), "root", "looks odd").await.unwrap();
    assert_eq!((acted.messages, acted.recipients, acted.changed), (1, 1, 1));
    let mut house = house.restart(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Accept);
    house.advance(48 * HOUR).await;
    assert_eq!(house.peers.attempts().len(), 1);
    let shown = house.queue.show(ids[0]).await.unwrap().unwrap();
    let held = shown.deliveries[0].held.clone().unwrap();
    assert_eq!((held.author.as_str(), held.reason.as_str()), ("root", "looks odd"));
    assert_eq!(shown.deliveries[0].state, State::Held);
    let summary = house.queue.summary(100).await.unwrap();
    assert_eq!((summary.destinations[0].queued, summary.destinations[0].held), (0, 1));
    house.queue.act(Action::Release, &Selection::everything(), "root", "is fine").await.unwrap();
    house.until(|peers| peers.finished(ids[0]) == 1).await;
    let told = |fits: fn(&Event) -> bool| house.peers.events().iter().any(fits);
    assert!(told(|event| matches!(event, Event::Held { .. })) && told(|event| matches!(event, Event::Released { .. })));
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_is_gone_and_nobody_is_told() {
    let mut house = House::new(|_| ()).await;
    let ids = deferred(&mut house, &["a@example.org", "b@example.org", "c@example.com"]).await;
    let selection = Selection { domain: Some("example.org".parse().unwrap()), ..Selection::default() };
    assert_eq!(house.queue.count(&selection).await.unwrap().recipients, 2);
    assert_eq!(house.peers.outcomes("removed"), 0, "counting changes nothing");
    let acted = house.queue.act(Action::Remove, &selection, "root", "spam").await.unwrap();
    assert_eq!(acted.changed, 2);
    assert!(house.queue.show(ids[0]).await.unwrap().is_none());
    assert!(house.queue.show(ids[2]).await.unwrap().is_some());
    assert_eq!((house.peers.outcomes("removed"), house.peers.finished(ids[1])), (2, 1));
    house.advance(48 * HOUR).await;
    assert_eq!(house.peers.attempts_for("a@example.org"), 1);
}

#[tokio::test(start_paused = true)]
async fn one_recipient_can_be_taken_out_of_many() {
    let mut house = House::new(|_| ()).await;
    house.start();
    let to = ["a@example.org", "b@example.org", "c@example.org"];
    to.iter().for_each(|to| house.peers.set(to, Does::Defer));
    let id = house.send(SENDER, &to).await;
    house.until(|peers| peers.outcomes("deferred") == 3).await;
    let only = |text: &str| Selection { recipient: Some(Pattern::parse(text).unwrap()), ..Selection::default() };
    house.queue.act(Action::Remove, &only("a@*"), "root", "wrong").await.unwrap();
    house.queue.act(Action::Hold, &only("b@*"), "root", "wait").await.unwrap();
    to.iter().for_each(|to| house.peers.set(to, Does::Accept));
    house.advance(6 * MINUTE).await;
    house.until(|peers| peers.outcomes("delivered") == 1).await;
    let shown = house.queue.show(id).await.unwrap().unwrap();
    let states: Vec<_> = shown.deliveries.iter().map(|delivery| delivery.state).collect();
    assert_eq!(states, [State::Finished, State::Held]);
    assert_eq!(house.peers.attempts_for("c@example.org"), 2);
    house.queue.act(Action::Release, &Selection::message(id), "root", "go").await.unwrap();
    house.until(|peers| peers.finished(id) == 1).await;
    assert_eq!((house.peers.attempts_for("a@example.org"), house.peers.attempts_for("b@example.org")), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_retry_does_not_wait_for_the_schedule_nor_for_a_resting_lane() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("mx.example.org", Does::Dead);
    let id = house.send(SENDER, &["a@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    house.peers.set("mx.example.org", Does::Accept);
    let selection = Selection { site: Some(Site::new("mx.example.org")), ..Selection::default() };
    let acted = house.queue.act(Action::Retry, &selection, "root", "it is back").await.unwrap();
    assert_eq!(acted.changed, 1);
    house.advance(crate::house::MINUTE / 10).await;
    house.until(|peers| peers.finished(id) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_command_for_what_is_being_attempted_counts_afterwards() {
    let mut house = House::new(|_| ()).await;
    house.start();
    let to = ["held@example.org", "removed@example.com", "faster@example.net"];
    to.iter().for_each(|to| house.peers.set(to, Does::Hang));
    let mut ids = Vec::new();
    for to in to {
        ids.push(house.send(SENDER, &[to]).await);
    }
    house.until(|peers| peers.attempts().len() == 3).await;
    let act = async |action, id| house.queue.act(action, &Selection::message(id), "root", "stop").await.unwrap();
    assert_eq!(act(Action::Hold, ids[0]).await.in_flight, 1);
    assert_eq!(act(Action::Remove, ids[1]).await.in_flight, 1);
    assert_eq!(act(Action::Remove, ids[2]).await.in_flight, 1);
    assert_eq!(house.queue.show(ids[0]).await.unwrap().unwrap().deliveries[0].state, State::Active);
    house.peers.set(to[0], Does::Defer);
    house.peers.set(to[1], Does::Defer);
    house.peers.set(to[2], Does::Accept);
    house.until(|peers| peers.finished(ids[1]) == 1 && peers.finished(ids[2]) == 1).await;
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    assert_eq!((house.peers.outcomes("removed"), house.peers.outcomes("delivered")), (1, 1));
    house.advance(48 * HOUR).await;
    assert_eq!(house.peers.attempts_for(to[0]), 1);
    assert_eq!(house.queue.show(ids[0]).await.unwrap().unwrap().deliveries[0].state, State::Held);
}

#[tokio::test(start_paused = true)]
async fn lists_come_in_pieces_and_fit_the_selection() {
    let mut house = House::new(|_| ()).await;
    let names: Vec<String> = (0..7).map(|number| format!("r{number}@example.org")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let ids = deferred(&mut house, &names).await;
    house.send("other@sender.example", &["x@example.com"]).await;
    let selection = Selection { sender: Some(Pattern::parse(SENDER).unwrap()), ..Selection::default() };
    let (mut after, mut listed) = (None, Vec::new());
    for _ in 0..10 {
        let page = house.queue.list(&selection, after, 3).await.unwrap();
        assert!(page.messages.len() <= 3);
        listed.extend(page.messages.iter().map(|message| message.id));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(listed, ids);
    let shown = house.queue.show(ids[0]).await.unwrap().unwrap();
    assert_eq!((shown.deliveries[0].state, shown.deliveries[0].attempts), (State::Deferred, 1));
    assert_eq!(shown.deliveries[0].last.as_deref(), Some("451 4.2.1 come back"));
    let old = Selection { older_than: Some(HOUR), ..Selection::default() };
    assert_eq!(house.queue.count(&old).await.unwrap().messages, 0);
}

#[tokio::test(start_paused = true)]
async fn commands_say_what_and_why() {
    let house = House::new(|_| ()).await;
    let nothing = Selection::default();
    assert!(house.queue.act(Action::Remove, &nothing, "root", "oops").await.is_err());
    assert!(house.queue.act(Action::Remove, &Selection::everything(), "root", " ").await.is_err());
    assert!(house.queue.count(&nothing).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_domain_is_acted_on_wherever_its_mail_is_and_no_other() {
    let mut house = House::new(|_| ()).await;
    let mut recipients: Vec<String> = (0..30).map(|at| format!("user{at}@example.org")).collect();
    recipients.push("other@example.com".into());
    deferred(&mut house, &recipients.iter().map(String::as_str).collect::<Vec<_>>()).await;
    // From now on a route leads there, under which what comes is found too.
    let route = |settings: &mut queue::Settings| {
        let to = queue::To::SmartHosts(vec![queue::SmartHost {
            host: "mx.example.org".parse().unwrap(),
            port: 25,
            mx: false,
        }]);
        let matches = vec![queue::Match::Domain("example.org".parse().unwrap())];
        settings.routes.push(queue::Route::new("relay", matches, to));
    };
    // Ids are made from the time of the start.
    house.advance(MINUTE).await;
    let mut house = house.restart(route).await;
    house.start();
    house.peers.set("late@example.org", Does::Defer);
    house.send(SENDER, &["late@example.org"]).await;
    house.until(|peers| peers.outcomes("deferred") >= 32).await;
    let selection = Selection { domain: Some("example.org".parse().unwrap()), ..Selection::default() };
    let act = async |action, changed| {
        let acted = house.queue.act(action, &selection, "root", "because").await.unwrap();
        assert_eq!((acted.changed, acted.busy), (changed, 0), "{action:?} {changed}: {acted:?}");
    };
    act(Action::Hold, 31).await;
    act(Action::Hold, 0).await;
    act(Action::Retry, 0).await;
    let summary = house.queue.summary(1).await.unwrap();
    assert_eq!((summary.queued, summary.held, summary.total_destinations), (1, 31, 3));
    assert_eq!(summary.destinations.len(), 1, "no more than asked for");
    assert_eq!((summary.destinations[0].held, summary.destinations[0].destination.as_str()), (30, "mx:example.org"));
    act(Action::Release, 31).await;
    house.until(|peers| peers.outcomes("deferred") >= 32 + 31).await;
    let acted = house.queue.act(Action::Remove, &selection, "root", "because").await.unwrap();
    assert_eq!(acted.changed, 31);
    let summary = house.queue.summary(10).await.unwrap();
    assert_eq!((summary.queued, summary.held), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_takes_no_more_from_outside_and_still_reports() {
    let mut house = House::new(|settings| settings.most_messages = Some(2)).await;
    house.peers.set("a@example.org", Does::Refuse);
    house.send(SENDER, &["a@example.org"]).await;
    assert!(house.queue.intake(None).is_ok());
    house.send(SENDER, &["b@example.org"]).await;
    let refused = house.queue.intake(None).map(|_| ()).unwrap_err();
    assert_eq!(refused.reply().to_string(), "452 4.3.1 The queue is full, try again later");
    house.start();
    house.until(|peers| peers.events().iter().any(|event| matches!(event, Event::Reported { .. }))).await;
    house.until_empty().await;
    assert!(house.queue.intake(None).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_release_is_about_what_is_held() {
    let mut house = House::new(|_| ()).await;
    let ids = deferred(&mut house, &["a@example.org", "b@example.com"]).await;
    house.queue.act(Action::Hold, &Selection::message(ids[0]), "root", "looks odd").await.unwrap();
    let acted = house.queue.act(Action::Release, &Selection::everything(), "root", "is fine").await.unwrap();
    assert_eq!((acted.messages, acted.recipients, acted.changed), (1, 1, 1), "{acted:?}");
    house.until(|peers| peers.outcomes("deferred") == 3).await;
    assert_eq!(house.peers.attempts_for("b@example.com"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_release_ends_a_hold_that_waits_for_the_end_of_an_attempt() {
    let mut house = House::new(|_| ()).await;
    house.start();
    house.peers.set("a@example.org", Does::Hang);
    let id = house.send(SENDER, &["a@example.org"]).await;
    house.until(|peers| peers.attempts().len() == 1).await;
    for action in [Action::Hold, Action::Release] {
        let acted = house.queue.act(action, &Selection::everything(), "root", "because").await.unwrap();
        assert_eq!(acted.in_flight, 1, "{action:?}");
    }
    house.peers.set("a@example.org", Does::Defer);
    house.until(|peers| peers.outcomes("deferred") == 1).await;
    house.peers.set("a@example.org", Does::Accept);
    house.advance(6 * MINUTE).await;
    house.until(|peers| peers.finished(id) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn the_summary_tells_times_by_the_wall_clock() {
    let mut house = House::new(|_| ()).await;
    let ids = deferred(&mut house, &["a@example.org"]).await;
    house.clock.jump(-3_600_000);
    let told = house.queue.summary(10).await.unwrap().destinations[0].earliest_due.unwrap();
    assert!(told <= house.clock.now() + 5 * MINUTE, "{told} and it is {}", house.clock.now());
    assert_eq!(house.queue.show(ids[0]).await.unwrap().unwrap().deliveries[0].due, Some(told));
}
