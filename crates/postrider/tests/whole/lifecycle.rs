//! Start, restart, reload, drain, end.

use std::process::Command;

use crate::harness::{Postrider, Script, Setup, Sink, is_root, postrider};

const HELLO: &str = "Subject: hi\r\n\r\nhello\r\n";

#[test]
fn the_queue_survives_a_stop_and_a_kill() {
    let sink = Sink::scripted(Script { greeting: Some("421 4.3.2 not now".into()), ..Script::default() });
    let setup = Setup::to(&sink).table("[retry]\nfirst = \"1s\"\n[delivery]\nrest_first = \"1s\"\nrest_most = \"1s\"");
    let server = Postrider::start(&setup);
    server.client().send("a@example.org", &["one@example.net"], HELLO);
    server.stop();

    let server = Postrider::start(&setup);
    server.client().send("a@example.org", &["two@example.net"], HELLO);
    server.kill();

    sink.answer(Script::default());
    let server = Postrider::start(&setup);
    let mut to: Vec<String> = (0..2).flat_map(|_| sink.next().to).collect();
    to.sort();
    assert_eq!(to, ["one@example.net", "two@example.net"]);
    server.stop();
}

#[test]
fn memory_does_not_get_to_the_disk() {
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink));
    let facts = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", server.pid())).expect("Linux tells");
    let limits = facts("limits");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // The system shows it as root's if nobody else may look into it, whoever it runs as.
    use std::os::unix::fs::MetadataExt;
    let shown = std::fs::metadata(format!("/proc/{}/mem", server.pid())).expect("Linux tells");
    assert_eq!(shown.uid(), 0);
}

#[test]
fn a_certificate_that_has_expired_is_told_in_log_and_metrics() {
    let setup = Setup::new();
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["mx.test".to_owned()]).expect("a name");
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    let chain = params.self_signed(&key).expect("a certificate").pem();
    let file = |name: &str, text: String| {
        let path = setup.folder().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (chain, key) = (file("chain.pem", chain), file("key.pem", key.serialize_pem()));
    let setup = setup.table(&format!("[[certificate]]\nchain = \"{chain}\"\nkey = \"{key}\""));
    let server = Postrider::start(&setup);
    let line = server.event("a certificate expires soon, or has expired");
    assert_eq!((line["level"].as_str(), line["name"].as_str()), (Some("warn"), Some("mx.test")), "{line}");
    let metrics = server.command(&["metrics"]).good();
    let left = "postrider_tls_certificate_expiry_seconds{name=\"mx.test\"} -";
    assert!(metrics.lines().any(|line| line.starts_with(left)), "{metrics}");
    server.stop();
}

#[test]
fn a_second_server_does_not_share_the_store() {
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink));
    let other = server.setup().elsewhere();
    let mut second = Postrider::launch(&other);
    let status = second.wait_exit();
    assert_eq!(status.code(), Some(1));
    assert!(second.log_text().contains("in use by another process"), "{}", second.log_text());
    server.command(&["status"]).good();
}

#[test]
fn a_reload_takes_all_or_nothing() {
    let (first, second) = (Sink::start(), Sink::start());
    let server = Postrider::start(&Setup::to(&first));
    server.client().send("a@example.org", &["one@example.net"], HELLO);
    assert_eq!(first.next().to, ["one@example.net"]);

    let setup = server.setup().instead().route("*", &second.address().to_string()).top("domain = [\"typo.test\"]");
    setup.write();
    server.signal("HUP");
    let refused = server.event("configuration not reloaded; the old one stays in force");
    assert!(refused["problems"].as_str().is_some_and(|problems| problems.contains("`domain`")), "{refused}");
    server.client().send("a@example.org", &["two@example.net"], HELLO);
    assert_eq!(first.next().to, ["two@example.net"]);

    server.setup().instead().route("*", &second.address().to_string()).write();
    server.signal("HUP");
    server.event("configuration reloaded");
    server.client().send("a@example.org", &["three@example.net"], HELLO);
    assert_eq!(second.next().to, ["three@example.net"]);
}

#[test]
fn a_reload_does_not_change_the_name() {
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink));
    let file = server.setup().config();
    let text = std::fs::read_to_string(&file).expect("the configuration");
    std::fs::write(&file, text.replace("mx.test", "other.test")).expect("our own file");
    server.signal("HUP");
    let refused = server.event("configuration not reloaded; the old one stays in force");
    let why = "the hostname cannot change from mx.test to other.test while the server runs; restart it";
    assert_eq!(refused["error"], why, "{refused}");
}

#[test]
fn a_reload_drops_no_connection() {
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink));
    let mut client = server.client();
    client.say("MAIL FROM:<a@example.org>", 250);
    server.signal("HUP");
    server.event("configuration reloaded");
    client.say("RCPT TO:<b@example.net>", 250);
    client.say("DATA", 354);
    client.write(HELLO.as_bytes());
    client.say(".", 250);
    assert_eq!(sink.next().to, ["b@example.net"]);
}

