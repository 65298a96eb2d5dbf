use super::*;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis((1_800_000_000 + seconds) * 1000)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn settings() -> BanSettings {
    BanSettings { failures: 4, ..BanSettings::default() }
}

async fn open(tables: &Tables, now: Timestamp) -> Bans {
    Bans::open(tables.clone(), Gauge::default(), now).await.unwrap()
}

async fn fail(bans: &Bans, address: &str, account: &str, now: Timestamp) -> Consequence {
    bans.failed(&settings(), Guesser::At(ip(address)), Some(account), now).await.unwrap()
}

#[tokio::test]
async fn replies_come_ever_later_until_the_address_is_banned() {
    let bans = open(&Tables::in_memory(), at(0)).await;
    let mut delays = Vec::new();
    for second in 0..3 {
        let consequence = fail(&bans, "192.0.2.1", "anna", at(second)).await;
        delays.push(consequence.delay.as_secs());
        assert_eq!(consequence.ban, None);
        assert_eq!(bans.on(ip("192.0.2.1"), at(second)), None);
    }
    assert_eq!(delays, [1, 2, 4]);
    let (network, ban) = fail(&bans, "192.0.2.1", "anna", at(3)).await.ban.unwrap();
    assert_eq!((network.to_string().as_str(), ban.until), ("192.0.2.1", Some(at(603))));
    assert!(bans.on(ip("::ffff:192.0.2.1"), at(602)).is_some());
    assert_eq!(bans.on(ip("192.0.2.1"), at(603)), None);
    assert_eq!(bans.on(ip("192.0.2.2"), at(4)), None, "its neighbour has done nothing");
}

#[tokio::test]
async fn each_ban_is_longer_until_it_is_forgotten() {
    let bans = open(&Tables::in_memory(), at(0)).await;
    let mut now = 0;
    for minutes in [10, 20, 40, 80] {
        let mut ban = None;
        for _ in 0..4 {
            ban = fail(&bans, "192.0.2.1", "anna", at(now)).await.ban;
        }
        assert_eq!(ban.unwrap().1.until, Some(at(now + minutes * 60)), "{minutes}");
        now += minutes * 60;
    }
    now += 8 * 86_400;
    for _ in 0..3 {
        fail(&bans, "192.0.2.1", "anna", at(now)).await;
    }
    assert_eq!(fail(&bans, "192.0.2.1", "anna", at(now)).await.ban.unwrap().1.until, Some(at(now + 600)));
}

#[tokio::test]
async fn one_customer_of_ipv6_is_one_address() {
    let bans = open(&Tables::in_memory(), at(0)).await;
    let mut ban = None;
    for last in 1..=4 {
        ban = fail(&bans, &format!("2001:db8::{last}"), "anna", at(0)).await.ban;
    }
    assert_eq!(ban.unwrap().0.to_string(), "2001:db8::/64");
    assert!(bans.on(ip("2001:db8::ffff"), at(1)).is_some());
    assert!(bans.on(ip("2001:db8:0:1::1"), at(1)).is_none());
}

#[tokio::test]
async fn who_fails_now_and_then_is_never_banned() {
    let bans = open(&Tables::in_memory(), at(0)).await;
    for hour in 0..40 {
        // Four in an hour are forgiven: one every quarter of an hour.
        let consequence = fail(&bans, "192.0.2.1", "anna", at(hour * 900)).await;
        assert_eq!((consequence.ban, consequence.delay.as_secs()), (None, 1), "{hour}");
    }
}

#[tokio::test]
async fn an_attacked_account_slows_the_attackers_and_bans_nobody() {
    let bans = open(&Tables::in_memory(), at(0)).await;
    let mut last = Duration::ZERO;
    for host in 1..=10 {
        let consequence = fail(&bans, &format!("192.0.2.{host}"), "anna", at(0)).await;
        assert_eq!(consequence.ban, None);
        assert!(consequence.delay >= last);
        last = consequence.delay;
    }
    assert_eq!(last, Duration::from_secs(20));
    // Whoever tries another account from elsewhere is not slowed by that.
    assert_eq!(fail(&bans, "198.51.100.1", "bob", at(0)).await.delay, Duration::from_secs(1));
}

#[tokio::test]
async fn who_is_spared_is_never_banned_nor_delayed() {
    let bans = open(&Tables::in_memory(), at(0)).await;
    for _ in 0..40 {
        let consequence = bans.failed(&settings(), Guesser::Spared, Some("anna"), at(0)).await.unwrap();
        assert_eq!(consequence, Consequence { delay: Duration::ZERO, ban: None });
    }
    // Others wait for what was tried with this account.
    assert_eq!(fail(&bans, "192.0.2.1", "anna", at(0)).await.delay, settings().delay_most);
    let off = BanSettings { enabled: false, ..settings() };
    for _ in 0..40 {
        assert_eq!(bans.failed(&off, Guesser::At(ip("192.0.2.2")), None, at(0)).await.unwrap().ban, None);
    }
}

