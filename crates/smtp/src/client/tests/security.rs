//! What comes before the first transaction: STARTTLS, AUTH, and what messages need of the peer.

use mail::{ByMode, TlsFacts, TlsVersion, Verified};
use proptest::prelude::*;

use super::*;
use crate::params::DeliverBy;

/// `S:` lines go to the client, `|` between those of one segment; `C:` lines must come from it, `E:` is the next event.
/// What the driver does: `tls` (the handshake), `clear`, `auth MECHANISM initial`, `answer text`, `abort`, `begin`, `quit`,
/// `late`. Each script is played with whole segments and octet by octet.
fn play(security: Security, script: &str) {
    play_in(usize::MAX, security, script);
    play_in(1, security, script);
}

fn play_in(step: usize, security: Security, script: &str) {
    let mut play = Play::new(security, script);
    script.lines().for_each(|line| play.line(line.trim_start(), step));
    assert!(play.said.is_empty(), "{:?} is left over from\n{script}", play.said);
    assert_eq!(play.connection.next_event(), None, "in\n{script}");
}

struct Play<'a> {
    connection: Connection,
    input: BytesMut,
    said: BytesMut,
    now: Instant,
    script: &'a str,
}

impl<'a> Play<'a> {
    fn new(security: Security, script: &'a str) -> Self {
        let now = Instant::now();
        let name = Domain::parse("us.example").unwrap();
        let connection = Connection::new(Protocol::Smtp, name, Timeouts::default(), now).with_security(security);
        Self { connection, input: BytesMut::new(), said: BytesMut::new(), now, script }
    }

    fn line(&mut self, line: &str, step: usize) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let now = self.now;
        match word {
            "S:" => return self.hear(rest, step),
            "C:" => {
                let said = take_line(&mut self.said);
                return assert_eq!(said.as_deref(), Some(rest), "in\n{}", self.script);
            }
            "E:" => {
                let event = self.connection.next_event().map(|event| told(&event));
                return assert_eq!(event.as_deref(), Some(rest), "in\n{}", self.script);
            }
            "tls" => {
                self.connection.secured(facts(), now);
                assert_eq!(*self.connection.offered(), crate::extensions::Extensions::default());
            }
            "clear" => self.connection.go_on_in_clear(now),
            "auth" => {
                let (mechanism, initial) = rest.split_once(' ').unwrap_or((rest, "-"));
                let initial = (initial != "-").then_some(initial.as_bytes());
                self.connection.auth(mechanism, initial, now);
            }
            "answer" => self.connection.auth_response(rest.as_bytes(), now),
            "abort" => self.connection.auth_abort(now),
            "begin" => self.connection.begin(transaction(&["a@x.example"]), now).unwrap(),
            "quit" => self.connection.quit(now),
            "late" => {
                let deadline = self.connection.deadline().expect("something is awaited");
                self.connection.expire(deadline);
            }
            "" => return,
            _ => panic!("what is {line:?}?"),
        }
        let output = self.connection.take_output(now);
        self.said.extend_from_slice(&output);
    }

    fn hear(&mut self, replies: &str, step: usize) {
        assert!(self.said.is_empty(), "{:?} is not in\n{}", self.said, self.script);
        let wire: Vec<u8> = replies.split('|').flat_map(|reply| format!("{reply}\r\n").into_bytes()).collect();
        for piece in wire.chunks(step.min(wire.len())) {
            self.input.extend_from_slice(piece);
            self.connection.receive(&mut self.input, self.now);
        }
        let output = self.connection.take_output(self.now);
        self.said.extend_from_slice(&output);
    }
}

fn facts() -> TlsFacts {
    TlsFacts { version: TlsVersion::V1_3, cipher: "TLS_AES_256_GCM_SHA384".into(), verified: Verified::No }
}

fn told(event: &Event) -> String {
    match event {
        Event::NoTls(why) => format!("no tls: {}", why.reply().0),
        Event::Authenticate(mechanisms) => format!("authenticate {}", mechanisms.join(" ")),
        Event::AuthChallenge(message) => format!("challenge {}", String::from_utf8_lossy(message)),
        Event::AuthFailed(why) => format!("auth failed: {}", why.reply().0),
        Event::Done(_) => "done".into(),
        Event::Closed(closed) => format!("closed: {}", closed.reply().0),
        Event::StartTls => "starttls".into(),
        Event::SendContent => "content".into(),
        Event::Ready => "ready".into(),
    }
}

