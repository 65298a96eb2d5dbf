//! Certificates from an authority that others wrote: pebble, whose answers to DNS come from its own test server.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Peer, folder_in, tool};
use crate::harness::{Postrider, Setup, open_to_everybody, own_address};

/// A running authority.
struct Authority {
    _names: Peer,
    _pebble: Peer,
    directory: String,
    /// The certificate of the directory itself.
    root: PathBuf,
    /// Where it looks for proofs.
    proofs: IpAddr,
}

const HTTP_PORT: u16 = 5002;
const TLS_PORT: u16 = 5001;

impl Authority {
    /// Gives certificates that are good for so many seconds.
    fn start(setup: &Setup, seconds: u32) -> Option<Self> {
        Self::with(setup, seconds, &serde_json::json!({}))
    }

    /// The same with more settings of pebble.
    fn with(setup: &Setup, seconds: u32, more: &Value) -> Option<Self> {
        let (pebble, names) = (tool("pebble")?, tool("pebble-challtestsrv")?);
        let (proofs, own) = (own_address(), own_address());
        let folder = folder_in(setup, "pebble");
        let (root, key) = (folder.join("root.pem"), folder.join("root.key"));
        let (certificate, secret) = tls::self_signed(&[own.to_string()], None).expect("a certificate");
        std::fs::write(&root, certificate).expect("our own file");
        std::fs::write(&key, secret).expect("our own file");
        open_to_everybody(&root, 0o644);
        let (dns, management) = (SocketAddr::new(own, 8053), SocketAddr::new(own, 8055));
        let names = Peer::listening(
            Command::new(names)
                .args(["-defaultIPv4", &proofs.to_string(), "-defaultIPv6", "", "-dns01", &dns.to_string()])
                .args(["-management", &management.to_string(), "-http01", "", "-https01", "", "-tlsalpn01", ""])
                .stdout(Stdio::null()),
            management,
        );
        let listen = SocketAddr::new(own, 14000);
        let config = folder.join("pebble.json");
        let mut text = serde_json::json!({ "pebble": {
            "listenAddress": listen.to_string(),
            "managementListenAddress": "",
            "certificate": root,
            "privateKey": key,
            "httpPort": HTTP_PORT,
            "tlsPort": TLS_PORT,
            "certificateValidityPeriod": seconds,
        }});
        for (key, value) in more.as_object().into_iter().flatten() {
            text["pebble"][key] = value.clone();
        }
        std::fs::write(&config, text.to_string()).expect("our own file");
        let pebble = Peer::listening(
            Command::new(pebble)
                .env("PEBBLE_WFE_NONCEREJECT", "0")
                .env("PEBBLE_VA_NOSLEEP", "1")
                .args(["-config", config.to_str().expect("text"), "-dnsserver", &dns.to_string()])
                .stdout(Stdio::null()),
            listen,
        );
        Some(Self { _names: names, _pebble: pebble, directory: format!("https://{listen}/dir"), root, proofs })
    }

    fn table(&self, names: &[&str], more: &str) -> String {
        format!(
            "[acme]\nnames = {names:?}\ndirectory = {:?}\nroot = {:?}\ncontact = [\"postmaster@mx.test\"]\n{more}",
            self.directory, self.root
        )
    }
}

/// Waits for the log to tell of a certificate from the authority, in another line than this.
fn certificate(server: &Postrider, before: Option<&Value>) -> Value {
    let from_authority = |line: &Value| line["event"] == "new certificate" && line["source"] == "acme";
    server.wait("a certificate", |line| from_authority(line) && Some(line) != before)
}

fn mode(file: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(file).expect("a file").mode() & 0o777
}

