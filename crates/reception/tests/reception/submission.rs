//! What accounts may do: log in, send as themselves, as much as they use to; and what becomes of those who guess.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use directory::file::AccountsFile;
use directory::{BackendSettings, Directory, DovecotSettings, Password, Secret, SendAs};
use mail::{Act, Clock, Event, SystemClock, TlsDemand};
use proptest::prelude::*;
use reception::{Role, Settings, SpikeRule};
use smtp::server::AuthOffer;
use tls::{AcceptorSettings, Ask, ClientCertificates, ClientRule, Grant, Shown};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::secure::{BOTH, Secure, client, implicit, made, with};
use crate::testing::{Client, Server, settings as plain_settings};

/// `anna@example.org` and `bot`, which may send as everybody at `lists.example.org`; both with the password `pencil`.
fn accounts() -> Directory {
    accounts_in(tempfile::tempdir().unwrap().path())
}

/// The same, in a file that can still be changed.
pub fn accounts_in(folder: &Path) -> Directory {
    let path = folder.join("accounts.toml");
    let (now, password) = (SystemClock.now(), Password::new("pencil").unwrap());
    let mut file = AccountsFile::open(&path).unwrap();
    file.add("anna@example.org", None, Some(&password), now).unwrap();
    file.add("bot", Some(SendAs::parse(["*@lists.example.org"]).unwrap()), Some(&password), now).unwrap();
    file.save(None).unwrap();
    let directory = Directory::new(directory::Metrics::default());
    let settings = directory::Settings::new(BackendSettings::File(path), Secret::random());
    directory.configure(Some(settings)).unwrap();
    directory
}

/// A listener with TLS from the first octet, and AUTH that must come first.
pub fn settings() -> Settings {
    let mut settings = with(implicit(AcceptorSettings::default()));
    let listener = &mut settings.listeners[0];
    listener.role = Role::Submission;
    let mechanisms = directory::Mechanism::ALL.iter().map(|one| one.as_str().to_owned()).collect();
    listener.session.auth = AuthOffer { mechanisms, required: true };
    listener.session.future_release = Some(Duration::from_secs(86_400));
    listener.session.deliver_by = Some(Duration::from_secs(60));
    listener.session.mt_priority = true;
    listener.relay.networks = ["127.0.0.1".parse().unwrap()].into_iter().collect();
    settings.bans.delay = Duration::ZERO;
    settings.bans.delay_most = Duration::ZERO;
    settings
}

fn start(settings: Settings) -> Server {
    Server::start_with(settings, accounts())
}

pub async fn greeted(server: &Server) -> Secure {
    let mut client = Secure::connect(server, &Arc::new(client(BOTH, None))).await.unwrap();
    client.expect("220 ").await;
    client.ask("EHLO laptop.home.example\r\n", "250-").await;
    client
}

pub fn plain(account: &str, password: &str) -> String {
    format!("AUTH PLAIN {}\r\n", BASE64_STANDARD.encode(format!("\0{account}\0{password}")))
}

pub async fn logged_in(server: &Server, account: &str) -> Secure {
    let mut client = greeted(server).await;
    client.ask(&plain(account, "pencil"), "235 2.7.0 ").await;
    client
}

async fn send(client: &mut Secure, to: &[&str], content: &str, expected: &str) -> String {
    client.ask("MAIL FROM:<anna@example.org>\r\n", "250 ").await;
    for to in to {
        client.ask(&format!("RCPT TO:<{to}>\r\n"), "250 ").await;
    }
    client.ask("DATA\r\n", "354 ").await;
    client.ask(&format!("{content}.\r\n"), expected).await
}

const SIMPLE: &str = "From: Anna <anna@example.org>\r\nDate: x\r\nMessage-ID: <x@y>\r\n\r\nhello\r\n";

#[tokio::test]
async fn nobody_submits_without_an_account() {
    let server = start(settings());
    let mut client = greeted(&server).await;
    client.ask("MAIL FROM:<anna@example.org>\r\n", "530 5.7.0 ").await;
    for wrong in [plain("anna@example.org", "pencils"), plain("nobody@example.org", "pencil")] {
        client.ask(&wrong, "535 5.7.8 ").await;
    }
    client.ask("AUTH PLAIN AAAA\r\n", "501 5.5.2 ").await;
    client.ask("MAIL FROM:<anna@example.org>\r\n", "530 5.7.0 ").await;
}

