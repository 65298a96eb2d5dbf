//! Mail from people: the programs that they use log in by each mechanism that they have, on 587 and on 465; and those who
//! guess.

use std::process::Command;

use super::house::{House, PASSWORD};
use super::{run, tool, workspace};
use crate::harness::{Postrider, postrider};

#[test]
fn swaks_logs_in() {
    let Some(swaks) = tool("swaks") else { return };
    let house = House::open("");
    let mail = house.mail();
    for (address, tls) in [(house.starttls, "--tls"), (house.implicit, "--tls-on-connect")] {
        for mechanism in ["PLAIN", "LOGIN"] {
            run(Command::new(&swaks)
                .args(["--server", &address.ip().to_string(), "--port", &address.port().to_string(), tls])
                .args(["--auth", mechanism, "--auth-user", "anna@example.org", "--auth-password", PASSWORD])
                .args(["--from", "anna@example.org", "--to", "b@example.net", "--timeout", "20", "--data"])
                .arg(format!("@{}", mail.display())));
            house.arrived(mechanism);
        }
    }
}

#[test]
fn curl_logs_in() {
    let Some(curl) = tool("curl") else { return };
    let house = House::open("");
    let mail = house.mail();
    for (scheme, address) in [("smtp", house.starttls), ("smtps", house.implicit)] {
        for mechanism in ["PLAIN", "LOGIN"] {
            run(Command::new(&curl)
                .args(["--silent", "--show-error", "--insecure", "--ssl-reqd", "--max-time", "20"])
                .args([
                    "--url",
                    &format!("{scheme}://{address}/curl.test"),
                    "--login-options",
                    &format!("AUTH={mechanism}"),
                ])
                .args(["--user", &format!("anna@example.org:{PASSWORD}")])
                .args(["--mail-from", "anna@example.org", "--mail-rcpt", "b@example.net", "--upload-file"])
                .arg(&mail));
            house.arrived(mechanism);
        }
    }
}

const SMTPLIB: &str = r#"
import smtplib, ssl, sys
host, starttls, implicit, user, password, path = sys.argv[1:]
context = ssl._create_unverified_context()
mail = open(path, "rb").read()
for port in [starttls, implicit]:
    for mechanism in ["PLAIN", "LOGIN"]:
        if port == implicit:
            s = smtplib.SMTP_SSL(host, int(port), "python.test", timeout=20, context=context)
        else:
            s = smtplib.SMTP(host, int(port), "python.test", timeout=20)
            s.ehlo()
            assert not s.has_extn("auth") and s.has_extn("starttls")
            assert s.docmd("MAIL FROM:<anna@example.org>")[0] == 530
            s.starttls(context=context)
        s.ehlo()
        assert s.docmd("MAIL FROM:<anna@example.org>")[0] == 530
        s.user, s.password = user, password
        code, text = s.auth(mechanism, getattr(s, "auth_" + mechanism.lower()))
        assert code == 235, text
        try:
            s.sendmail("boss@example.org", ["b@example.net"], mail)
            sys.exit("anna is not the boss")
        except smtplib.SMTPSenderRefused as refused:
            assert refused.smtp_code == 550 and b"anna@example.org" in refused.smtp_error, refused
        assert s.sendmail("anna@example.org", ["b@example.net"], mail) == {}
        s.quit()
"#;

#[test]
fn python_smtplib_logs_in() {
    let Some(python) = tool("python3") else { return };
    let house = House::open("");
    let (starttls, implicit) = (house.starttls.port().to_string(), house.implicit.port().to_string());
    run(Command::new(python)
        .args(["-c", SMTPLIB, &house.starttls.ip().to_string(), &starttls, &implicit, "anna@example.org", PASSWORD])
        .arg(house.mail()));
    for mechanism in ["PLAIN", "LOGIN", "PLAIN", "LOGIN"] {
        house.arrived(mechanism);
    }
}

#[test]
fn msmtp_logs_in() {
    let Some(msmtp) = tool("msmtp") else { return };
    let house = House::open("");
    let mail = house.mail();
    for (address, starttls) in [(house.starttls, "on"), (house.implicit, "off")] {
        for mechanism in ["plain", "login", "scram-sha-256"] {
            let output = Command::new(&msmtp)
                .args(["--file=/dev/null", "--timeout=20", "--tls=on", "--tls-certcheck=off"])
                .args([&format!("--tls-starttls={starttls}"), &format!("--host={}", address.ip())])
                .args([&format!("--port={}", address.port()), &format!("--auth={mechanism}")])
                .args(["--user=anna@example.org", &format!("--passwordeval=printf '{PASSWORD}'")])
                .args(["--from=anna@example.org", "b@example.net"])
                .stdin(std::fs::File::open(&mail).expect("our file"))
                .output()
                .expect("msmtp runs");
            assert!(output.status.success(), "{mechanism}: {output:?}");
            house.arrived(&mechanism.to_uppercase());
        }
    }
}