const MAY: Security = Security { tls: Tls::Opportunistic, credentials: false };
const MUST: Security = Security { tls: Tls::Required, credentials: false };
const LOGIN: Security = Security { tls: Tls::Required, credentials: true };

const OFFERED: &str = "S: 220 mx
C: EHLO us.example
S: 250-mx|250-AUTH GSSAPI|250-SIZE 1|250 STARTTLS
C: STARTTLS
";

#[test]
fn nothing_from_before_tls_counts() {
    // In clear the peer had offered SIZE 1, into which the message would not fit, and no PIPELINING.
    let rest = "S: 220 go
        E: starttls
        tls
        C: EHLO us.example
        S: 250-mx|250 PIPELINING
        E: ready
        begin
        C: MAIL FROM:<s@us.example>
        C: RCPT TO:<a@x.example>
        C: DATA";
    for security in [MAY, MUST] {
        play(security, &[OFFERED, rest].concat());
    }
}

#[test]
fn words_behind_the_consent_are_the_end() {
    // CVE-2011-0411 the other way round: replies in clear that would be taken for those from inside TLS.
    for words in ["250-mx", "250 PIPELINING", "2", ""] {
        let script = format!(
            "{OFFERED}S: 220 go|{words}
             E: closed: 451 4.5.0 the next host does not speak the protocol: words in clear behind the consent to STARTTLS"
        );
        play_in(usize::MAX, MAY, &script);
    }
}

#[test]
fn words_before_the_handshake_are_the_end_too() {
    let script = format!(
        "{OFFERED}S: 220 go
         E: starttls
         S: 250 mx
         E: closed: 451 4.5.0 the next host does not speak the protocol: words in clear behind the consent to STARTTLS"
    );
    play(MAY, &script);
}

#[test]
fn starttls_is_not_asked_for_unless_it_is_wanted() {
    play(Security::default(), "S: 220 mx\nC: EHLO us.example\nS: 250-mx|250 STARTTLS\nE: ready");
}

#[test]
fn without_tls_the_driver_decides() {
    let not_offered = "S: 220 mx
        C: EHLO us.example
        S: 250 mx
        E: no tls: 450 4.7.10 the next host does not offer STARTTLS
        ";
    let by_helo = "S: 220 mx
        C: EHLO us.example
        S: 500 what
        C: HELO us.example
        S: 250 mx
        E: no tls: 450 4.7.10 the next host does not offer STARTTLS
        ";
    let refused = [OFFERED, "S: 454 4.7.0 not now\nE: no tls: 454 4.7.0 not now\n"].concat();
    // Neither a yes nor a no: nobody knows what the peer awaits now.
    let unclear = [OFFERED, "S: 250 ok\nE: no tls: 450 4.7.10 the next host does not offer STARTTLS\n"].concat();
    for start in [not_offered, by_helo, &refused, &unclear] {
        play(MAY, &[start, "clear\nE: ready\nquit\nC: QUIT\n"].concat());
        play(MUST, &[start, "quit\nC: QUIT\nS: 221 bye\nE: closed: 421 4.4.2 the connection was closed"].concat());
    }
    let required = "clear\nE: closed: 450 4.7.10 the next host does not offer STARTTLS";
    play(MUST, &[not_offered, required].concat());
    play(MUST, &[refused.as_str(), "clear\nE: closed: 454 4.7.0 not now"].concat());
    play(MAY, &[OFFERED, "S: 421 busy\nE: closed: 421 busy"].concat());
    play(MAY, &[OFFERED, "late\nE: closed: 421 4.4.2 timed out while waiting for the reply to STARTTLS"].concat());
}

#[test]
fn a_handshake_has_its_time() {
    let end = "S: 220 go\nE: starttls\nlate\nE: closed: 421 4.4.2 timed out during the handshake of TLS";
    play(MAY, &[OFFERED, end].concat());
}

