//! `check`, `schema`, `reference`, `completions`: what needs no server.

use std::path::{Path, PathBuf};

use crate::harness::{Setup, is_root, postrider};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn check_tells_file_line_and_cure() {
    let setup = Setup::new();
    let file = setup.folder().join("wrong.toml");
    std::fs::write(&file, "hostname = \"mx.test\"\nlimts = 1\n\n[retry]\nfirst = \"5 minutes\"\n").expect("a file");
    let file = file.to_str().expect("text");
    let output = postrider(&["check", "--config", file]);
    let err = output.bad(1);
    for wanted in
        [":2:1]", "there is no key `limts`", "did you mean `limits`?", ":5:9]", "`retry.first` takes a duration"]
    {
        assert!(err.contains(wanted), "{wanted} in {err}");
    }
    let json = postrider(&["check", "--json", "--config", file]);
    let value: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!((&value["usable"], &value["problems"][0]["line"]), (&false.into(), &2.into()));
}

#[test]
fn serving_a_wrong_configuration_has_its_own_exit_status() {
    let setup = Setup::new();
    let file = setup.folder().join("wrong.toml");
    std::fs::write(&file, "hostname = 1\n").expect("a file");
    let err = postrider(&["serve", "--config", file.to_str().expect("text")]).bad(78);
    assert!(err.contains("`hostname` takes a domain name"), "{err}");
}

#[test]
fn the_example_configuration_is_good_and_short() {
    let text = std::fs::read_to_string(repository().join("packaging/postrider.toml")).expect("the example");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
    assert!(lines <= 10, "{lines} lines");
    // Its user comes with the package; here somebody else must do.
    let setup = Setup::new();
    let text = text.replace("user = \"postrider\"", "user = \"nobody\"");
    let out = postrider(&["check", "--config", write(&setup, "example.toml", &text).as_str()]).good();
    assert!(out.ends_with(": good\n"), "{out}");
}

/// Writes a configuration into the folder, which everybody may enter.
fn write(setup: &Setup, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = setup.folder().join(name);
    std::fs::write(&path, text).expect("a file");
    for path in [setup.folder(), &path] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    }
    path.display().to_string()
}

#[test]
fn what_the_configuration_names_is_looked_at() {
    let setup = Setup::new();
    let folder = setup.folder().to_owned();
    std::fs::write(folder.join("empty.pem"), "").expect("a file");
    std::fs::write(folder.join("queue"), "a file where the folder should be").expect("a file");
    std::fs::write(folder.join("keys.json"), "{}").expect("a file");
    let certificates = "[[client_certificate]]\nname = \"a.test\"\nauthority = \"empty.pem\"\nrelay = true";
    let acme = "[acme]\nnames = [\"mx.test\"]\nlisten = \"127.0.0.1:8080\"";
    let listener = "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:2587\"\nrole = \"submission\"";
    for (text, wanted) in [
        ("[tls]\nroots = \"absent.pem\"", "cannot read the certificate authorities in"),
        ("[tls]\nroots = \"empty.pem\"", "holds no certificate in PEM form"),
        (&format!("{acme}\nroot = \"absent.pem\""), "cannot read the certificate authorities in"),
        (&format!("{acme}\nexternal_account = \"a\"\nexternal_account_key = \"absent\""), "absent"),
        (&format!("{acme}\nexternal_account = \"a\"\nexternal_account_key = \"empty.pem\""), "there is no key in it"),
        (certificates, "empty.pem"),
        (
            &format!(
                "{listener}\n[accounts.ldap]\nurl = \"ldaps://a\"\ndn = \"uid={{name}}\"\naddresses = [\"mail\"]\nbind_dn = \"cn=x\"\nbind_password_file = \"absent\""
            ),
            "the password in",
        ),
        (
            &format!(
                "{listener}\n[accounts.ldap]\nurl = \"ldaps://a\"\ndn = \"uid={{name}}\"\naddresses = [\"mail\"]\nca = \"absent.pem\""
            ),
            "cannot use the certificates in",
        ),
        (
            &format!(
                "{listener}\n[accounts.sql]\nurl = \"postgresql://a@b/c\"\nquery = \"$1\"\npassword_file = \"absent\""
            ),
            "the password in",
        ),
        (
            &format!("{listener}\n[accounts.sql]\nurl = \"postgresql://[\"\nquery = \"$1\""),
            "no URL of a PostgreSQL server",
        ),
        ("[[listener]]\nname = \"a\"\naddress = \"203.0.113.9:25\"", "203.0.113.9 is no address of this machine"),
        ("[store]\npath = \"queue\"", "queue is no folder"),
    ] {
        let config = write(&setup, "wrong.toml", &format!("hostname = \"mx.test\"\nuser = \"nobody\"\n{text}\n"));
        let told = postrider(&["check", "--config", &config]).bad(1);
        assert!(told.contains(wanted) && told.contains("help: "), "{text}: {wanted} in {told}");
    }
    let config = write(&setup, "wrong.toml", "hostname = \"mx.test\"\nuser = \"nobody-at-all\"\n");
    let told = postrider(&["check", "--config", &config]).bad(1);
    assert!(told.contains("there is no user `nobody-at-all`") && told.contains("useradd --system"), "{told}");
}