/// gsasl only logs in; by -PLUS its proof is bound to the TLS 1.3 connection that both sides have.
#[test]
fn gsasl_logs_in_by_scram_bound_to_its_connection() {
    let Some(gsasl) = tool("gsasl") else { return };
    let house = House::open("");
    run(Command::new(&gsasl)
        .args(["--client", "--smtp", "--mechanism", "SCRAM-SHA-256-PLUS", "--authentication-id=anna@example.org"])
        .args([&format!("--password={PASSWORD}"), "--x509-ca-file="])
        .arg(format!("--connect={}:{}", house.starttls.ip(), house.starttls.port())));
    house.server.wait("the login", |line| line["event"] == "logged in" && line["mechanism"] == "SCRAM-SHA-256-PLUS");
    let shown = house.json(&["account", "show", "anna@example.org", "--json"]);
    assert!(shown[0]["last_use"]["from"].is_string(), "{shown:?}");
}

const NODEMAILER: &str = r#"
const nodemailer = require(process.argv[1]);
const [host, starttls, implicit, user, pass] = process.argv.slice(2);
(async () => {
  for (const [port, secure] of [[starttls, false], [implicit, true]]) {
    for (const authMethod of ["PLAIN", "LOGIN"]) {
      const transport = nodemailer.createTransport({
        host, port: Number(port), secure, requireTLS: !secure, authMethod,
        auth: { user, pass }, tls: { rejectUnauthorized: false }, connectionTimeout: 20000,
      });
      await transport.sendMail({ from: "Anna <anna@example.org>", to: "b@example.net", subject: "hi", text: "hello" });
      transport.close();
    }
  }
})().catch((error) => { console.error(error); process.exit(1); });
"#;

#[test]
fn nodemailer_logs_in() {
    let Some(node) = tool("node") else { return };
    let library = workspace().join("target/peers/nodemailer/node_modules/nodemailer");
    if !library.is_dir() {
        return crate::harness::skipped("Nodemailer is not in target/peers (./dev test puts it there)");
    }
    let house = House::open("");
    let (starttls, implicit) = (house.starttls.port().to_string(), house.implicit.port().to_string());
    let library = library.canonicalize().expect("a folder");
    run(Command::new(node).args(["-e", NODEMAILER, "--"]).arg(library).args([
        &house.starttls.ip().to_string(),
        &starttls,
        &implicit,
        "anna@example.org",
        PASSWORD,
    ]));
    for mechanism in ["PLAIN", "LOGIN", "PLAIN", "LOGIN"] {
        house.arrived(mechanism);
    }
}

/// Goes on until it is not let in any more, on new connections; tells how often it could try.
const GUESSES: &str = r#"
import smtplib, ssl, sys
host, port = sys.argv[1], int(sys.argv[2])
context = ssl._create_unverified_context()
tries = 0
while tries < 50:
    try:
        s = smtplib.SMTP_SSL(host, port, "evil.test", timeout=20, context=context, source_address=("127.9.9.9", 0))
        s.login("anna@example.org", "guess %d" % tries)
        sys.exit("it was let in")
    except smtplib.SMTPAuthenticationError as refused:
        tries += 1
        assert refused.smtp_code in (535, 421), refused
    except (OSError, smtplib.SMTPServerDisconnected):
        break
s = smtplib.SMTP_SSL(host, port, "home.test", timeout=20, context=context, source_address=("127.8.8.8", 0))
s.login("anna@example.org", sys.argv[3])
print(tries)
"#;

const SHUT_OUT: &str = r#"
import smtplib, ssl, sys
s = smtplib.SMTP_SSL(sys.argv[1], int(sys.argv[2]), "home.test", timeout=20, context=ssl._create_unverified_context(),
                     source_address=("127.8.8.8", 0))
try:
    s.login("anna@example.org", sys.argv[3])
    sys.exit("it was let in")
except smtplib.SMTPAuthenticationError as refused:
    assert refused.smtp_code == 535 and b"5.7.13" in refused.smtp_error, refused
"#;

