//! TLS with the clients of others: versions, names, protocols, tickets, certificates that come and go.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{folder_in, run, tool};
use crate::harness::{Postrider, Setup, Sink, open_to_everybody, own_socket, skipped};

/// Writes a certificate for these names and its key; gives the table that names them.
fn certificate(setup: &Setup, file: &str, names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let (chain, key) = tls::self_signed(&names, None).expect("a certificate");
    let (chain_file, key_file) = files(setup, file);
    for (file, content) in [(&chain_file, chain), (&key_file, key)] {
        std::fs::write(file, content).expect("our own file");
        open_to_everybody(file, 0o644);
    }
    format!("[[certificate]]\nchain = \"{}\"\nkey = \"{}\"", chain_file.display(), key_file.display())
}

fn files(setup: &Setup, file: &str) -> (PathBuf, PathBuf) {
    let folder = folder_in(setup, "certificates");
    (folder.join(format!("{file}.pem")), folder.join(format!("{file}.key")))
}

fn listener(name: &str, keys: &str) -> (SocketAddr, String) {
    let address = own_socket();
    (address, format!("[[listener]]\nname = \"{name}\"\naddress = \"{address}\"\n{keys}"))
}

/// What `openssl s_client` says of a connection.
fn openssl(address: SocketAddr, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-crlf", "-ign_eof"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl runs");
    if let Some(mut stdin) = child.stdin.take() {
        // Where the handshake fails it is gone before this.
        let _ = std::io::Write::write_all(&mut stdin, b"QUIT\n");
    }
    let output = child.wait_with_output().expect("openssl ends");
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// swaks, if it can speak TLS.
fn swaks() -> Option<PathBuf> {
    let swaks = tool("swaks")?;
    let said = Command::new(&swaks).arg("--support").output().expect("swaks runs").stdout;
    let can = String::from_utf8_lossy(&said).lines().any(|line| line.contains("TLS supported"));
    if !can {
        skipped("swaks has no TLS here");
    }
    can.then_some(swaks)
}

const STARTTLS: &[&str] = &["-starttls", "smtp"];

#[test]
fn openssl_gets_the_versions_names_protocols_and_tickets_that_it_should() {
    let Some(_) = tool("openssl") else { return };
    let setup = Setup::new().route("*", "127.0.0.1:1");
    let (first, second) =
        (certificate(&setup, "first", &["mx.test"]), certificate(&setup, "second", &["mail.test", "*.wild.test"]));
    let (implicit, implicit_table) = listener("implicit", "tls = \"implicit\"");
    let (modern, modern_table) = listener("modern", "tls = \"implicit\"\ntls_minimum = \"1.3\"");
    let setup = setup.table(&first).table(&second).table(&implicit_table).table(&modern_table);
    let server = Postrider::start(&setup);
    let offered = setup.address;

    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        for (address, more) in [(offered, STARTTLS), (implicit, &[])] {
            let said = openssl(address, &[more, &[version]].concat());
            assert!(said.contains(&format!("New, {name}, Cipher is")), "{said}");
        }
    }
    assert!(openssl(modern, &["-tls1_3"]).contains("New, TLSv1.3"));
    let refused = openssl(modern, &["-tls1_2"]);
    assert!(refused.contains("alert protocol version"), "{refused}");
    for old in ["-tls1", "-tls1_1"] {
        let refused = openssl(implicit, &[old, "-cipher", "DEFAULT@SECLEVEL=0"]);
        assert!(!refused.contains("Cipher is ECDHE"), "{refused}");
    }

    for (asked, shown) in
        [("mx.test", "mx.test"), ("mail.test", "mail.test"), ("a.wild.test", "mail.test"), ("other", "mx.test")]
    {
        let said = openssl(implicit, &["-servername", asked]);
        assert!(
            said.contains(&format!("subject=CN = {shown}")) || said.contains(&format!("subject=CN={shown}")),
            "{asked}: {said}"
        );
    }

    let refused = openssl(implicit, &["-alpn", "h2,http/1.1"]);
    assert!(refused.contains("no application protocol"), "{refused}");
    assert!(openssl(implicit, &["-alpn", "smtp"]).contains("ALPN protocol: smtp"));

    let tickets = folder_in(&setup, "openssl").join("session");
    let tickets = tickets.to_str().expect("text");
    openssl(implicit, &["-tls1_2", "-sess_out", tickets]);
    assert!(openssl(implicit, &["-tls1_2", "-sess_in", tickets]).contains("Reused, TLSv1.2"));
    let elsewhere = openssl(offered, &[STARTTLS, &["-tls1_2", "-sess_in", tickets]].concat());
    assert!(elsewhere.contains("New, TLSv1.2"), "a ticket is good for its own service alone: {elsewhere}");

    let metrics = server.command(&["metrics"]).good();
    assert!(metrics.contains("postrider_reception_tls_failures_total{reason=\"protocol\"} 1"), "{metrics}");
    for name in ["mx.test", "mail.test"] {
        assert!(metrics.contains(&format!("postrider_tls_certificate_expiry_seconds{{name=\"{name}\"}}")), "{metrics}");
    }
}

#[test]
fn swaks_sends_inside_tls() {
    let Some(swaks) = swaks() else { return };
    let sink = Sink::start();
    let (implicit, table) = listener("implicit", "tls = \"implicit\"");
    let server = Postrider::start(&Setup::to(&sink).table(&table));
    for (address, how) in [(server.setup().address, "--tls"), (implicit, "--tlsc")] {
        run(Command::new(&swaks)
            .args(["--server", &address.ip().to_string(), "--port", &address.port().to_string(), "--timeout", "20"])
            .args(["--from", "a@example.org", "--to", "b@example.net", "--ehlo", "swaks.test", how]));
        let mail = sink.next();
        assert!(mail.content.contains("with ESMTPS\r\n"), "{}", mail.content);
    }
}

