//! What becomes of a policy in each state that a domain and its policy host can be in.

use futures_util::future::join_all;
use mail::Domain;
use tls::mtasts::Mode;

use crate::house::{DAY, HOUR, House, MINUTE, policy};
use crate::web::{Certificate, respond, text};

#[tokio::test]
async fn policies_of_each_mode_are_found() {
    let house = House::new().await;
    for (mode, name) in [(Mode::Enforce, "enforce"), (Mode::Testing, "testing"), (Mode::None, "none")] {
        let domain = format!("{name}.example");
        house.domain(&domain, "1", Certificate::Good, text(&policy(name, "mx.example.net", 86_400)));
        let found = house.policy(&domain).await.unwrap();
        assert_eq!(found.mode, mode);
        let (listed, other) = (Domain::parse("mx.example.net").unwrap(), Domain::parse("mx.evil.example").unwrap());
        assert!(found.allows(&listed));
        assert_eq!(found.allows(&other), mode == Mode::None);
    }
    let request = &house.web.requests()[0];
    assert_eq!(request.line, "GET /.well-known/mta-sts.txt HTTP/1.1");
    assert!(house.heard.failures().is_empty());
}

#[tokio::test]
async fn what_is_no_proper_answer_is_no_policy_and_reported() {
    let good = policy("enforce", "mx.example.net", 86_400);
    let moved = "Location: https://mta-sts.good.example/.well-known/mta-sts.txt\r\n";
    let plain = "Content-Type: text/plain\r\n";
    let huge = format!("{good}{}", "x-pad: y\r\n".repeat(7000));
    let cases = [
        ("expired", Certificate::Expired, text(&good), "sts-webpki-invalid", "certificate expired"),
        ("other-name", Certificate::OtherName, text(&good), "sts-webpki-invalid", "certificate for another name"),
        ("self-signed", Certificate::SelfSigned, text(&good), "sts-webpki-invalid", "certificate of an unknown issuer"),
        ("missing", Certificate::Good, respond("404 Not Found", plain, &good), "sts-policy-fetch-error", "status 404"),
        ("broken", Certificate::Good, respond("500 Oh", plain, &good), "sts-policy-fetch-error", "status 500"),
        ("created", Certificate::Good, respond("201 Created", plain, &good), "sts-policy-fetch-error", "status 201"),
        ("moved", Certificate::Good, respond("301 Moved", moved, &good), "sts-policy-fetch-error", "redirect 301"),
        ("found", Certificate::Good, respond("302 Found", moved, &good), "sts-policy-fetch-error", "redirect 302"),
        (
            "html",
            Certificate::Good,
            respond("200 OK", "Content-Type: text/html\r\n", &good),
            "sts-policy-fetch-error",
            "not text/plain",
        ),
        ("untyped", Certificate::Good, respond("200 OK", "", &good), "sts-policy-fetch-error", "not text/plain"),
        ("huge", Certificate::Good, text(&huge), "sts-policy-invalid", "too large"),
        (
            "nonsense",
            Certificate::Good,
            text("hello\r\n"),
            "sts-policy-invalid",
            "line 1 of the policy is no `name: value`",
        ),
        (
            "hostless",
            Certificate::Good,
            text("version: STSv1\nmode: enforce\nmax_age: 5\n"),
            "sts-policy-invalid",
            "the policy has no mx, or more than 200",
        ),
    ];
    let house = House::new().await;
    house.domain("good.example", "1", Certificate::Good, text(&good));
    for (name, certificate, answer, kind, reason) in cases {
        let domain = format!("{name}.example");
        house.domain(&domain, "1", certificate, answer);
        assert!(house.policy(&domain).await.is_none(), "{name}");
        assert_eq!(house.heard.failures(), [(kind.to_owned(), reason.to_owned())], "{name}");
    }
    assert_eq!(house.fetches("good.example"), 0, "no redirect was followed");
}

#[tokio::test]
async fn without_a_proper_record_nothing_is_fetched() {
    let house = House::new().await;
    let good = text(&policy("enforce", "mx.example.net", 86_400));
    house.domain("several.example", "1", Certificate::Good, good.clone());
    house.dns.text("_mta-sts.several.example", "v=STSv1; id=2");
    house.domain("broken.example", "not-an-id", Certificate::Good, good.clone());
    house.domain("silent.example", "1", Certificate::Good, good.clone());
    house.dns.forget("_mta-sts.silent.example");
    house.domain("trouble.example", "1", Certificate::Good, good);
    house.dns.temporary("_mta-sts.trouble.example");
    for domain in ["several.example", "broken.example", "silent.example", "trouble.example"] {
        assert!(house.policy(domain).await.is_none(), "{domain}");
    }
    assert!(house.web.requests().is_empty());
    assert!(house.heard.failures().is_empty());
}

#[tokio::test]
async fn a_policy_host_without_an_address_is_told() {
    let house = House::new().await;
    house.announce("lost.example", "1");
    assert!(house.policy("lost.example").await.is_none());
    let failures = house.heard.failures();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].0, "sts-policy-fetch-error");
    assert!(failures[0].1.starts_with("DNS: "), "{failures:?}");
}