const WRONG: &str = r#"
import smtplib, ssl, sys
s = smtplib.SMTP_SSL(sys.argv[1], int(sys.argv[2]), "home.test", timeout=20, context=ssl._create_unverified_context(),
                     source_address=("127.8.8.8", 0))
try:
    s.login("anna@example.org", "wrong")
    sys.exit("it was let in")
except smtplib.SMTPAuthenticationError as refused:
    assert refused.smtp_code == 535 and b"5.7.8" in refused.smtp_error, refused
"#;

#[test]
fn guessing_is_stopped_and_the_owner_gets_in() {
    let Some(python) = tool("python3") else { return };
    let house = House::open("[bans]\nfailures = 4\nown_networks = true\ndelay = \"10ms\"\n");
    let (ip, port) = (house.implicit.ip().to_string(), house.implicit.port().to_string());
    let tries = run(Command::new(&python).args(["-c", GUESSES, &ip, &port, PASSWORD]));
    // Each login of this library tries PLAIN, then LOGIN.
    assert_eq!(tries.trim(), "2");
    let bans = house.json(&["ban", "list", "--json"]);
    assert_eq!((bans.len(), &bans[0]["network"], &bans[0]["times"]), (1, &"127.9.9.9".into(), &1.into()));
    house.server.event("banned");
    let failed = house.server.event("auth failed");
    assert_eq!((&failed["address"], &failed["account"]), (&"127.9.9.9".into(), &"anna@example.org".into()));
    // Who knows the password and may not come in does not guess.
    house.server.command(&["account", "disable", "anna@example.org"]).good();
    run(Command::new(&python).args(["-c", SHUT_OUT, &ip, &port, PASSWORD]));
    let refused = house.server.event("login refused");
    assert_eq!((&refused["address"], &refused["reason"]), (&"127.8.8.8".into(), &"disabled".into()));
    fail2ban_understands();
    fail2ban_reads(&house.server, "auth failed", Some("127.9.9.9"));
    fail2ban_reads(&house.server, "login refused", None);

    // A ban is on disk.
    let setup = house.server.setup().clone();
    let House { server, .. } = house;
    server.stop();
    let server = Postrider::start(&setup);
    assert_eq!(server.command(&["ban", "list", "--json"]).json().len(), 1);
    assert_eq!(server.command(&["ban", "lift", "127.9.9.9", "--json"]).json()[0]["lifted"], true);
    assert!(server.command(&["ban", "lift", "127.9.9.9"]).bad(1).contains("is not banned"));
    server.command(&["ban", "add", "203.0.113.0/24", "--for", "7d", "--reason", "spam run"]).good();
    let list = server.command(&["ban", "list"]).good();
    assert!(list.contains("203.0.113.0/24") && list.contains("spam run (tester)"), "{list}");
    assert!(server.command(&["ban", "add", "0.0.0.0/4"]).bad(1).contains("too large"));
}

/// A client of one of the operator's own networks, which are spared unless the configuration says otherwise.
#[test]
fn a_wrong_password_of_ours_is_nothing_that_fail2ban_bans() {
    let Some(python) = tool("python3") else { return };
    let house = House::open("");
    let (ip, port) = (house.implicit.ip().to_string(), house.implicit.port().to_string());
    run(Command::new(&python).args(["-c", WRONG, &ip, &port]));
    assert_eq!(house.server.event("login failed")["address"], "127.8.8.8");
    assert!(house.server.written("auth failed").is_empty());
    fail2ban_reads(&house.server, "login failed", None);
}

/// What the server has written of an event: the filter finds the address in each line, or nothing in any.
fn fail2ban_reads(server: &Postrider, event: &str, address: Option<&str>) {
    let Some(regex) = tool("fail2ban-regex") else { return };
    let filter = workspace().join("packaging/fail2ban/filter.d/postrider.conf");
    let lines = server.written(event);
    assert!(!lines.is_empty());
    for line in lines {
        let said = run(Command::new(&regex).arg("--verbose").arg(&line).arg(&filter));
        assert_eq!(said.contains("Lines: 1 lines, 0 ignored, 1 matched"), address.is_some(), "{line}\n{said}");
        assert!(address.is_none_or(|address| said.contains(&format!("      {address}  "))), "{said}");
    }
}