const INSIDE: &str = "S: 220 mx
C: EHLO us.example
S: 250-mx|250 STARTTLS
C: STARTTLS
S: 220 go
E: starttls
tls
C: EHLO us.example
S: 250-mx|250-PIPELINING|250 AUTH PLAIN LOGIN SCRAM-SHA-256
E: authenticate PLAIN LOGIN SCRAM-SHA-256
";

#[test]
fn credentials_are_given_inside_tls_only() {
    let clear = "S: 220 mx
        C: EHLO us.example
        S: 250-mx|250 AUTH PLAIN
        E: no tls: 450 4.7.10 the next host does not offer STARTTLS
        clear
        E: auth failed: 454 4.7.0 the next host wants authentication, and the line is not encrypted
        auth PLAIN x
        quit
        C: QUIT";
    play(Security { tls: Tls::Opportunistic, credentials: true }, clear);
    let never = "S: 220 mx
        C: EHLO us.example
        S: 250-mx|250 AUTH PLAIN
        E: auth failed: 454 4.7.0 the next host wants authentication, and the line is not encrypted";
    play(Security { tls: Tls::Never, credentials: true }, never);
}

#[test]
fn an_account_is_proven_and_told_of_with_each_message() {
    // Base64 of "x y"; an empty initial response is an equals sign, none is nothing.
    let plain = "auth PLAIN x y
        C: AUTH PLAIN eCB5
        S: 235 2.7.0 welcome
        E: ready
        begin
        C: MAIL FROM:<s@us.example> AUTH=<>
        C: RCPT TO:<a@x.example>
        C: DATA";
    play(LOGIN, &[INSIDE, plain].concat());
    play(LOGIN, &[INSIDE, "auth EXTERNAL \nC: AUTH EXTERNAL =\nS: 235 ok\nE: ready"].concat());
    let login = "auth LOGIN
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        E: challenge Username:
        answer joe
        C: am9l
        S: 334 
        E: challenge 
        answer 
        C: 
        S: 235 2.7.0 welcome
        E: ready";
    play(LOGIN, &[INSIDE, login].concat());
}

#[test]
fn refusals_and_challenges_that_are_none() {
    let refused = "auth PLAIN x
        C: AUTH PLAIN eA==
        S: 535 5.7.8 no
        E: auth failed: 535 5.7.8 no
        quit
        C: QUIT";
    play(LOGIN, &[INSIDE, refused].concat());
    let aborted = "auth LOGIN
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        E: challenge Username:
        abort
        C: *
        S: 501 5.7.0 cancelled
        E: auth failed: 454 4.7.0 authentication with the next host was cancelled";
    play(LOGIN, &[INSIDE, aborted].concat());
    for nonsense in ["334 what?", "334-eA==|334 eA==", &format!("334 {}", "A".repeat(600))] {
        let script = format!(
            "{INSIDE}auth LOGIN
             C: AUTH LOGIN
             S: {nonsense}
             C: *
             S: 501 5.7.0 cancelled
             E: auth failed: 454 4.7.0 authentication with the next host was cancelled"
        );
        play(LOGIN, &script);
    }
    let not_offered = INSIDE.replace("250 AUTH PLAIN LOGIN SCRAM-SHA-256", "250 DSN");
    let not_offered = not_offered
        .replace("authenticate PLAIN LOGIN SCRAM-SHA-256", "auth failed: 454 4.7.0 the next host does not offer AUTH");
    play(LOGIN, &not_offered);
    let late = "auth LOGIN\nC: AUTH LOGIN\nlate\nE: closed: 421 4.4.2 timed out while waiting for the reply to AUTH";
    play(LOGIN, &[INSIDE, late].concat());
}

#[test]
fn an_exchange_out_of_step_is_the_end() {
    let closed = |what: &str| format!("E: closed: 451 4.5.0 the next host does not speak the protocol: {what}");
    let early = format!(
        "{INSIDE}auth LOGIN
         C: AUTH LOGIN
         S: 334 VXNlcm5hbWU6|235 welcome
         E: challenge Username:
         {}",
        closed("a reply out of turn to AUTH")
    );
    play(LOGIN, &early);
    let after_all = format!(
        "{INSIDE}auth LOGIN
         C: AUTH LOGIN
         S: 334 VXNlcm5hbWU6
         E: challenge Username:
         abort
         C: *
         S: 235 welcome
         {}",
        closed("a yes to an AUTH that was cancelled")
    );
    play(LOGIN, &after_all);
    play(LOGIN, &format!("{INSIDE}S: 250 hello\n{}", closed("a reply that nothing had asked for")));
}