#[tokio::test]
async fn a_new_id_brings_a_new_policy_and_the_same_id_none() {
    let house = House::new().await;
    house.domain("a.example", "1", Certificate::Good, text(&policy("testing", "mx.a.example", 86_400)));
    assert_eq!(house.policy("a.example").await.unwrap().mode, Mode::Testing);

    house.web.answer("mta-sts.a.example", text(&policy("enforce", "mx.a.example", 86_400)));
    house.clock.advance(HOUR);
    assert_eq!(house.policy("a.example").await.unwrap().mode, Mode::Testing);
    assert_eq!(house.fetches("a.example"), 1);

    house.announce("a.example", "2");
    assert_eq!(house.policy("a.example").await.unwrap().mode, Mode::Testing, "the record was looked at a moment ago");
    house.clock.advance(6 * MINUTE);
    assert_eq!(house.policy("a.example").await.unwrap().mode, Mode::Enforce);
    assert_eq!(house.fetches("a.example"), 2);
}

#[tokio::test]
async fn a_kept_policy_outlives_trouble_until_its_age_is_over() {
    let mut house = House::new().await;
    house.domain("a.example", "1", Certificate::Good, text(&policy("enforce", "mx.a.example", 86_400)));
    assert!(house.policy("a.example").await.is_some());
    let trouble: [fn(&House); 4] = [
        |house| {
            house.dns.forget("_mta-sts.a.example");
        },
        |house| {
            house.dns.temporary("_mta-sts.a.example");
        },
        |house| {
            house.announce("a.example", "2");
            house.web.answer("mta-sts.a.example", respond("404 Not Found", "", ""));
        },
        |house| house.domain("a.example", "3", Certificate::SelfSigned, text(&policy("none", "x.example", 1))),
    ];
    for (number, make) in trouble.iter().enumerate() {
        make(&house);
        house.clock.advance(2 * HOUR);
        house.restart();
        let found = house.policy("a.example").await;
        assert_eq!(found.expect("the kept policy counts").mode, Mode::Enforce, "{number}");
    }
    house.clock.advance(DAY);
    assert!(house.policy("a.example").await.is_none());
}

#[tokio::test]
async fn failures_are_not_repeated_at_once() {
    let house = House::new().await;
    house.domain("a.example", "1", Certificate::Good, respond("404 Not Found", "", ""));
    for _ in 0..10 {
        assert!(house.policy("a.example").await.is_none());
    }
    assert_eq!(house.fetches("a.example"), 1);
    let mut fetches = Vec::new();
    for _ in 0..60 {
        house.clock.advance(6 * MINUTE);
        house.policy("a.example").await;
        fetches.push(house.fetches("a.example"));
    }
    // After 5, 10, 20, 40 and then 60 minutes each, looked at every 6.
    assert_eq!(*fetches.last().unwrap(), 9, "{fetches:?}");
    house.web.answer("mta-sts.a.example", text(&policy("enforce", "mx.a.example", 86_400)));
    house.clock.advance(2 * HOUR);
    assert!(house.policy("a.example").await.is_some());
}

#[tokio::test]
async fn all_who_ask_at_once_share_one_fetch() {
    let house = House::new().await;
    house.domain("a.example", "1", Certificate::Good, text(&policy("enforce", "mx.a.example", 86_400)));
    let found = join_all((0..100).map(|_| house.policy("a.example"))).await;
    assert!(found.iter().all(Option::is_some));
    assert_eq!(house.fetches("a.example"), 1);
}

#[tokio::test]
async fn used_policies_are_fetched_anew_before_they_end() {
    let house = House::new().await;
    house.domain("a.example", "1", Certificate::Good, text(&policy("enforce", "mx.a.example", 7 * 86_400)));
    house.domain("short.example", "1", Certificate::Good, text(&policy("enforce", "mx.a.example", 7_200)));
    house.policy("a.example").await;
    house.policy("short.example").await;
    house.cache.refresh().await;
    assert_eq!((house.fetches("a.example"), house.fetches("short.example")), (1, 1), "they are fresh");

    house.clock.advance(HOUR);
    house.cache.refresh().await;
    assert_eq!((house.fetches("a.example"), house.fetches("short.example")), (1, 2), "half of its age is over");

    for _ in 0..20 {
        house.clock.advance(DAY);
        house.cache.refresh().await;
    }
    assert_eq!(house.fetches("a.example"), 21, "day after day, past the first policy's end");
    assert!(house.policy("a.example").await.is_some());
    for _ in 0..45 {
        house.clock.advance(DAY);
        house.cache.refresh().await;
    }
    assert_eq!(house.fetches("a.example"), 21 + 29, "not when nobody sends mail there for a month");
}

#[tokio::test]
async fn a_policy_of_no_age_counts_for_a_minute() {
    let house = House::new().await;
    house.domain("a.example", "1", Certificate::Good, text(&policy("enforce", "mx.a.example", 0)));
    for _ in 0..5 {
        assert!(house.policy("a.example").await.is_some());
    }
    assert_eq!(house.fetches("a.example"), 1);
    house.clock.advance(2 * MINUTE);
    assert!(house.policy("a.example").await.is_some());
    assert_eq!(house.fetches("a.example"), 2);
}