#[tokio::test]
async fn what_is_submitted_is_completed_and_tells_nothing_of_the_client() {
    let mut server = start(settings());
    let mut client = logged_in(&server, "anna@example.org").await;
    let content = "From: Anna <anna@example.org>\r\nBcc: secret@elsewhere.example\r\nSubject: hi\r\n\r\nFrom: body\r\n";
    send(&mut client, &["x@elsewhere.example"], content, "250 2.0.0 ").await;
    let arrived = server.arrived().await;
    assert_eq!(arrived.envelope.account.as_deref(), Some("anna@example.org"));
    assert_eq!(arrived.envelope.origin.protocol.as_str(), "ESMTPSA");
    assert_eq!(arrived.content, "From: Anna <anna@example.org>\r\nSubject: hi\r\n\r\nFrom: body\r\n");
    let id = arrived.envelope.id;
    let (received, added) = arrived.trace.split_once("\r\nDate: ").unwrap();
    assert!(received.starts_with("Received: by mx.example.org with ESMTPSA\r\n"), "{received}");
    assert!(!received.contains("laptop") && !received.contains("127.0.0.1"), "{received}");
    assert!(added.ends_with(&format!("\r\nMessage-ID: <{id}@mx.example.org>\r\n")), "{added}");

    // What is whole stays whole; who asks for it is told where it came from.
    let mut open = settings();
    open.submission.hide_client = false;
    let mut server = start(open);
    let mut client = logged_in(&server, "anna@example.org").await;
    send(&mut client, &["x@elsewhere.example"], SIMPLE, "250 2.0.0 ").await;
    let arrived = server.arrived().await;
    assert_eq!(arrived.content, SIMPLE);
    assert!(arrived.trace.contains("from laptop.home.example ([127.0.0.1])"), "{}", arrived.trace);
    assert!(!arrived.trace.contains("Date:"));
}

#[tokio::test]
async fn an_account_sends_as_itself_only() {
    let mut server = start(settings());
    let mut client = logged_in(&server, "anna@example.org").await;
    let reply = client.ask("MAIL FROM:<boss@example.org>\r\n", "550 5.7.1 ").await;
    assert!(reply.contains("anna@example.org, which may send as anna@example.org"), "{reply}");
    for (header, expected) in [
        ("From: boss@example.org", "550 5.7.1 "),
        ("From: anna@example.org\r\nSender: boss@example.org", "550 5.7.1 "),
        ("From: anna@example.org, boss@example.org", "550 5.7.1 "),
        ("Subject: no author", "550 5.6.0 "),
        ("From: anna@example.org\r\nFrom: boss@example.org", "550 5.6.0 "),
    ] {
        let mut client = logged_in(&server, "anna@example.org").await;
        send(&mut client, &["x@elsewhere.example"], &format!("{header}\r\n\r\nbody\r\n"), expected).await;
        // Nothing but a header section.
        send(&mut client, &["x@elsewhere.example"], &format!("{header}\r\n"), expected).await;
    }
    assert!(server.nothing_arrived());
    assert_eq!(server.count(|m| &m.refused, "send_as"), 7);

    // Reports of reading have the null sender; the author is held against the account all the same.
    client.ask("MAIL FROM:<>\r\n", "250 ").await;
    client.ask("RCPT TO:<x@elsewhere.example>\r\n", "250 ").await;
    client.ask("DATA\r\n", "354 ").await;
    client.ask("From: boss@example.org\r\n\r\n.\r\n", "550 5.7.1 ").await;
    let mut strict = settings();
    strict.submission.null_sender = false;
    let server = start(strict);
    logged_in(&server, "anna@example.org").await.ask("MAIL FROM:<>\r\n", "550 5.7.1 ").await;
}