#[test]
fn challenges_come_to_an_end() {
    let round = "S: 334 eA==\nE: challenge x\nanswer y\nC: eQ==\n".repeat(16);
    let script = format!(
        "{INSIDE}auth LOGIN
         C: AUTH LOGIN
         {round}S: 334 eA==
         C: *
         S: 501 stop
         E: auth failed: 454 4.7.0 authentication with the next host was cancelled"
    );
    play(LOGIN, &script);
}

#[test]
fn implicit_tls_is_tls() {
    let now = Instant::now();
    let name = Domain::parse("us.example").unwrap();
    let mut connection = Connection::new(Protocol::Smtp, name, Timeouts::default(), now).with_security(LOGIN);
    connection.secured_from_start(facts());
    connection.receive(&mut BytesMut::from("220 mx\r\n250-mx\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n"), now);
    assert_eq!(connection.next_event(), Some(Event::Authenticate(vec!["PLAIN".into()])));
    assert_eq!(connection.tls(), Some(&facts()));
    assert_eq!(&connection.take_output(now)[..], b"EHLO us.example\r\n");
}

#[test]
fn credentials_are_not_printed() {
    let event = Event::AuthChallenge(b"nonce".to_vec().into());
    assert_eq!(format!("{event:?}"), "AuthChallenge(Secret(5 octets))");
    let mut play = Play::new(LOGIN, INSIDE);
    INSIDE.lines().for_each(|line| play.line(line, usize::MAX));
    play.connection.auth("PLAIN", Some(b"secret"), play.now);
    assert!(!format!("{:?}", play.connection).contains("c2VjcmV0"));
}

/// The MAIL line of a transaction that asks for this, to a peer that offers that inside TLS; or why there is none.
fn mail_line(asks: Asks, offers: &str, secure: bool) -> Result<String, Shortfall> {
    let now = Instant::now();
    let name = Domain::parse("us.example").unwrap();
    let mut connection = Connection::new(Protocol::Smtp, name, Timeouts::default(), now);
    if secure {
        connection.secured_from_start(facts());
    }
    connection.receive(&mut BytesMut::from(format!("220 mx\r\n250-mx\r\n{offers}250 DSN\r\n").as_str()), now);
    assert_eq!(connection.next_event(), Some(Event::Ready));
    connection.take_output(now);
    connection.begin(Transaction { asks, ..transaction(&["a@x.example"]) }, now)?;
    let said = String::from_utf8(connection.take_output(now).to_vec()).unwrap();
    Ok(said.trim_end().trim_start_matches("MAIL FROM:<s@us.example>").to_owned())
}

#[test]
fn requests_go_along_where_they_are_offered() {
    let by = |seconds, mode| Some(DeliverBy { seconds, mode, trace: false });
    let all =
        Asks { require_tls: RequireTls::Always, deliver_by: by(60, ByMode::Return), priority: -3, ..Asks::default() };
    let offers = "250-REQUIRETLS\r\n250-DELIVERBY 60\r\n250-MT-PRIORITY\r\n";
    assert_eq!(mail_line(all.clone(), offers, true).unwrap(), " REQUIRETLS BY=60;R MT-PRIORITY=-3");
    // Whoever offers REQUIRETLS in clear has not understood it.
    assert_eq!(mail_line(all.clone(), offers, false), Err(Shortfall::RequireTls));
    assert_eq!(mail_line(all.clone(), "250-DELIVERBY\r\n", true), Err(Shortfall::RequireTls));
    let tls = Asks { deliver_by: None, ..all.clone() };
    assert_eq!(mail_line(tls, "250-REQUIRETLS\r\n", true).unwrap(), " REQUIRETLS");
    let time = Asks { require_tls: RequireTls::No, ..all };
    assert_eq!(mail_line(time.clone(), "250-DELIVERBY\r\n", false).unwrap(), " BY=60;R");
    assert_eq!(mail_line(time.clone(), "", true), Err(Shortfall::DeliverBy));
    let least = Shortfall::DeliverByTime { left: 60, least: 61 };
    assert_eq!(mail_line(time, "250-DELIVERBY 61\r\n", true), Err(least));
    // What is only to be reported goes on whatever the peer knows of it, and however late it is.
    let late = Asks { deliver_by: by(-5, ByMode::Notify), ..Asks::default() };
    assert_eq!(mail_line(late.clone(), "250-DELIVERBY 61\r\n", true).unwrap(), " BY=-5;N");
    assert_eq!(mail_line(late, "", true).unwrap(), "");
}

