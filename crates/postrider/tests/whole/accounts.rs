//! `postrider account`, from outside.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use crate::harness::{Output, Setup, binary, is_root, postrider, skipped};

fn setup() -> Setup {
    let setup = Setup::new().staying_root().table("[accounts]");
    setup.write();
    setup
}

fn account(setup: &Setup, arguments: &[&str]) -> Output {
    let config = setup.config();
    let mut all = vec!["--config", config.to_str().expect("text"), "account"];
    all.extend(arguments);
    postrider(&all)
}

#[test]
fn accounts_are_made_listed_and_shut_out() {
    let setup = setup();
    let made = account(&setup, &["add", "Joe@example.org", "--generate", "--json"]).json();
    let password = made[0]["password"].as_str().expect("a password").to_owned();
    assert_eq!((made[0]["account"].as_str(), password.len()), (Some("joe@example.org"), 23));
    account(&setup, &["app-password", "add", "joe@example.org", "phone"]).good();
    let again = account(&setup, &["add", "joe@example.org", "--generate"]).bad(1);
    assert!(again.contains("there is an account `joe@example.org` already"), "{again}");
    let nothing = account(&setup, &["add", "printer", "--generate"]).bad(1);
    assert!(nothing.contains("--send-as"), "{nothing}");
    account(&setup, &["add", "printer", "--generate", "--send-as", "scan*@example.org"]).good();
    account(&setup, &["disable", "printer"]).good();

    let list = account(&setup, &["list", "--json"]).json();
    assert_eq!((&list[0]["app_passwords"][0]["name"], &list[1]["disabled"]), (&"phone".into(), &true.into()));
    let shown = account(&setup, &["show", "printer"]).good();
    assert!(shown.contains("disabled") && shown.contains("scan*@example.org"), "{shown}");
    account(&setup, &["enable", "printer"]).good();
    account(&setup, &["remove", "printer"]).good();
    assert!(account(&setup, &["show", "printer"]).bad(1).contains("there is no account `printer`"));
    let text = std::fs::read_to_string(setup.folder().join("accounts.toml")).expect("the accounts");
    assert!(!text.contains(&password) && text.contains("$argon2id$"), "{text}");
}

#[test]
fn the_file_belongs_to_whom_the_server_runs_as() {
    if !is_root() {
        return skipped("only root can give files away");
    }
    // No user is configured: systemd or somebody else chose it, and the store is theirs.
    let setup = setup();
    let store = setup.folder().join("queue");
    std::fs::create_dir(&store).expect("a folder");
    std::os::unix::fs::chown(&store, Some(65534), Some(65534)).expect("root may");
    account(&setup, &["add", "joe@example.org", "--generate"]).good();
    let file = std::fs::metadata(setup.folder().join("accounts.toml")).expect("the accounts");
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o777), (65534, 65534, 0o600));
}

#[test]
fn passwords_come_from_standard_input_and_never_from_arguments() {
    let setup = setup();
    let give = |arguments: &[&str], typed: &str| {
        let mut child = Command::new(binary())
            .arg("--config")
            .arg(setup.config())
            .arg("account")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        child.stdin.take().expect("its input").write_all(typed.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(give(&["add", "a@b.test", "--password-stdin"], "correct horse\n"), (true, String::new()));
    let (good, err) = give(&["passwd", "a@b.test", "--password-stdin"], "short\n");
    assert!(!good && err.contains("at least 8 characters"), "{err}");
    let (good, err) = give(&["passwd", "a@b.test"], "correct horse\n");
    assert!(!good && err.contains("--password-stdin"), "{err}");
    let (good, err) = give(&["passwd", "a@b.test", "battery staple"], "");
    assert!(!good && err.contains("unexpected argument"), "{err}");
}