#[tokio::test]
async fn limits_say_when_there_is_room_again() {
    let mut settings = settings();
    settings.submission.limits.recipients_per_hour = 3;
    settings.submission.limits.messages_per_day = 2;
    let mut server = start(settings);
    let mut client = logged_in(&server, "anna@example.org").await;
    send(&mut client, &["a@x.example", "b@x.example"], SIMPLE, "250 ").await;
    client.ask("MAIL FROM:<anna@example.org>\r\n", "250 ").await;
    client.ask("RCPT TO:<a@x.example>\r\n", "250 ").await;
    let reply = client.ask("RCPT TO:<b@x.example>\r\n", "450 4.7.1 ").await;
    assert!(reply.contains("may send 3 recipients in an hour, try again after 20"), "{reply}");
    client.ask("DATA\r\n", "354 ").await;
    client.ask(&format!("{SIMPLE}.\r\n"), "250 ").await;
    client.ask("MAIL FROM:<anna@example.org>\r\n", "450 4.7.1 ").await;
    assert_eq!(server.arrived().await.envelope.recipients.len(), 2);
    assert_eq!(server.arrived().await.envelope.recipients.len(), 1);
    // Another account is not concerned.
    logged_in(&server, "bot").await.ask("MAIL FROM:<a@lists.example.org>\r\n", "250 ").await;
    let used = server.reception.account_use("anna@example.org").await.unwrap();
    assert_eq!((used.messages_day, used.recipients_hour), (2, 3));
}

#[tokio::test]
async fn limits_hold_for_all_sessions_together() {
    let mut settings = settings();
    settings.submission.limits.messages_per_hour = 1;
    let mut server = start(settings);
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let mut client = logged_in(&server, "anna@example.org").await;
        client.ask("MAIL FROM:<anna@example.org>\r\n", "250 ").await;
        client.ask("RCPT TO:<a@x.example>\r\n", "250 ").await;
        client.ask("DATA\r\n", "354 ").await;
        sessions.push(client);
    }
    for (at, client) in sessions.iter_mut().enumerate() {
        let expected = if at == 0 { "250 " } else { "450 4.7.1 " };
        client.ask(&format!("{SIMPLE}.\r\n"), expected).await;
    }
    server.arrived().await;
    assert!(server.nothing_arrived());
}

#[tokio::test]
async fn what_the_store_refuses_does_not_count() {
    let mut server = start(settings());
    let mut client = logged_in(&server, "anna@example.org").await;
    *server.inbox.submit_refusal.lock().unwrap() = Some(crate::testing::refused(false));
    send(&mut client, &["a@x.example"], SIMPLE, "452 ").await;
    *server.inbox.submit_refusal.lock().unwrap() = None;
    send(&mut client, &["a@x.example"], SIMPLE, "250 ").await;
    server.arrived().await;
    assert_eq!(server.reception.account_use("anna@example.org").await.unwrap().messages_day, 1);
}

#[tokio::test]
async fn a_spike_is_accepted_and_held_until_somebody_finds_it_right() {
    let mut settings = settings();
    settings.submission.spikes = Some(SpikeRule { floor: 2, factor: 2 });
    let mut server = start(settings);
    let mut client = logged_in(&server, "anna@example.org").await;
    for held in [false, false, true, true] {
        send(&mut client, &["a@x.example"], SIMPLE, "250 2.0.0 ").await;
        let arrived = server.arrived().await;
        assert_eq!(arrived.hold.is_some(), held);
    }
    let facts = server.facts.all();
    assert!(
        matches!(&facts[..], [Event::AccountHeld { account, recipients: 3, usual: 2 }] if account == "anna@example.org")
    );
    assert_eq!((server.metrics.accounts_held.get(), server.metrics.messages_held.get()), (1, 2));
    let act = Act { author: "root".to_owned(), reason: "a newsletter".to_owned(), at: SystemClock.now() };
    assert!(server.reception.release_account("anna@example.org", act.clone()).await.unwrap());
    assert!(!server.reception.release_account("anna@example.org", act).await.unwrap());
    send(&mut client, &["a@x.example"], SIMPLE, "250 2.0.0 ").await;
    assert_eq!(server.arrived().await.hold, None);
    assert_eq!(server.metrics.accounts_held.get(), 0);
}