#[test]
fn what_makes_mail_or_people_wait_is_a_warning() {
    let setup = Setup::new();
    for name in ["keys.json", "open.secret"] {
        std::fs::write(setup.folder().join(name), "{}").expect("a file");
    }
    let route = "[[route]]\ndomains = \"*\"\nto = \"relay.test:587\"\n";
    let listener = "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:2587\"\nrole = \"submission\"\n";
    for (text, wanted) in [
        (
            &format!("{route}auth = {{ user = \"u\", password_file = \"absent\" }}"),
            "mail of this route would wait: cannot read",
        ),
        (
            &format!("{route}auth = {{ user = \"u\", token_command = [\"/bin/absent\"] }}"),
            "mail of this route would wait: /bin/absent is no program",
        ),
        (&"[[source]]\nname = \"a\"\nipv4 = \"203.0.113.9\"".to_owned(), "203.0.113.9 is no address of this machine"),
        (
            &format!("{listener}[accounts.oauth]\nissuer = \"i\"\naudience = \"a\"\nkeys = \"keys.json\""),
            "no token can be checked now",
        ),
        (
            &format!("{listener}[accounts.sql]\nurl = \"sqlite:absent\"\nquery = \"$1\""),
            "no password can be checked now",
        ),
        (
            &format!("{route}auth = {{ user = \"u\", password_file = \"open.secret\" }}"),
            "everybody on this machine can read the secret in",
        ),
        (
            &format!(
                "{listener}[accounts.sql]\nurl = \"postgresql://a@b/c\"\nquery = \"$1\"\npassword_file = \"open.secret\""
            ),
            "everybody on this machine can read the password in",
        ),
        (
            &format!("{listener}[accounts.sql]\nurl = \"sqlite:open.secret\"\nquery = \"$1\""),
            "everybody on this machine can read what recognises the passwords in",
        ),
        (
            &"[mta_sts]\ndomains = [\"a.test\"]\nlisten = \"127.0.0.1:8443\"".to_owned(),
            "no certificate is for mta-sts.a.test: nobody can fetch the policy of a.test",
        ),
        (
            &"[acme]\nnames = [\"mta-sts.a.test\"]\nlisten = \"127.0.0.1:8080\"".to_owned(),
            "no certificate is for mx.test",
        ),
    ] {
        let config = write(&setup, "doubtful.toml", &format!("hostname = \"mx.test\"\nuser = \"nobody\"\n{text}\n"));
        let output = postrider(&["check", "--config", &config]);
        assert!(output.err.contains(&format!("⚠ {wanted}")), "{text}: {wanted} in {}", output.err);
        output.good();
    }
}

