//! `check`, `schema`, `reference`, `completions`: what needs no server.

use std::path::{Path, PathBuf};

use crate::harness::{Setup, postrider};

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
    let example = repository().join("packaging/postrider.toml");
    let out = postrider(&["check", "--config", example.to_str().expect("text")]).good();
    assert!(out.ends_with(": good\n"), "{out}");
    let text = std::fs::read_to_string(example).expect("the example");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).count();
    assert!(lines <= 10, "{lines} lines");
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
fn configurations_in_the_documentation_are_good() {
    let reference = std::fs::read_to_string(repository().join("docs/configuration.md")).expect("the reference");
    let setup = Setup::new();
    let examples: Vec<&str> =
        reference.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!examples.is_empty());
    for (at, example) in examples.iter().enumerate() {
        let file = setup.folder().join(format!("{at}.toml"));
        std::fs::write(&file, example).expect("a file");
        postrider(&["check", "--config", file.to_str().expect("text")]).good();
    }
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