#[tokio::test]
async fn who_guesses_is_stopped_and_the_owner_gets_in() {
    let mut settings = settings();
    settings.bans.failures = 6;
    let server = start(settings);
    let config = Arc::new(client(BOTH, None));
    let mut tries = 0;
    // A real client that goes on until it is not let in any more, three guesses on each connection.
    'attack: loop {
        let stream = Client::connect_from("127.0.0.9", server.address()).await.into_stream();
        let Ok(mut client) = Secure::over(stream, &config, "mx.example.org").await else { break };
        client.expect("220 ").await;
        client.ask("EHLO evil.example\r\n", "250-").await;
        for guess in 0..3 {
            let reply = client.ask(&plain("anna@example.org", &format!("guess{guess}")), "").await;
            tries += 1;
            assert!(tries < 20, "nobody stops it");
            if reply.starts_with("421 4.7.0 ") {
                assert!(client.is_over().await);
                continue 'attack;
            }
            assert!(reply.starts_with("535 5.7.8 "), "{reply}");
        }
    }
    assert_eq!(tries, 6);
    assert_eq!(server.count(|m| &m.connections_refused, "banned"), 1);
    assert!(matches!(&server.facts.all()[..], [Event::Banned { network, author: None, .. }] if network == "127.0.0.9"));
    let mut owner = logged_in(&server, "anna@example.org").await;
    owner.ask("MAIL FROM:<anna@example.org>\r\n", "250 ").await;

    let act = Act { author: "root".to_owned(), reason: "my fault".to_owned(), at: SystemClock.now() };
    assert!(server.reception.lift_ban("127.0.0.9".parse().unwrap(), act).await.unwrap());
    let stream = Client::connect_from("127.0.0.9", server.address()).await.into_stream();
    Secure::over(stream, &config, "mx.example.org").await.unwrap().expect("220 ").await;
}

#[tokio::test]
async fn a_banned_address_has_no_further_try_on_an_open_connection() {
    let mut settings = settings();
    settings.bans.failures = 1;
    let server = start(settings);
    let (mut one, mut other) = (greeted(&server).await, greeted(&server).await);
    one.ask(&plain("anna@example.org", "wrong"), "421 4.7.0 too many failed logins from 127.0.0.1").await;
    other.ask(&plain("anna@example.org", "pencil"), "421 4.7.0 ").await;
    assert!(other.is_over().await);
}

/// Asks this Dovecot.
pub fn asking(socket: &Path) -> Directory {
    let settings = DovecotSettings { socket: socket.to_owned(), users: None, timeout: Duration::from_secs(20) };
    let settings = directory::Settings::new(BackendSettings::Dovecot(settings), Secret::random());
    let directory = Directory::new(directory::Metrics::default());
    directory.configure(Some(settings)).unwrap();
    directory
}

/// A Dovecot that says the same to everybody: to `slow` not before it is told to.
pub fn saying(verdict: &'static str, socket: &Path, slow: Arc<tokio::sync::Notify>) {
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let slow = Arc::clone(&slow);
            tokio::spawn(async move {
                let (reading, mut writing) = stream.split();
                writing.write_all(b"VERSION\t1\t1\nMECH\tPLAIN\nDONE\n").await.unwrap();
                let mut lines = BufReader::new(reading).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let Some((_, message)) = line.split_once("\tresp=") else { continue };
                    if BASE64_STANDARD.decode(message).unwrap().starts_with(b"\0slow\0") {
                        slow.notified().await;
                    }
                    writing.write_all(format!("{verdict}\n").as_bytes()).await.unwrap();
                }
            });
        }
    });
}

#[tokio::test]
async fn how_long_a_password_takes_to_check_is_not_heard_in_the_refusal() {
    const DELAY: Duration = Duration::from_millis(1200);
    let folder = tempfile::tempdir().unwrap();
    let slow = Arc::new(tokio::sync::Notify::new());
    let mut settings = settings();
    (settings.bans.delay, settings.bans.delay_most) = (DELAY, DELAY);
    let socket = folder.path().join("socket");
    saying("FAIL\t1", &socket, Arc::clone(&slow));
    let server = Server::start_with(settings, asking(&socket));
    let (mut one, mut other) = (greeted(&server).await, greeted(&server).await);
    let order = std::sync::Mutex::new(Vec::new());
    let first = async {
        one.ask(&plain("slow", "x"), "535 ").await;
        order.lock().unwrap().push("slow");
    };
    let second = async {
        tokio::time::sleep(DELAY / 2).await;
        other.ask(&plain("quick", "x"), "535 ").await;
        order.lock().unwrap().push("quick");
    };
    // When its verdict comes, the delay of the first is over; that of the second lasts for half of it.
    let verdict = async {
        tokio::time::sleep(DELAY).await;
        slow.notify_one();
    };
    tokio::join!(first, second, verdict);
    assert_eq!(order.into_inner().unwrap(), ["slow", "quick"]);
}