#[test]
fn pebble_gives_a_certificate_for_several_names_by_http() {
    let setup = Setup::new().route("*", "127.0.0.1:1");
    let Some(authority) = Authority::start(&setup, 90 * 24 * 60 * 60) else { return };
    let listen = SocketAddr::new(authority.proofs, HTTP_PORT);
    let table = authority.table(&["mx.test", "mail.mx.test"], &format!("listen = \"{listen}\""));
    let server = Postrider::start(&setup.table(&table));
    let first = certificate(&server, None);

    let status = server.command(&["acme", "status", "--json"]).json().remove(0);
    assert_eq!((&status["failures"], &status["names"][1]), (&0.into(), &"mail.mx.test".into()));
    let (expires, next) = (status["expires"].as_u64().expect("a time"), status["next"].as_u64().expect("a time"));
    let left = std::time::Duration::from_millis(expires - next).as_secs();
    assert!(left.abs_diff(30 * 24 * 60 * 60) < 60, "the next is due after two thirds of 90 days: {left}");
    let own = server.setup().folder().join("queue/tls/acme");
    let key = std::fs::read(own.join("key.pem")).expect("the key");
    assert_eq!(mode(&own.join("key.pem")), 0o600);
    let account = std::fs::read_dir(&own).expect("our folder").flatten().map(|file| file.path());
    let account =
        account.filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("account-")));
    assert_eq!(account.map(|file| mode(&file)).collect::<Vec<_>>(), [0o600]);

    let said = server.command(&["acme", "renew"]).good();
    assert!(said.starts_with("asked for"), "{said}");
    certificate(&server, Some(&first));
    assert_eq!(std::fs::read(own.join("key.pem")).expect("the key"), key, "TLSA records stay true");
}

#[test]
fn pebble_gives_a_certificate_by_a_handshake_and_it_is_renewed_in_time() {
    let setup = Setup::new().route("*", "127.0.0.1:1");
    let Some(authority) = Authority::start(&setup, 9) else { return };
    let listen = SocketAddr::new(authority.proofs, TLS_PORT);
    let table = authority.table(&["mx.test"], &format!("challenge = \"tls-alpn-01\"\nlisten = \"{listen}\""));
    let server = Postrider::start(&setup.table(&table));
    let first = certificate(&server, None);
    // After six of nine seconds.
    certificate(&server, Some(&first));
}

#[test]
fn an_authority_that_finds_no_proof_is_asked_again_later() {
    let setup = Setup::new().route("*", "127.0.0.1:1");
    let Some(authority) = Authority::start(&setup, 90 * 24 * 60 * 60) else { return };
    // It looks elsewhere.
    let listen = SocketAddr::new(own_address(), HTTP_PORT);
    let table = authority.table(&["mx.test"], &format!("listen = \"{listen}\""));
    let server = Postrider::start(&setup.table(&table));
    let failed = server.event("no certificate could be got");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("mx.test is not proven")), "{failed}");
    let told = server.command(&["acme", "status"]).good();
    assert!(told.contains("there is none yet") && told.contains("failed       1 times"), "{told}");
    // Meanwhile the self-signed one serves.
    assert!(server.setup().folder().join("queue/tls/self-signed.pem").exists());
}

#[test]
fn an_authority_that_wants_an_account_of_its_own_gets_its_key() {
    // RFC 8555 §7.3.4: 32 octets, in base64url.
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let setup = Setup::new().route("*", "127.0.0.1:1");
    let bound = serde_json::json!({
        "externalAccountBindingRequired": true,
        "externalAccountMACKeys": { "kid-1": key },
    });
    let Some(authority) = Authority::with(&setup, 90 * 24 * 60 * 60, &bound) else { return };
    let file = setup.folder().join("eab.key");
    std::fs::write(&file, format!("{key}\n")).expect("a file");
    open_to_everybody(&file, 0o644);
    let listen = SocketAddr::new(authority.proofs, HTTP_PORT);
    let unbound = authority.table(&["mx.test"], &format!("listen = \"{listen}\""));
    let server = Postrider::start(&setup.clone().table(&unbound));
    let failed = server.event("no certificate could be got");
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("xternal")), "{failed}");
    server.stop();

    let known =
        format!("listen = \"{listen}\"\nexternal_account = \"kid-1\"\nexternal_account_key = \"{}\"", file.display());
    let server =
        Postrider::start(&setup.instead().route("*", "127.0.0.1:1").table(&authority.table(&["mx.test"], &known)));
    // The failure before is not held against another configuration for long: asked anew at once.
    server.command(&["acme", "renew"]).good();
    certificate(&server, None);
}