#[test]
fn a_stop_lets_open_transactions_finish() {
    let sink = Sink::start();
    let setup = Setup::to(&sink);
    let mut server = Postrider::start(&setup);
    let mut idle = server.client();
    let mut busy = server.client();
    busy.say("MAIL FROM:<a@example.org>", 250);
    busy.say("RCPT TO:<b@example.net>", 250);
    busy.say("DATA", 354);
    server.signal("TERM");
    idle.expect(421);
    busy.write(HELLO.as_bytes());
    busy.say(".", 250);
    assert!(server.wait_exit().success());

    // What came in last left with the next start, if not before.
    let server = Postrider::start(&setup);
    assert_eq!(sink.next().to, ["b@example.net"]);
    server.stop();
}

#[test]
fn a_stop_does_not_wait_for_ever() {
    let sink = Sink::scripted(Script { silent_at_end: true, ..Script::default() });
    let setup = Setup::to(&sink).top("drain = \"200ms\"");
    let mut server = Postrider::start(&setup);
    server.client().send("a@example.org", &["b@example.net"], HELLO);
    let mut stuck = server.client();
    stuck.say("MAIL FROM:<a@example.org>", 250);
    stuck.say("RCPT TO:<b@example.net>", 250);
    stuck.say("DATA", 354);
    server.signal("TERM");
    stuck.expect(421);
    assert!(server.wait_exit().success(), "{}", server.log_text());

    sink.answer(Script::default());
    let server = Postrider::start(&setup);
    assert_eq!(sink.next().to, ["b@example.net"]);
    server.stop();
}

#[test]
fn a_taken_port_is_told_with_the_cure() {
    let sink = Sink::start();
    let setup = Setup::to(&sink);
    let _taken = std::net::TcpListener::bind(setup.address).expect("our own address");
    let mut server = Postrider::launch(&setup);
    assert_eq!(server.wait_exit().code(), Some(1));
    let log = server.log_text();
    assert!(log.contains("cannot listen at") && log.contains("another server listens there"), "{log}");
}

#[test]
fn it_does_not_serve_as_root() {
    if !is_root() {
        return;
    }
    let setup = Setup::new().staying_root();
    setup.write();
    let config = setup.config();
    let err = postrider(&["serve", "--config", config.to_str().expect("text")]).bad(1);
    assert!(err.contains("refusing to serve as root") && err.contains("user = \"postrider\""), "{err}");
}

#[test]
fn systemd_is_told() {
    use std::os::unix::net::UnixDatagram;
    let sink = Sink::start();
    let setup = Setup::to(&sink);
    setup.write();
    let notify = setup.folder().join("notify");
    let socket = UnixDatagram::bind(&notify).expect("a socket");
    socket.set_read_timeout(Some(crate::harness::PATIENCE)).expect("a socket");
    crate::harness::open_to_everybody(&notify, 0o777);
    let mut command = Command::new(crate::harness::binary());
    command.arg("serve").arg("--config").arg(setup.config());
    command.env("NOTIFY_SOCKET", &notify).env("WATCHDOG_USEC", "200000");
    let mut server = Postrider::run(command, &setup);
    let said = |wanted: &str| {
        let mut buffer = [0; 4096];
        loop {
            let length = socket.recv(&mut buffer).expect("systemd is told in time");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains(wanted) {
                return text;
            }
        }
    };
    let ready = said("READY=1");
    assert!(ready.contains(&format!("STATUS=listening on {}", setup.address)), "{ready}");
    said("WATCHDOG=1");
    server.signal("HUP");
    assert!(said("RELOADING=1").contains("MONOTONIC_USEC="));
    said("READY=1");
    server.signal("TERM");
    said("STOPPING=1");
    assert!(server.wait_exit().success());
}

#[test]
fn systemd_hands_over_sockets() {
    use std::os::fd::OwnedFd;
    let sink = Sink::start();
    let setup = Setup::to(&sink);
    setup.write();
    // While it lives nobody else can bind the address: the server must take this one.
    let listener = std::net::TcpListener::bind(setup.address).expect("our own address");
    let mut command = Command::new("sh");
    command.arg("-c").arg("exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" serve --config \"$1\"");
    command.arg(crate::harness::binary()).arg(setup.config());
    command.stdin(std::process::Stdio::from(OwnedFd::from(listener.try_clone().expect("a socket"))));
    let server = Postrider::run(command, &setup);
    server.event("ready");
    server.client().send("a@example.org", &["b@example.net"], HELLO);
    assert_eq!(sink.next().to, ["b@example.net"]);
    server.stop();
}

#[test]
fn it_becomes_its_user_for_good() {
    if !is_root() {
        return;
    }
    let sink = Sink::start();
    let server = Postrider::start(&Setup::to(&sink));
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the process lives");
    for key in ["Uid:", "Gid:"] {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel tells");
        // Real, effective, saved and that of the file system: none is left to go back to.
        assert!(line.split_whitespace().all(|id| id != "0"), "{key}{line}");
    }
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).expect("the kernel tells");
    assert!(groups.split_whitespace().all(|id| id != "0"), "{groups}");
}
