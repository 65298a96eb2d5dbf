//! `postrider check`: whether a server would start with this configuration, here and now.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use crate::config::{self, Loaded, Problem, Problems};
use crate::output;
use crate::server::{self, Become, ServeError};

/// Tells all that is wrong or doubtful.
pub fn run(path: &Path, json: bool) -> Result<ExitCode, ServeError> {
    let (result, mut notes) = match config::load(path) {
        Ok(loaded) => look(loaded),
        Err(problems) => (Err(problems), Vec::new()),
    };
    if let Ok(loaded) = &result {
        notes.push(server::check_dnssec(&loaded.configuration)?);
    }
    let told = if json { as_json(&result, &notes) } else { as_text(path, &result, &notes) };
    told.map_err(ServeError::system("print"))?;
    Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The same, with what the machine and the files say that the configuration names, and what is worth knowing of them.
fn look(loaded: Loaded) -> (Result<Loaded, Problems>, Vec<String>) {
    // Before we are somebody else, who may not be able to see that.
    let mut found = obeyed_by_root(&loaded);
    let (more, mut notes) = become_the_user(&loaded);
    found.extend(more);
    let (more, facts) = config::examine(&loaded.configuration, &loaded.places);
    found.extend(more);
    notes.extend(facts);
    let Loaded { configuration, places, warnings } = loaded;
    let problems = warnings.and(found);
    match problems.fatal() {
        true => (Err(problems), Vec::new()),
        false => (Ok(Loaded { configuration, places, warnings: problems }), notes),
    }
}

/// A server that root starts obeys only what nobody else can change; one that systemd starts as its user does not mind.
fn obeyed_by_root(loaded: &Loaded) -> Vec<Problem> {
    if loaded.configuration.user.is_none() || !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    config::obeyed_by_root(&loaded.places).into_iter().map(Problem::warning).collect()
}

/// Files are looked at as the server will see them: with the rights of its user, if we may become that.
fn become_the_user(loaded: &Loaded) -> (Vec<Problem>, Vec<String>) {
    let (configuration, places) = (&loaded.configuration, &loaded.places);
    match server::become_user(configuration) {
        Ok(Become::User | Become::Already) => (Vec::new(), Vec::new()),
        Ok(Become::Root) => {
            let note =
                "user: none is set, and root does not serve; set `user`, or let systemd start it as somebody else";
            (Vec::new(), vec![note.to_owned()])
        }
        Ok(Become::Other(name)) => {
            let note = format!("user: whether `{name}` can read all files is seen only as root or as `{name}`");
            (Vec::new(), vec![note])
        }
        Err((key, error, cure)) => (vec![places.problem(key, error, "").help(cure)], Vec::new()),
    }
}

fn as_json(result: &Result<Loaded, Problems>, notes: &[String]) -> std::io::Result<()> {
    let problems = problems(result).to_json();
    output::json(&serde_json::json!({ "usable": result.is_ok(), "problems": problems, "notes": notes }))
}

fn as_text(path: &Path, result: &Result<Loaded, Problems>, notes: &[String]) -> std::io::Result<()> {
    for note in notes {
        output::line(note)?;
    }
    let problems = problems(result);
    eprint!("{}", problems.render(std::io::stderr().is_terminal()));
    match (result, problems.len()) {
        (Ok(loaded), 0) => output::line(format!("{}: good", files(loaded))),
        (Ok(loaded), 1) => output::line(format!("{}: can be used, with 1 warning", files(loaded))),
        (Ok(loaded), more) => output::line(format!("{}: can be used, with {more} warnings", files(loaded))),
        (Err(_), _) => output::line(format!("{}: cannot be used", path.display())),
    }
}

fn problems(result: &Result<Loaded, Problems>) -> &Problems {
    match result {
        Ok(loaded) => &loaded.warnings,
        Err(problems) => problems,
    }
}

fn files(loaded: &Loaded) -> String {
    loaded.places.sources().paths().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