#[tokio::test]
async fn a_session_has_five_guesses_and_the_spared_are_never_banned() {
    let mut settings = settings();
    settings.bans.failures = 1;
    settings.bans.spared = ["127.0.0.0/8".parse().unwrap()].into_iter().collect();
    let server = start(settings);
    for _ in 0..2 {
        let mut client = greeted(&server).await;
        for _ in 0..4 {
            client.ask(&plain("anna@example.org", "wrong"), "535 ").await;
        }
        client.ask(&plain("anna@example.org", "wrong"), "421 4.7.0 ").await;
    }
    logged_in(&server, "anna@example.org").await;
}

#[tokio::test]
async fn an_account_that_is_shut_out_ends_its_open_sessions_and_one_that_changes_keeps_them() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(settings(), accounts_in(folder.path()));
    let (mut bot, mut anna) = (logged_in(&server, "bot").await, logged_in(&server, "anna@example.org").await);
    anna.ask("MAIL FROM:<anna@example.org>\r\n", "250 ").await;
    bot.ask("MAIL FROM:<a@new.example.org>\r\n", "550 5.7.1 ").await;
    let mut file = AccountsFile::open(&folder.path().join("accounts.toml")).unwrap();
    file.set_disabled("anna@example.org", true).unwrap();
    file.change("bot").unwrap().send_as = Some(SendAs::parse(["*@new.example.org"]).unwrap());
    file.save(None).unwrap();
    // It is asked again with the next message, every two seconds at most.
    let mut told = String::new();
    while !told.starts_with("421") {
        tokio::time::sleep(Duration::from_millis(100)).await;
        anna.ask("RSET\r\n", "250 ").await;
        told = anna.ask("MAIL FROM:<anna@example.org>\r\n", "").await;
    }
    assert!(told.starts_with("421 4.7.0 anna@example.org must log in again"), "{told}");
    assert!(anna.is_over().await);
    bot.ask("MAIL FROM:<a@new.example.org>\r\n", "250 ").await;
    let mut again = greeted(&server).await;
    again.ask(&plain("anna@example.org", "pencil"), "535 5.7.13 ").await;
}

#[tokio::test]
async fn a_ban_by_hand_ends_sessions_that_are_open() {
    let server = start(settings());
    let (mut known, mut new) = (logged_in(&server, "anna@example.org").await, greeted(&server).await);
    let relay = Server::start(plain_settings());
    let mut other = relay.connect().await.greeted().await;
    let act = || Act { author: "root".to_owned(), reason: "spam".to_owned(), at: SystemClock.now() };
    for reception in [&server.reception, &relay.reception] {
        reception.ban("127.0.0.1".parse().unwrap(), None, act()).await.unwrap();
    }
    known.ask("MAIL FROM:<anna@example.org>\r\n", "421 4.7.1 127.0.0.1 is refused here").await;
    new.ask(&plain("anna@example.org", "pencil"), "421 4.7.1 ").await;
    assert!(known.is_over().await && new.is_over().await);
    other.ask("MAIL FROM:<a@b.example>", "421 4.7.1 ").await;
    other.expect_end().await;
    assert_eq!((server.count(|m| &m.refused, "banned"), relay.count(|m| &m.refused, "banned")), (2, 1));
}

#[tokio::test]
async fn who_is_banned_by_hand_is_refused_everywhere() {
    let server = Server::start(plain_settings());
    let act = || Act { author: "root".to_owned(), reason: "spam".to_owned(), at: SystemClock.now() };
    server.reception.ban("127.0.0.4/31".parse().unwrap(), None, act()).await.unwrap();
    assert!(server.reception.ban("0.0.0.0/1".parse().unwrap(), None, act()).await.is_err());
    let mut banned = Client::connect_from("127.0.0.5", server.address()).await;
    banned.expect("554 5.7.1 127.0.0.5 is refused here").await;
    banned.expect_end().await;
    Client::connect_from("127.0.0.6", server.address()).await.expect("220 ").await;
    let bans = server.reception.bans();
    assert_eq!((bans.len(), bans[0].network.as_str(), bans[0].ban.until), (1, "127.0.0.4/31", None));
    let hour = Some(Duration::from_secs(3600));
    server.reception.ban("127.0.0.4/31".parse().unwrap(), hour, act()).await.unwrap();
    assert!(server.reception.bans()[0].ban.until.is_some());
}