/// The filter reads both forms of the log, and takes nothing that a client has said for an address.
fn fail2ban_understands() {
    let Some(regex) = tool("fail2ban-regex") else { return };
    let filter = workspace().join("packaging/fail2ban/filter.d/postrider.conf");
    for (line, found) in [
        (
            r#"2026-11-21T10:00:00.123Z info  auth failed listener=submission address=203.0.113.9 account="x address=192.0.2.66" reason=credentials"#,
            true,
        ),
        (
            r#"{"time":"2026-11-21T10:00:02.123Z","level":"info","room":"reception","event":"auth failed","listener":"submissions@[::]:465","address":"2001:db8::7","account":"x"}"#,
            true,
        ),
        (
            r#"host postrider[17]: 2026-11-21T10:00:00.123Z info  auth failed listener=submission address=203.0.113.9 reason=credentials"#,
            true,
        ),
        (
            r#"2026-11-21T10:00:00.123Z info  login refused listener=submission address=203.0.113.9 account=x reason=disabled"#,
            false,
        ),
        (
            r#"2026-11-21T10:00:00.123Z info  logged in listener=submission address=203.0.113.9 account="auth failed listener=x address=192.0.2.66""#,
            false,
        ),
    ] {
        let said = run(Command::new(&regex).arg(line).arg(&filter));
        assert_eq!(said.contains("Lines: 1 lines, 0 ignored, 1 matched"), found, "{line}\n{said}");
        assert!(!said.contains("192.0.2.66  "), "{said}");
    }
}

/// Counts are on disk within a second, and at once when something behind them is: a ban is durable when it is told.
#[test]
fn what_an_account_has_sent_outlives_a_kill() {
    let Some(swaks) = tool("swaks") else { return };
    let house = House::open("[submission.limits]\nmessages_per_hour = 2\n");
    let (address, mail) = (house.implicit, house.mail());
    let submit = || {
        let mut command = Command::new(&swaks);
        command
            .args(["--server", &address.ip().to_string(), "--port", &address.port().to_string(), "--tls-on-connect"])
            .args(["--auth", "PLAIN", "--auth-user", "anna@example.org", "--auth-password", PASSWORD])
            .args(["--from", "anna@example.org", "--to", "b@example.net", "--timeout", "20", "--data"])
            .arg(format!("@{}", mail.display()));
        command
    };
    run(&mut submit());
    house.server.command(&["ban", "add", "203.0.113.0/24"]).good();
    let setup = house.server.setup().clone();
    let House { server, sink, .. } = house;
    server.kill();
    let server = Postrider::start(&setup);
    let used = server.command(&["account", "usage", "anna@example.org", "--json"]).json();
    assert_eq!((&used[0]["messages_day"], &used[0]["recipients_day"]), (&1.into(), &1.into()));
    // One more, and no second one.
    run(&mut submit());
    let over = submit().output().expect("swaks runs");
    let said = String::from_utf8_lossy(&over.stdout).into_owned();
    assert!(!over.status.success() && said.contains("450 4.7.1 anna@example.org may send 2 messages"), "{said}");
    sink.next();
}

#[test]
fn a_spike_is_held_and_released() {
    let Some(swaks) = tool("swaks") else { return };
    let house = House::open("[submission.spikes]\nfloor = 1\n");
    let address = house.implicit;
    for _ in 0..3 {
        run(Command::new(&swaks)
            .args(["--server", &address.ip().to_string(), "--port", &address.port().to_string(), "--tls-on-connect"])
            .args(["--auth", "PLAIN", "--auth-user", "anna@example.org", "--auth-password", PASSWORD])
            .args(["--from", "anna@example.org", "--to", "b@example.net", "--timeout", "20", "--data"])
            .arg(format!("@{}", house.mail().display())));
    }
    house.sink.next();
    house.server.event("account held");
    let used = house.json(&["account", "usage", "--json"]);
    assert_eq!((&used[0]["account"], &used[0]["recipients_day"]), (&"anna@example.org".into(), &3.into()));
    assert!(used[0]["held"].is_object(), "{used:?}");
    assert_eq!(house.json(&["queue", "list", "--account", "anna@example.org", "--json"]).len(), 2);
    assert!(house.sink.is_empty());
    assert_eq!(house.json(&["account", "release", "Anna@example.org", "--json"])[0]["changed"], 2);
    house.sink.next();
    house.sink.next();
    let again = house.server.command(&["account", "release", "anna@example.org"]).bad(1);
    assert!(again.contains("the mail of anna@example.org is not on hold"), "{again}");
    let text = house.server.command(&["account", "usage", "anna@example.org"]).good();
    assert!(text.contains("anna@example.org") && !text.contains("held"), "{text}");
    assert!(postrider(&["ban", "--help"]).good().contains("lift"));
}
