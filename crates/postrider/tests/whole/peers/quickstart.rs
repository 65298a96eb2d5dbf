//! What quickstart finds when it looks at the DNS and at the way out: asked of unbound in front of nsd.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use super::name_servers::NameServers;
use crate::harness::{Setup, own_address, postrider, told};

/// A machine on which quickstart has been before, so that its configuration says whom to ask for names.
struct Machine {
    folder: String,
    address: IpAddr,
}

impl Machine {
    fn new(setup: &Setup, name: &str, resolver: SocketAddr) -> Self {
        let folder = setup.folder().join(name).display().to_string();
        let machine = Self { folder, address: own_address() };
        machine.run(name, &["--offline"]);
        let config = format!("{}/etc/postrider.toml", machine.folder);
        let text = fs::read_to_string(&config).expect("the configuration");
        let dns = format!("[dns]\nservers = \"{resolver}\"\ntimeout = \"1s\"\nattempts = 1\ntotal = \"3s\"\n");
        fs::write(&config, text + &dns).expect("the configuration");
        machine
    }

    /// What is told of the machine and of the DNS.
    fn run(&self, name: &str, more: &[&str]) -> Value {
        let (host, address) = (format!("mail.{name}.test"), self.address.to_string());
        let (etc, store) = (format!("{}/etc", self.folder), format!("{}/store", self.folder));
        let mut words = vec!["quickstart", &host, "--json", "--user", "nobody", "--folder", &etc, "--store", &store];
        words.extend(["--listen", &address, "--address", &address, "--relay-port", "2525"]);
        words.extend(["--submissions-port", "2465", "--submission-port", "2587"]);
        words.extend(more);
        told(&postrider(&words).good())
    }
}

/// The state of a finding, with what was seen and the cure.
fn finding(told: &Value, subject: &str) -> (String, String) {
    let found = told["machine"].as_array().into_iter().flatten().find(|one| one["subject"] == subject);
    let found = found.unwrap_or_else(|| panic!("nothing about {subject}: {told}"));
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("state"), format!("{}; {}", text("text"), text("cure")))
}

/// The type of each record that is looked at, with its state and with what is there instead.
fn records(told: &Value) -> Vec<String> {
    let text = |record: &Value| {
        let found = record["state"]["found"].as_str().map(|found| format!(": {found}")).unwrap_or_default();
        format!(
            "{} {}{found}",
            record["kind"].as_str().unwrap_or("?"),
            record["state"]["state"].as_str().unwrap_or("?")
        )
    };
    let looked_at = |record: &&Value| record["stage"] != "settled";
    told["records"].as_array().into_iter().flatten().filter(looked_at).map(text).collect()
}

fn reversed(address: IpAddr) -> String {
    let IpAddr::V4(four) = address else { panic!("an IPv4 address") };
    let [_, b, c, d] = four.octets();
    format!("{d}.{c}.{b}")
}

#[test]
fn records_and_the_way_out_are_looked_at() {
    let setup = Setup::new();
    if crate::harness::is_root() {
        fs::set_permissions(setup.folder(), fs::Permissions::from_mode(0o755)).expect("permissions");
    }
    let nobody = SocketAddr::new(own_address(), 25);
    // Addresses are needed for the zone, and the zone for the machines.
    let good = Machine { folder: setup.folder().join("good").display().to_string(), address: own_address() };
    let zone = format!(
        "good MX 10 mail.good\ngood TXT \"v=spf1 mx -all\"\nmail.good A {address}\nbad MX 5 other.bad\nbad TXT \"v=spf1 -all\"\nmail.bad A 192.0.2.1\n",
        address = good.address
    );
    let bad_address = own_address();
    let reverse =
        format!("{} PTR mail.good.test.\n{} PTR somebody.else.test.\n", reversed(good.address), reversed(bad_address));
    let Some(servers) = NameServers::with_reverse(setup.folder(), &zone, &reverse) else { return };

    let good = Machine { address: good.address, ..Machine::new(&setup, "good", servers.address) };
    let outside = TcpListener::bind((own_address(), 0)).expect("a socket");
    let outside = outside.local_addr().map(|address| (outside, address)).expect("its address");
    let told = good.run("good", &["--probe", &outside.1.to_string()]);
    assert_eq!(records(&told), ["A right", "PTR right", "MX right", "TXT right"], "{told}");
    assert_eq!(finding(&told, "port 25 out").0, "good", "{told}");
    assert_eq!(finding(&told, "name servers").0, "good", "{told}");
    // This world has no root whose signatures could be checked.
    assert_ne!(finding(&told, "DNSSEC").0, "good", "{told}");

    let bad = Machine { address: bad_address, ..Machine::new(&setup, "bad", servers.address) };
    let told = bad.run("bad", &["--probe", &nobody.to_string()]);
    let wanted = [
        "A other: 192.0.2.1",
        "PTR other: somebody.else.test.",
        "MX other: 5 other.bad.test.",
        "TXT other: v=spf1 -all",
    ];
    assert_eq!(records(&told), wanted, "{told}");
    let (state, text) = finding(&told, "port 25 out");
    assert!(state == "bad" && text.contains("ask your provider to open outgoing port 25"), "{text}");
    assert!(told["next"][0].as_str().is_some_and(|next| next.starts_with("mend what is bad above")), "{told}");

    // Nothing is published, and then nobody answers at all.
    let none = Machine::new(&setup, "none", servers.address);
    assert_eq!(
        records(&none.run("none", &["--probe", &nobody.to_string()])),
        ["A missing", "PTR missing", "MX missing", "TXT missing"]
    );
    let silent = Machine::new(&setup, "silent", SocketAddr::new(own_address(), 53));
    let told = silent.run("silent", &["--probe", &nobody.to_string()]);
    let (state, text) = finding(&told, "name servers");
    assert!(state == "bad" && text.contains("they do not answer") && text.contains("apt install unbound"), "{text}");
    assert!(records(&told).iter().all(|record| record.contains("unknown: ")), "{told}");
}

/// A `timedatectl` that says what it is told to.
fn clock(folder: &Path, answer: &str) -> (String, String) {
    let path = folder.join("timedatectl");
    fs::write(&path, format!("#!/bin/sh\necho {answer}\n")).expect("a program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions");
    let mut command = std::process::Command::new(crate::harness::binary());
    command.args(["quickstart", "mail.clock.test", "--offline", "--json", "--user", "nobody", "--listen", "127.0.0.1"]);
    command.args(["--relay-port", "2525", "--submissions-port", "2465", "--submission-port", "2587"]);
    command.arg("--folder").arg(folder.join("etc")).arg("--store").arg(folder.join("store"));
    let output = command.env("PATH", folder).stdin(std::process::Stdio::null()).output().expect("the binary runs");
    let told = told(&String::from_utf8_lossy(&output.stdout));
    finding(&told, "clock")
}

#[test]
fn a_clock_that_nobody_keeps_right_is_told_with_its_cure() {
    let setup = Setup::new();
    assert_eq!(clock(setup.folder(), "yes").0, "good");
    let (state, text) = clock(setup.folder(), "no");
    assert!(state == "bad" && text.contains("timedatectl set-ntp true"), "{text}");
    let (state, text) = clock(setup.folder(), "");
    assert!(state == "unsure" && text.contains("time service"), "{text}");
}