#[test]
fn what_is_not_offered_has_a_reply_of_its_own() {
    assert!(Shortfall::RequireTls.fault().reply.to_string().starts_with("550 5.7.30 "));
    assert!(Shortfall::DeliverBy.fault().reply.to_string().starts_with("554 5.4.7 "));
}

/// What servers say, or might.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let said = prop_oneof![
        3 => Just("220 mx\r\n".to_owned()),
        4 => "250-mx\r\n(250-(STARTTLS|SIZE 9|REQUIRETLS|AUTH PLAIN LOGIN|AUTH=PLAIN)\r\n){0,4}250 DSN\r\n",
        2 => "334 (eA==|[A-Za-z0-9+/=]{0,12})\r\n",
        2 => "(235|250|354|421|454|501|535|550)( [245]\\.7\\.[0-9])? [ -~]{0,9}\r\n",
        1 => "[ -~]{0,20}\r\n",
    ];
    prop_oneof![8 => said.prop_map(String::into_bytes), 1 => proptest::collection::vec(any::<u8>(), 0..20)]
}

/// What is said and what happens in a conversation with a driver that takes part in everything.
fn converse(security: Security, replies: &[Vec<u8>], cut: usize) -> (Vec<u8>, Vec<String>) {
    let mut play = Play::new(security, "");
    let mut events = Vec::new();
    for reply in replies {
        for piece in reply.chunks(cut) {
            play.input.extend_from_slice(piece);
            play.connection.receive(&mut play.input, play.now);
        }
        while let Some(event) = play.connection.next_event() {
            events.push(told(&event));
            assert!(events.len() < 1000, "a conversation comes to rest");
            let (connection, now) = (&mut play.connection, play.now);
            match event {
                Event::StartTls => connection.secured(facts(), now),
                Event::NoTls(_) => connection.go_on_in_clear(now),
                Event::Authenticate(mechanisms) => connection.auth(&mechanisms[0], Some(b"secret"), now),
                Event::AuthChallenge(message) if message.is_empty() => connection.auth_abort(now),
                Event::AuthChallenge(_) => connection.auth_response(b"secret", now),
                Event::AuthFailed(_) => connection.quit(now),
                Event::Ready => assert!(connection.is_authenticated() || !security.credentials),
                _ => {}
            }
        }
        let said = play.connection.take_output(play.now);
        play.said.extend_from_slice(&said);
        // Base64 of "secret", as far as any padding lets it be known.
        let told = play.said.windows(7).any(|octets| octets == b"c2VjcmV");
        assert!(play.connection.tls().is_some() || !told, "credentials in clear");
    }
    (play.said.to_vec(), events)
}

proptest::proptest! {
    #[test]
    fn any_server_is_survived_and_no_cut_changes_anything(
        replies in proptest::collection::vec(reply(), 0..12),
        must in any::<bool>(),
        credentials in any::<bool>(),
        cut in 1..30_usize,
    ) {
        let security = Security { tls: if must { Tls::Required } else { Tls::Opportunistic }, credentials };
        let whole = converse(security, &replies, usize::MAX);
        prop_assert_eq!(&converse(security, &replies, cut), &whole);
        prop_assert_eq!(&converse(security, &replies, 1), &whole);
        prop_assert!(whole.0.is_empty() || whole.0.ends_with(b"\r\n"));
    }
}