#[tokio::test]
async fn bans_and_counts_outlive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut strict = settings();
    strict.bans.failures = 1;
    strict.submission.limits.messages_per_hour = 1;
    let tables = store::Tables::open(folder.path()).unwrap();
    let mut server = start(strict.clone());
    server.reception.remember(tables.clone()).await.unwrap();
    send(&mut logged_in(&server, "anna@example.org").await, &["a@x.example"], SIMPLE, "250 ").await;
    server.arrived().await;
    greeted(&server).await.ask(&plain("anna@example.org", "wrong"), "421 ").await;
    server.drain(Duration::ZERO).await;
    drop(server);
    tables.close().await;

    let server = Server::start_with(strict, accounts());
    server.reception.remember(store::Tables::open(folder.path()).unwrap()).await.unwrap();
    assert!(Secure::connect(&server, &Arc::new(client(BOTH, None))).await.is_err(), "the ban is remembered");
    let act = Act { author: "root".to_owned(), reason: "test".to_owned(), at: SystemClock.now() };
    server.reception.lift_ban("127.0.0.1".parse().unwrap(), act).await.unwrap();
    let mut client = logged_in(&server, "anna@example.org").await;
    client.ask("MAIL FROM:<anna@example.org>\r\n", "450 4.7.1 ").await;
}

#[tokio::test]
async fn a_certificate_stands_for_an_account() {
    let shown = made(&["anna@example.org"]);
    let sha256 = tls::PeerCertificate::of(&[der(&shown.0)]).unwrap().sha256;
    let mut settings = settings();
    let rule = |grant| ClientCertificates::new(vec![ClientRule { shown: Shown::Certificate(sha256), grant }]);
    let clients = rule(Grant { relay: false, account: Some("Anna@example.org".to_owned()) });
    let mut tls = implicit(AcceptorSettings { certificates: Ask::Optional, ..AcceptorSettings::default() });
    tls.clients = clients;
    settings.listeners[0].tls = Some(tls.clone());
    let mut server = start(settings.clone());
    let config = Arc::new(client(BOTH, Some(&shown)));
    let mut client = Secure::connect(&server, &config).await.unwrap();
    client.expect("220 ").await;
    let offered = client.ask("EHLO laptop.home.example\r\n", "250-").await;
    assert!(offered.contains("EXTERNAL"), "{offered}");
    client.ask("MAIL FROM:<boss@example.org>\r\n", "550 5.7.1 ").await;
    send(&mut client, &["a@x.example"], SIMPLE, "250 ").await;
    assert_eq!(server.arrived().await.envelope.account.as_deref(), Some("anna@example.org"));
    // The same by AUTH.
    let mut client = Secure::connect(&server, &config).await.unwrap();
    client.expect("220 ").await;
    client.ask("EHLO laptop.home.example\r\n", "250-").await;
    client.ask("AUTH EXTERNAL =\r\n", "235 ").await;

    // A certificate may also be good for relaying, without an account.
    tls.clients = rule(Grant { relay: true, account: None });
    settings.listeners[0].tls = Some(tls);
    settings.listeners[0].role = Role::Relay;
    settings.listeners[0].session.auth = AuthOffer::default();
    settings.listeners[0].relay.networks = Default::default();
    let server = start(settings);
    for (shows, expected) in [(Some(&shown), "250 "), (None, "550 5.7.1 ")] {
        let mut client = Secure::connect(&server, &Arc::new(crate::secure::client(BOTH, shows))).await.unwrap();
        client.expect("220 ").await;
        client.ask("EHLO relay.example\r\n", "250-").await;
        client.ask("MAIL FROM:<a@b.example>\r\n", "250 ").await;
        client.ask("RCPT TO:<a@elsewhere.example>\r\n", expected).await;
    }
}