#[test]
fn python_verifies_us_by_our_self_signed_certificate() {
    let Some(python) = tool("python3") else { return };
    let sink = Sink::start();
    let setup = Setup::to(&sink).listener("tls = \"required\"");
    let server = Postrider::start(&setup);
    let address = setup.address;
    let trusted = setup.folder().join("queue/tls/self-signed.pem");
    let script = format!(
        "import smtplib, ssl\n\
         context = ssl.create_default_context(cafile={trusted:?})\n\
         class Named(smtplib.SMTP):\n\
         \x20   pass\n\
         client = Named({host:?}, {port}, timeout=20)\n\
         client._host = 'mx.test'\n\
         client.ehlo()\n\
         code, text = client.docmd('MAIL FROM:<a@example.org>')\n\
         assert code == 530, (code, text)\n\
         client.starttls(context=context)\n\
         assert not client.ehlo_resp\n\
         client.sendmail('a@example.org', ['b@example.net'], 'Subject: hi\\r\\n\\r\\nhello\\r\\n')\n\
         client.quit()\n",
        trusted = trusted.to_str().expect("text"),
        host = address.ip().to_string(),
        port = address.port(),
    );
    run(Command::new(python).args(["-c", &script]));
    assert!(sink.next().content.contains("with ESMTPS\r\n"));

    // It is kept: a new start shows the same.
    let kept = std::fs::read(&trusted).expect("the certificate");
    server.stop();
    let server = Postrider::start(&setup);
    assert_eq!(std::fs::read(&trusted).expect("the certificate"), kept);
    let notes = server.command(&["check"]).good();
    assert!(notes.contains("certificate for mx.test, self-signed"), "{notes}");
}

#[test]
fn a_reload_takes_new_certificates_and_keeps_the_old_where_they_are_broken() {
    let Some(_) = tool("openssl") else { return };
    let setup = Setup::new().route("*", "127.0.0.1:1");
    let table = certificate(&setup, "one", &["mx.test"]);
    let setup = setup.table(&table);
    let server = Postrider::start(&setup);
    let mut open = server.client();
    let shown = || {
        let said = openssl(setup.address, STARTTLS);
        let start = said.find("-----BEGIN CERTIFICATE-----").expect("a certificate");
        said[start..].split("-----END").next().expect("its end").to_owned()
    };
    let first = shown();

    certificate(&setup, "one", &["mx.test", "more.test"]);
    server.signal("HUP");
    server.event("configuration reloaded");
    let second = shown();
    assert_ne!(first, second);

    std::fs::write(files(&setup, "one").1, "no key").expect("our own file");
    server.signal("HUP");
    let refused = server.event("configuration not reloaded; the old one stays in force");
    assert!(refused["error"].as_str().is_some_and(|error| error.contains("no private key")), "{refused}");
    assert_eq!(shown(), second);
    let told = server.command(&["check"]).bad(1);
    assert!(told.contains("no private key") && told.contains("[[certificate]]"), "{told}");
    open.say("NOOP", 250);
}

#[test]
fn a_client_is_known_by_a_name_that_an_authority_vouches_for() {
    let Some(openssl) = tool("openssl") else { return };
    let sink = Sink::start();
    let setup = Setup::to(&sink).networks("192.0.2.0/24");
    let folder = folder_in(&setup, "authority");
    let make = |arguments: &[&str]| run(Command::new(&openssl).current_dir(&folder).args(arguments));
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    make(&[&["req", "-x509"], &key[..], &["-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"]].concat());
    for (name, signed) in [("known", true), ("claimed", false)] {
        let (key_file, file) = (format!("{name}.key"), format!("{name}.pem"));
        let mut arguments = vec!["req", "-x509", "-subj", "/CN=gateway", "-addext", "subjectAltName=DNS:gateway.test"];
        arguments.extend(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=clientAuth"]);
        arguments.extend(key);
        arguments.extend(["-keyout", &key_file, "-out", &file]);
        if signed {
            arguments.extend(["-CA", "ca.pem", "-CAkey", "ca.key"]);
        }
        make(&arguments);
    }
    let authority = folder.join("ca.pem");
    open_to_everybody(&authority, 0o644);
    let table = format!(
        "[[client_certificate]]\nname = \"gateway.test\"\nauthority = \"{}\"\nrelay = true",
        authority.display()
    );
    let (implicit, listener) = listener("implicit", "tls = \"implicit\"");
    let _server = Postrider::start(&setup.table(&table).table(&listener));
    let Some(swaks) = swaks() else { return };
    for (name, code) in [("known", 0), ("claimed", 24)] {
        let output = Command::new(&swaks)
            .current_dir(&folder)
            .args(["--server", &implicit.ip().to_string(), "--port", &implicit.port().to_string(), "--timeout", "20"])
            .args(["--from", "a@example.org", "--to", "b@example.net", "--ehlo", "swaks.test", "--tlsc"])
            .args(["--tls-cert", &format!("{name}.pem"), "--tls-key", &format!("{name}.key")])
            .output()
            .expect("swaks runs");
        assert_eq!(output.status.code(), Some(code), "{name}: {}", String::from_utf8_lossy(&output.stdout));
    }
    sink.next();
}
