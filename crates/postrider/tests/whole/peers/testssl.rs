//! testssl.sh against each kind of listener: nothing that it finds may be worse than LOW.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::authority::Authority;
use super::house::House;
use super::{folder_in, tool};

/// What is not about us, and why.
const NOT_OURS: [(&str, &str); 2] = [
    ("engine_problem", "the openssl that testssl runs has no GOST"),
    (
        "sessionresumption_ticket",
        "its client may hang up before TLS 1.3 has brought a ticket; secure.rs tests resumption",
    ),
];

/// Protocols, kinds of ciphers, forward secrecy, what the server prefers and shows, and every attack that has a name. A full
/// run, which adds each cipher alone and the handshakes of many programs, takes minutes: `./dev testssl`.
const SECTIONS: [&str; 6] = ["-p", "-s", "-f", "-P", "-S", "-U"];

#[test]
fn testssl_finds_nothing_worse_than_low() {
    let Some(testssl) = ["testssl", "testssl.sh"].into_iter().find(|name| is_there(name)).and_then(tool) else {
        return crate::harness::skipped("testssl.sh is not installed");
    };
    let mut authority = None;
    let house = House::furnished(|setup| {
        let made = authority.insert(Authority::new(&folder_in(setup, "certificates")));
        made.sign("mx.test").table()
    });
    let setup = house.server.setup();
    let (folder, authority) = (folder_in(setup, "testssl"), authority.expect("it was made"));
    let listeners: [(SocketAddr, &[&str]); 3] =
        [(setup.address, &["-t", "smtp"]), (house.starttls, &["-t", "smtp"]), (house.implicit, &[])];
    let runs = listeners.map(|(address, how)| {
        let findings = folder.join(format!("{}.json", address.port()));
        let mut command = Command::new(&testssl);
        command.args(["--quiet", "--color", "0", "--warnings", "off", "--nodns", "none", "--openssl-timeout", "20"]);
        command.args(["--ip", &address.ip().to_string()]).arg("--add-ca").arg(&authority.file);
        command.arg("--jsonfile").arg(&findings).args(how);
        if std::env::var_os("POSTRIDER_TESTSSL_FULL").is_none() {
            command.args(SECTIONS);
        }
        command.arg(format!("mx.test:{}", address.port())).current_dir(&folder).env("TERM", "dumb");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        (address, findings, child.expect("testssl runs"))
    });
    for (address, findings, mut child) in runs {
        // Its exit status counts findings.
        child.wait().expect("testssl ends");
        judge(address, &findings);
    }
}

fn is_there(name: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(name).is_file())
}

fn judge(address: SocketAddr, file: &Path) {
    let text = std::fs::read_to_string(file).expect("its findings");
    let findings: Vec<Value> = serde_json::from_str(&text).expect("its findings are JSON");
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let found = |id: &str, severity: &str| {
        findings.iter().any(|finding| word(finding, "id") == id && word(finding, "severity") == severity)
    };
    // It has really looked.
    assert!(found("TLS1_3", "OK") && found("TLS1_2", "OK") && found("heartbleed", "OK"), "{address}: {text}");
    assert!(
        found("cipher_order", "OK") && found("cert_trust", "OK") && found("cert_chain_of_trust", "OK"),
        "{address}: {text}"
    );
    let grave = |finding: &&Value| !matches!(word(finding, "severity").as_str(), "OK" | "INFO" | "LOW" | "DEBUG");
    let ours = |finding: &&Value| NOT_OURS.iter().all(|(id, _)| *id != word(finding, "id"));
    let against_us: Vec<_> = findings.iter().filter(grave).filter(ours).collect();
    assert!(against_us.is_empty(), "{address}: {against_us:#?}");
}
