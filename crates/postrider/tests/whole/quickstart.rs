//! From an empty folder to a server that takes mail from the first account, by the README's own commands.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Postrider, Setup, Sink, binary, is_root, own_socket, postrider};

const PASSWORD: &str = "correct horse battery staple";

/// The options of every run in that folder.
fn options(folder: &Path, address: std::net::SocketAddr) -> Vec<String> {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut options: Vec<String> =
        ["quickstart", "mail.example.org", "--offline", "--json", "--user", "nobody"].map(String::from).into();
    options.extend(["--folder".into(), path("etc"), "--store".into(), path("store")]);
    options.extend(["--listen".into(), address.ip().to_string()]);
    for (name, offset) in [("--relay-port", 0), ("--submissions-port", 1), ("--submission-port", 2)] {
        options.extend([name.into(), (address.port() + offset).to_string()]);
    }
    options
}

/// Runs quickstart with a password on its standard input.
fn quickstart(options: &[String]) -> (bool, String, String) {
    let mut child = Command::new(binary())
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // It may end before it reads.
    let _ = writeln!(child.stdin.take().expect("a pipe"), "{PASSWORD}");
    let output = child.wait_with_output().expect("it ends");
    let text = |octets| String::from_utf8(octets).expect("text");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.map(|path| (path.display().to_string(), fs::read(&path).expect("a file"))).collect()
}

#[test]
fn an_empty_folder_becomes_a_server_that_its_first_account_can_use() {
    let sink = Sink::start();
    let setup = Setup::new();
    let (folder, address) = (setup.folder().to_owned(), own_socket());
    if is_root() {
        // The server becomes `nobody`, which must reach the folder.
        Command::new("chmod").arg("755").arg(&folder).status().expect("chmod runs");
    }
    let mut first = options(&folder, address);
    first.extend(["--account", "anna@example.org", "--password-stdin", "--mailboxes"].map(String::from));
    first.push(sink.address().to_string());
    let (good, out, err) = quickstart(&first);
    assert!(good, "{out}{err}");
    let told: Value = serde_json::from_str(&out).expect("JSON");
    assert!(told["files"].as_array().is_some_and(|files| files.iter().all(|file| file["new"] == true)), "{told}");
    assert!(!out.contains(PASSWORD) && !err.contains(PASSWORD));

    if is_root() {
        // What root will obey belongs to root; the server's user reads it by its group.
        for (name, mode) in [("etc", 0o750), ("etc/postrider.toml", 0o640), ("etc/accounts.toml", 0o600)] {
            let facts = fs::metadata(folder.join(name)).expect("it is made");
            let owner = if name.ends_with("accounts.toml") { 65534 } else { 0 };
            assert_eq!((facts.uid(), facts.gid(), facts.mode() & 0o7777), (owner, 65534, mode), "{name}");
        }
    }
    let config = folder.join("etc/postrider.toml").display().to_string();
    let checked = postrider(&["check", "--config", &config]).good();
    assert!(checked.contains("postrider.toml"), "{checked}");

    let mut command = Command::new(binary());
    command.args(["serve", "--config", &config]).stdin(Stdio::null());
    let server = Postrider::run(command, &setup);
    server.wait("ready", |line| line["event"] == "ready");
    for (port, tls) in [(address.port() + 1, "--tls-on-connect"), (address.port() + 2, "--tls")] {
        let swaks = Command::new("swaks")
            .args(["--server", &address.ip().to_string(), "--port", &port.to_string(), tls])
            .args(["--auth", "PLAIN", "--auth-user", "anna@example.org", "--auth-password", PASSWORD])
            .args(["--from", "anna@example.org", "--to", "bob@example.org", "--header", "Subject: hello"])
            .output();
        let Ok(swaks) = swaks else { return println!("skipped: swaks is not installed") };
        assert!(swaks.status.success(), "{}", String::from_utf8_lossy(&swaks.stdout));
        assert_eq!(sink.next().to, ["bob@example.org"]);
    }
    server.stop();

    let before = contents(&folder.join("etc"));
    let (good, out, err) = quickstart(&options(&folder, address));
    assert!(good, "{out}{err}");
    let told: Value = serde_json::from_str(&out).expect("JSON");
    assert!(told["files"].as_array().is_some_and(|files| files.iter().all(|file| file["new"] == false)), "{told}");
    assert_eq!(contents(&folder.join("etc")), before, "what exists stays as it is");
}

#[test]
fn a_failure_leaves_nothing_behind() {
    let setup = Setup::new();
    let folder = setup.folder();
    fs::write(folder.join("store"), "a file where the folder should be").expect("a file");
    let mut options = options(folder, own_socket());
    let store = options.iter().position(|option| option == "--store").expect("the option") + 1;
    options[store].push_str("/below");
    let (good, out, err) = quickstart(&options);
    assert!(!good && err.contains("cannot make"), "{out}{err}");
    assert!(!folder.join("etc").exists(), "what was made is gone again");
}

#[test]
fn another_servers_configuration_is_not_touched() {
    let setup = Setup::new();
    let folder = setup.folder();
    fs::create_dir(folder.join("etc")).expect("a folder");
    fs::write(folder.join("etc/postrider.toml"), "hostname = \"other.example.org\"\n").expect("a file");
    let (good, _, err) = quickstart(&options(folder, own_socket()));
    assert!(!good && err.contains("other.example.org"), "{err}");
    assert_eq!(contents(&folder.join("etc")).len(), 1);
}