fn der(pem: &str) -> rustls::pki_types::CertificateDer<'static> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[tokio::test]
async fn what_a_client_asks_of_delivery_is_in_the_envelope() {
    let mut server = start(settings());
    let mut client = logged_in(&server, "anna@example.org").await;
    client.ask("MAIL FROM:<anna@example.org> BY=3600;R MT-PRIORITY=3 HOLDFOR=600 REQUIRETLS\r\n", "250 ").await;
    client.ask("RCPT TO:<a@x.example>\r\n", "250 ").await;
    client.ask("DATA\r\n", "354 ").await;
    client.ask(&format!("TLS-Required: No\r\n{SIMPLE}.\r\n"), "250 ").await;
    let envelope = server.arrived().await.envelope;
    assert_eq!((envelope.priority, envelope.tls), (3, TlsDemand::Required));
    assert_eq!(envelope.release_at, Some(envelope.received_at + Duration::from_secs(600)));
    assert_eq!(envelope.deliver_by.unwrap().by, envelope.received_at + Duration::from_secs(3600));
    send(&mut client, &["a@x.example"], &format!("TLS-Required: No\r\n{SIMPLE}"), "250 ").await;
    assert_eq!(server.arrived().await.envelope.tls, TlsDemand::NotRequired);
    // Those who are not known ask for nothing.
    let server = Server::start(plain_settings());
    let mut stranger = server.connect().await.greeted().await;
    stranger.ask("MAIL FROM:<a@b.example> MT-PRIORITY=3", "555 ").await;
}

#[tokio::test]
async fn who_relays_with_an_account_is_held_against_it_and_altered_in_nothing() {
    let mut settings = settings();
    settings.listeners[0].role = Role::Relay;
    settings.listeners[0].session.auth.required = false;
    let mut server = start(settings);
    let mut client = logged_in(&server, "anna@example.org").await;
    let content = "Bcc: kept@x.example\r\nFrom: anna@example.org\r\n\r\nbody\r\n";
    send(&mut client, &["a@elsewhere.example"], content, "250 ").await;
    let arrived = server.arrived().await;
    assert_eq!(arrived.content, content);
    assert!(!arrived.trace.contains("Date:") && !arrived.trace.contains("Message-ID:"), "{}", arrived.trace);
    send(&mut client, &["a@elsewhere.example"], "From: boss@example.org\r\n\r\n", "550 5.7.1 ").await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    /// Relayed mail comes out octet by octet as it went in, whatever a submission would have changed; of submitted mail
    /// everything but the fields named Bcc.
    #[test]
    fn what_passes_is_not_altered(
        fields in proptest::collection::vec(("(Bcc|bCC|To|Subject|Resent-Bcc|X-Y)", "[ -~]{0,30}(\r\n [!-~]{1,9})?"), 0..6),
        body in proptest::collection::vec("[ -~]{0,60}", 0..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut seen = std::collections::HashSet::new();
        let fields: Vec<_> = fields.into_iter().filter(|(name, _)| name != "Subject" || seen.insert(name.clone())).collect();
        let text = |submitted: bool| {
            let mut text = "From: anna@example.org\r\n".to_owned();
            for (name, value) in &fields {
                if !submitted || !name.to_lowercase().ends_with("bcc") {
                    text.push_str(&format!("{name}:{value}\r\n"));
                }
            }
            text.push_str("\r\n");
            body.iter().for_each(|line| text.push_str(&format!("{line}\r\n")));
            text
        };
        runtime.block_on(async {
            for role in [Role::Relay, Role::Submission] {
                let mut settings = plain_settings();
                settings.listeners[0].role = role;
                let mut server = Server::start(settings);
                let mut client = server.connect().await.greeted().await.in_data().await;
                let stuffed = text(false).replace("\r\n.", "\r\n..");
                client.ask(&format!("{stuffed}."), "250 ").await;
                assert_eq!(server.arrived().await.content, text(false), "nobody submits it");
            }
            let mut server = start(settings());
            let mut client = logged_in(&server, "anna@example.org").await;
            send(&mut client, &["a@x.example"], &text(false).replace("\r\n.", "\r\n.."), "250 ").await;
            assert_eq!(server.arrived().await.content, text(true));
        });
    }
}