#[tokio::test]
async fn a_gateway_is_not_banned_for_clients_whose_address_it_does_not_know() {
    let bans = open(&Tables::in_memory(), at(0)).await;
    let mut delays = Vec::new();
    for _ in 0..8 {
        let consequence = bans.failed(&settings(), Guesser::Behind(ip("192.0.2.1")), None, at(0)).await.unwrap();
        assert_eq!(consequence.ban, None);
        delays.push(consequence.delay.as_secs());
    }
    assert_eq!(delays, [1, 2, 4, 8, 16, 20, 20, 20]);
    assert_eq!(fail(&bans, "192.0.2.1", "anna", at(0)).await.delay.as_secs(), 1, "itself has done nothing");
}

#[tokio::test]
async fn a_restart_forgets_no_ban_and_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let tables = Tables::open(folder.path()).unwrap();
    let bans = open(&tables, at(0)).await;
    for _ in 0..4 {
        fail(&bans, "192.0.2.1", "anna", at(0)).await;
    }
    for _ in 0..3 {
        fail(&bans, "192.0.2.2", "bob", at(0)).await;
    }
    let by_hand =
        Ban { since: at(0), until: None, times: 0, author: Some("root".to_owned()), reason: "spam".to_owned() };
    bans.add("203.0.113.0/24".parse().unwrap(), by_hand, at(0)).await.unwrap();
    drop(bans);
    tables.close().await;
    let tables = Tables::open(folder.path()).unwrap();
    let bans = open(&tables, at(1)).await;
    assert!(bans.on(ip("192.0.2.1"), at(1)).is_some());
    assert!(bans.on(ip("203.0.113.77"), at(1 << 40)).is_some(), "without end");
    assert!(fail(&bans, "192.0.2.2", "bob", at(1)).await.ban.is_some());
    let networks: Vec<String> = bans.list(at(2)).iter().map(|(network, _)| network.to_string()).collect();
    assert_eq!(networks, ["192.0.2.1", "192.0.2.2", "203.0.113.0/24"]);
}

#[tokio::test]
async fn a_ban_that_is_lifted_begins_anew() {
    let bans = open(&Tables::in_memory(), at(0)).await;
    let network = culprit(ip("192.0.2.1"));
    assert!(!bans.lift(network, at(0)).await.unwrap());
    for _ in 0..4 {
        fail(&bans, "192.0.2.1", "anna", at(0)).await;
    }
    assert!(bans.lift(network, at(1)).await.unwrap());
    assert_eq!(bans.on(ip("192.0.2.1"), at(1)), None);
    assert!(bans.list(at(1)).is_empty());
    for _ in 0..3 {
        assert_eq!(fail(&bans, "192.0.2.1", "bob", at(1)).await.ban, None);
    }
    assert_eq!(fail(&bans, "192.0.2.1", "bob", at(1)).await.ban.unwrap().1.until, Some(at(601)));
}

#[tokio::test]
async fn memory_is_bounded() {
    let bans = open(&Tables::in_memory(), at(0)).await;
    let ban = |until| Ban { since: at(0), until: Some(at(until)), times: 1, author: None, reason: String::new() };
    for number in 0..=MOST as u32 {
        bans.put_in_force(culprit(std::net::Ipv4Addr::from(number).into()), ban(100 + u64::from(number)), at(0));
    }
    assert!(bans.list(at(0)).len() <= MOST);
    let latest = std::net::Ipv4Addr::from(MOST as u32).into();
    assert!(bans.on(latest, at(0)).is_some(), "what ends last stays");
}

#[tokio::test]
async fn a_ban_by_hand_is_seen_behind_one_for_failures() {
    for _ in 0..8 {
        let bans = open(&Tables::in_memory(), at(0)).await;
        for _ in 0..4 {
            fail(&bans, "192.0.2.1", "anna", at(0)).await;
        }
        assert!(bans.on(ip("192.0.2.1"), at(1)).unwrap().is_for_failures());
        for prefix in [24, 16, 8] {
            let network = Network::around(ip("192.0.2.1"), prefix);
            let author = Some("root".to_owned());
            let by_hand = Ban { since: at(0), until: None, times: 0, author, reason: "spam".to_owned() };
            bans.add(network, by_hand, at(1)).await.unwrap();
            assert!(!bans.on(ip("192.0.2.1"), at(1)).unwrap().is_for_failures());
            assert!(bans.lift(network, at(1)).await.unwrap());
        }
    }
}
