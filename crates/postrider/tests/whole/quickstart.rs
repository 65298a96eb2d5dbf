//! From an empty folder to a server that takes mail from the first account; again, and after failures.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{
    PATIENCE, Postrider, Setup, Sink, binary, is_root, own_address, own_socket, postrider, skipped, told, tool,
    wait_for,
};

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

fn files(told: &Value) -> impl Iterator<Item = &Value> {
    told["files"].as_array().into_iter().flatten()
}

/// The first record of that type.
fn record<'a>(told: &'a Value, kind: &str) -> &'a Value {
    let found = told["records"].as_array().into_iter().flatten().find(|record| record["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} record: {told}"))
}

fn add_to_configuration(folder: &Path, text: &str) {
    let config = folder.join("etc/postrider.toml");
    let there = fs::read_to_string(&config).expect("the configuration");
    fs::write(&config, there + text).expect("the configuration");
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
    let told_first = told(&out);
    assert!(files(&told_first).all(|file| file["new"] == true), "{told_first}");
    assert!(!out.contains(PASSWORD) && !err.contains(PASSWORD));
    let chain = folder.join("store/tls/self-signed.pem");
    let certificate = fs::read(&chain).expect("the certificate is made");

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
    let printed = postrider(&["dns-records", "--config", &config, "--json"]).json();
    let key = printed.iter().find(|record| record["type"] == "TLSA").expect("the key is there before the first start");
    assert_eq!(record(&told_first, "TLSA")["value"], key["value"]);

    let mut command = Command::new(binary());
    command.args(["serve", "--config", &config]).stdin(Stdio::null());
    let server = Postrider::run(command, &setup);
    server.wait("ready", |line| line["event"] == "ready");
    for (port, tls) in [(address.port() + 1, "--tls-on-connect"), (address.port() + 2, "--tls")] {
        let Some(swaks) = tool("swaks") else { break };
        let swaks = Command::new(swaks)
            .args(["--server", &address.ip().to_string(), "--port", &port.to_string(), tls])
            .args(["--auth", "PLAIN", "--auth-user", "anna@example.org", "--auth-password", PASSWORD])
            .args(["--from", "anna@example.org", "--to", "bob@example.org", "--header", "Subject: hello"])
            .output()
            .expect("swaks runs");
        assert!(swaks.status.success(), "{}", String::from_utf8_lossy(&swaks.stdout));
        assert_eq!(sink.next().to, ["bob@example.org"]);
    }
    server.stop();
    assert_eq!(fs::read(&chain).expect("the certificate"), certificate, "the server takes what is there");

    let before = contents(&folder.join("etc"));
    let (good, out, err) = quickstart(&options(&folder, address));
    assert!(good, "{out}{err}");
    let told = told(&out);
    assert!(files(&told).all(|file| file["new"] == false), "{told}");
    assert!(files(&told).any(|file| file["note"] == "the accounts, 1 of them"), "{told}");
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

/// The configuration and the accounts are there already when it fails, and then all of them when nobody can be told.
#[test]
fn a_late_failure_leaves_nothing_behind_either() {
    let setup = Setup::new();
    let folder = setup.folder();
    let gone = || !folder.join("etc").exists() && !folder.join("store").exists();
    let mut options = options(folder, own_socket());
    options.extend(["--account", "anna@example.org", "--generate"].map(String::from));

    let mut clash = options.clone();
    let submission = clash.iter().position(|option| option == "--submission-port").expect("the option") + 1;
    clash[submission] = "2525".to_owned();
    let (good, out, err) = quickstart(&clash);
    assert!(!good && err.contains("2525"), "{out}{err}");
    assert!(gone(), "{err}");

    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let output = Command::new(binary()).args(&options).stdin(Stdio::null()).stdout(full).output();
    let output = output.expect("the binary runs");
    assert!(!output.status.success() && gone(), "a password that nobody has heard is none: {output:?}");

    // The same command is good once its reason to fail has gone.
    let (good, out, err) = quickstart(&options);
    assert!(good && told(&out)["password"].is_string(), "{out}{err}");
}

#[test]
fn the_password_is_told_before_anything_is_looked_at() {
    let setup = Setup::new();
    let folder = setup.folder();
    let mut options = options(folder, own_socket());
    let (good, out, err) = quickstart(&options);
    assert!(good, "{out}{err}");
    let silent = UdpSocket::bind((own_address(), 0)).expect("a socket");
    let address = silent.local_addr().expect("its address");
    add_to_configuration(folder, &format!("[dns]\nservers = \"{address}\"\ntimeout = \"30s\"\ntotal = \"60s\"\n"));
    fs::remove_file(folder.join("etc/accounts.toml")).expect("the accounts");

    options.retain(|option| option != "--offline" && option != "--json");
    options.extend(["--account", "anna@example.org", "--generate"].map(String::from));
    let mut command = Command::new(binary());
    command.args(&options).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the binary runs");
    silent.set_read_timeout(Some(PATIENCE)).expect("a socket");
    silent.recv_from(&mut [0; 512]).expect("a question");
    Command::new("kill").arg("-INT").arg(child.id().to_string()).status().expect("kill runs");
    assert!(!child.wait().expect("it ends").success(), "it was looking still");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let password = lines.filter_map(|line| line.split_once("told only now: ").map(|(_, password)| password.to_owned()));
    assert!(password.last().is_some_and(|password| password.len() > 8));
    assert!(fs::read_to_string(folder.join("etc/accounts.toml")).is_ok_and(|text| text.contains("anna@example.org")));
}

/// The last ones wait in comments of the configuration.
#[test]
fn records_come_in_the_order_in_which_they_are_needed() {
    let setup = Setup::new();
    let folder = setup.folder();
    let mut options = options(folder, own_socket());
    options.retain(|option| option != "--json");
    options.extend(["--address", "192.0.2.1", "--mailboxes", "127.0.0.1:26"].map(String::from));
    let (good, out, err) = quickstart(&options);
    assert!(good, "{out}{err}");
    let first =
        ["1. Files", "2. This machine", "3. The DNS", " A 192.0.2.1", " PTR mail.", " MX 10 mail.", "4. The DNS"];
    let rest = ["TXT \"v=spf1 mx -all\"", "5. The DNS", "wait with both", " TLSA 3 1 1 "];
    let later = ["[mta_sts] in", "[tls_reports] in", "6. Next", "postrider check", "postrider dns-records"];
    in_order(&out, &[&first[..], &rest, &later].concat());

    let config = folder.join("etc/postrider.toml");
    let text = fs::read_to_string(&config).expect("the configuration");
    let (now, later) = text.split_at(text.find("# [mta_sts]").expect("the comment"));
    let open = |line: &str| {
        line.strip_prefix("# ").filter(|line| line.starts_with('[') || line.contains(" = ")).unwrap_or(line).to_owned()
    };
    let later: Vec<String> = later.lines().map(open).collect();
    fs::write(&config, format!("{now}{}\n", later.join("\n"))).expect("the configuration");
    let (good, out, err) = quickstart(&options);
    assert!(good, "{out}{err}");
    let policies = ["mta-sts.example.org. CNAME mail.", "_mta-sts.example.org. TXT \"v=STSv1; id="];
    let reports = ["_smtp._tls.example.org. TXT \"v=TLSRPTv1; rua=mailto:tls-reports@example.org\"", "6. Next"];
    in_order(&out, &[&first[..], &rest, &policies, &reports].concat());
    assert!(!out.contains("[mta_sts] in") && !out.contains("[tls_reports] in"), "{out}");
}

fn in_order(text: &str, pieces: &[&str]) {
    let mut rest = text;
    for piece in pieces {
        rest = rest.split_once(piece).unwrap_or_else(|| panic!("no `{piece}` where it belongs: {text}")).1;
    }
}

/// The hash of the password takes its time, with the folder there already.
#[test]
fn whoever_stops_it_while_it_writes_is_told_what_it_wrote() {
    for name in ["INT", "TERM", "HUP"] {
        let setup = Setup::new();
        let folder = setup.folder();
        let mut command = Command::new(binary());
        command.args(options(folder, own_socket())).args(["--account", "anna@example.org", "--generate"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = command.spawn().expect("the binary runs");
        wait_for("the folder", || folder.join("etc").exists().then_some(()));
        Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status().expect("kill runs");
        let output = child.wait_with_output().expect("it ends");
        let told = told(&String::from_utf8_lossy(&output.stdout));
        assert!(told["password"].is_string(), "{name}: {told}");
        assert!(folder.join("etc/accounts.toml").exists(), "{name}: {told}");
    }
}

/// Without a mail store the domain stands in a comment only.
#[test]
fn a_second_run_knows_the_domain_of_a_server_without_a_mail_store() {
    let setup = Setup::new();
    let mut options = options(setup.folder(), own_socket());
    options.extend(["--domain", "other.example"].map(String::from));
    let (good, out, err) = quickstart(&options);
    assert!(good, "{out}{err}");
    let text = fs::read_to_string(setup.folder().join("etc/postrider.toml")).expect("the configuration");
    options.truncate(options.len() - 2);
    let (good, out, err) = quickstart(&options);
    assert!(good, "{out}{err}");
    // Where Dovecot runs there is a mail store.
    assert!(text.contains("domains = [\"other.example\"]"), "{text}");
    assert_eq!(record(&told(&out), "MX")["name"], "other.example.");
    assert_eq!(told(&out)["domains"], serde_json::json!(["other.example"]));
}

/// What stands between a name and its address may be missing; that is told, and no reason to fail.
#[test]
fn without_name_servers_all_else_is_told() {
    let setup = Setup::new();
    let folder = setup.folder();
    let mut options = options(folder, own_socket());
    options.retain(|option| option != "--offline");
    options.extend(["--address", "192.0.2.1", "--probe", "127.0.0.1:9"].map(String::from));
    options.extend(["--account", "anna@example.org", "--generate"].map(String::from));
    match is_root() {
        true => {
            let empty = "mount --bind /dev/null /etc/resolv.conf && exec \"$@\"";
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", empty, "sh"]).arg(binary()).args(&options);
            let output = command.stdin(Stdio::null()).output().expect("unshare runs");
            match String::from_utf8_lossy(&output.stderr) {
                err if err.contains("unshare") || err.contains("mount") => {
                    skipped(&format!("an empty resolv.conf: {err}"))
                }
                err => {
                    assert!(output.status.success(), "{err}");
                    nothing_was_looked_up(&told(&String::from_utf8_lossy(&output.stdout)));
                }
            }
        }
        false => skipped("an empty resolv.conf: only root can put it there"),
    }
    // The same of a configuration whose name servers cannot be used.
    let _ = fs::remove_dir_all(folder.join("etc"));
    options.push("--offline".to_owned());
    let (good, out, err) = quickstart(&options);
    assert!(good, "{out}{err}");
    add_to_configuration(folder, "[dns]\ndnssec = \"validate\"\ntrust_anchors = \"nowhere.key\"\n");
    fs::remove_file(folder.join("etc/accounts.toml")).expect("the accounts");
    options.pop();
    let (good, out, err) = quickstart(&options);
    assert!(good, "{out}{err}");
    nothing_was_looked_up(&told(&out));
}

fn nothing_was_looked_up(told: &Value) {
    assert!(told["password"].is_string(), "{told}");
    let finding = told["machine"].as_array().into_iter().flatten().find(|one| one["subject"] == "name servers");
    assert!(finding.is_some_and(|finding| finding["state"] == "bad" && finding["cure"].is_string()), "{told}");
    for kind in ["A", "PTR", "MX", "TXT"] {
        assert_eq!(record(told, kind)["state"]["state"], "not_looked", "{told}");
    }
}

#[test]
fn a_second_run_goes_by_the_configuration_that_is_there() {
    let setup = Setup::new();
    let (folder, address) = (setup.folder(), own_socket());
    let mut first = options(folder, address);
    first.extend(
        ["--domain", "other.example", "--mailboxes", "127.0.0.1:26", "--account", "anna@other.example"]
            .map(String::from),
    );
    first.push("--password-stdin".to_owned());
    let (good, out, err) = quickstart(&first);
    assert!(good, "{out}{err}");

    // Only the folder is said again; the port for other servers is taken.
    let _taken = TcpListener::bind(address).expect("our own address");
    let etc = folder.join("etc").display().to_string();
    let told = told(&postrider(&["quickstart", "mail.example.org", "--folder", &etc, "--offline", "--json"]).good());
    assert_eq!(told["domains"], serde_json::json!(["other.example"]));
    assert_eq!(record(&told, "MX")["name"], "other.example.");
    assert_eq!(record(&told, "TXT")["name"], "other.example.");
    let ports = told["machine"].as_array().into_iter().flatten().filter(|one| one["subject"] == "port");
    let ports: Vec<&str> = ports.filter_map(|one| one["text"].as_str()).collect();
    let free = |port: u16| format!("{}:{port} is free", address.ip());
    assert_eq!(ports, [format!("{address} is taken by another program"), free(2526), free(2527)]);
    let notes: Vec<&str> = files(&told).filter_map(|file| file["note"].as_str()).collect();
    assert!(notes.contains(&"the accounts, 1 of them"), "{notes:?}");
    assert!(
        files(&told)
            .all(|file| file["new"] == false && !file["path"].as_str().is_some_and(|path| path.starts_with("/var"))),
        "{told}"
    );
    let next = told["next"][0].as_str().unwrap_or_default();
    assert!(
        next.ends_with(&format!("postrider quickstart mail.example.org --folder {etc} --offline --json")),
        "{next}"
    );

    // What is said and is not so is told.
    let more = ["--folder", &etc, "--offline", "--json", "--domain", "third.example", "--relay-port", "2625"];
    let told = crate::harness::told(&postrider(&[&["quickstart", "mail.example.org"], &more[..]].concat()).good());
    let finding = told["machine"].as_array().into_iter().flatten().find(|one| one["subject"] == "configuration");
    let text = finding.and_then(|finding| finding["text"].as_str()).unwrap_or_default();
    assert!(text.ends_with("does not say what the command line says: --domain, the ports"), "{told}");
    assert_eq!(record(&told, "MX")["name"], "other.example.");
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