#[test]
fn root_obeys_only_what_nobody_else_can_change() {
    if !is_root() {
        return println!("skipped: only root can give files to others");
    }
    let setup = Setup::new();
    let text =
        "hostname = \"mx.test\"\nuser = \"nobody\"\n[accounts]\nfile = \"accounts.toml\"\n[store]\npath = \"queue\"\n";
    let config = write(&setup, "postrider.toml", text);
    let other = write(&setup, "inner.toml", "drain = \"1s\"\n");
    std::fs::write(&config, format!("include = [\"inner.toml\"]\n{text}")).expect("a file");
    let account = ["account", "add", "a@example.org", "--generate", "--config", &config];
    postrider(&["check", "--config", &config]).good();
    for file in [&config, &other] {
        std::os::unix::fs::chown(file, Some(65534), None).expect("chown");
        for words in [&["serve", "--config", &config][..], &account] {
            let told = postrider(words).bad(78);
            assert!(told.contains(&format!("others than root may write {file}")), "{told}");
            assert!(told.contains("help: chown root"), "{told}");
        }
        let checked = postrider(&["check", "--config", &config]);
        assert!(checked.err.contains("⚠ others than root may write"), "{}", checked.err);
        checked.good();
        std::os::unix::fs::chown(file, Some(0), None).expect("chown");
    }
    assert!(!setup.folder().join("queue").exists() && !setup.folder().join("accounts.toml").exists());
    postrider(&account).good();
    // What is somebody's is not given away.
    std::fs::create_dir(setup.folder().join("queue")).expect("a folder");
    std::fs::write(setup.folder().join("queue/thesis"), "").expect("a file");
    let told = postrider(&["serve", "--config", &config]).bad(1);
    assert!(told.contains("is no store") && told.contains("help: choose an empty folder"), "{told}");
}

#[test]
fn check_looks_at_files_as_the_servers_user_will() {
    if !is_root() {
        return println!("skipped: only root can become another user");
    }
    let setup = Setup::new();
    let made = rcgen::generate_simple_self_signed(["mx.test".to_owned()]).expect("a certificate");
    std::fs::write(setup.folder().join("chain.pem"), made.cert.pem()).expect("a file");
    let key = setup.folder().join("key.pem");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let mode = |mode| std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("mode");
    let text = "hostname = \"mx.test\"\nuser = \"nobody\"\n[[certificate]]\nchain = \"chain.pem\"\nkey = \"key.pem\"\n";
    let config = write(&setup, "postrider.toml", text);
    mode(0o600);
    let told = postrider(&["check", "--config", &config]).bad(1);
    assert!(told.contains("key.pem") && told.contains("help: "), "{told}");
    mode(0o644);
    postrider(&["check", "--config", &config]).good();
}

#[test]
fn check_says_whether_dnssec_works() {
    let dns = dns::testing::DnsServer::start();
    dns.exists(".");
    let setup = Setup::new();
    let told = |how: &str| {
        let table = format!("[dns]\nservers = [\"{}\"]\ndnssec = \"{how}\"", dns.address());
        let config = write(&setup, "postrider.toml", &format!("hostname = \"mx.test\"\n{table}\n"));
        postrider(&["check", "--config", &config]).good()
    };
    let expect = |how: &str, words: &str| {
        let told = told(how);
        assert!(told.contains(words), "{how}: {told}");
    };
    expect("off", "DNSSEC: not used, so neither is DANE");
    expect("auto", "DNSSEC: the name server on this machine does not validate, so DANE is not used");
    dns.signed(".").soa(".");
    expect("auto", "DNSSEC: the name server on this machine validates; DANE is used");
}

#[test]
fn the_committed_reference_is_what_the_program_prints() {
    let committed = std::fs::read_to_string(repository().join("docs/configuration.md")).expect("the reference");
    let printed = postrider(&["reference"]).good();
    for (committed, printed) in committed.lines().zip(printed.lines()) {
        assert_eq!(committed, printed, "run: postrider reference > docs/configuration.md");
    }
    assert_eq!(committed.len(), printed.len(), "run: postrider reference > docs/configuration.md");
}

#[test]
fn the_schema_knows_every_section() {
    let schema: serde_json::Value = serde_json::from_str(&postrider(&["schema"]).good()).expect("JSON");
    for key in ["hostname", "include", "listener", "route", "limits", "store", "log"] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
}

#[test]
fn shells_get_completions() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(postrider(&["completions", shell]).good().contains("postrider"), "{shell}");
    }
}
