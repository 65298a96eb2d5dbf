//! Configuration: one TOML file with includes, read into types, with every problem told at its place.
//!
//! ```text
//! files ──► tree (values with places, merged) ──► inspect (against the schema of the types) ──► types ──► judge
//!                                                                                   (contradictions, warnings)
//! ```
//!
//! What the files say that it names, and what this machine has, is looked at by `check` only: [`mod@examine`].
//!
//! The types are the only source: the JSON schema for editors, the checks and `docs/configuration.md` come from them.
//! [`Loaded`] keeps the place of every value, so that `explain` can name the line that made a decision.

mod accounts;
mod anchor;
mod backends;
mod delivery;
mod examine;
mod idle;
mod inspect;
mod judge;
mod limits;
mod listener;
mod mta_sts;
mod nexthop;
mod outgoing_tls;
mod places;
mod problem;
mod reference;
mod smart_host_auth;
mod sockets;
mod source;
mod submission;
mod tls;
mod tls_reports;
mod tree;
mod types;
mod units;
mod writers;

use std::path::Path;

pub use examine::examine;
pub use listener::{AuthUse, Endings, Listener, Protocol, Role, TlsUse};
pub use nexthop::NextHop;
pub use outgoing_tls::{Fingerprint, OutgoingTls};
pub use places::Places;
pub use problem::{Problem, Problems};
pub use reference::reference;
pub use smart_host_auth::SmartHostAuth;
pub use source::Sources;
pub use tls::{AcmeChallenge, ClientCertificate, TlsVersion};
pub use types::*;
pub use units::*;

/// A configuration that can be used, with where its values come from.
#[derive(Debug)]
pub struct Loaded {
    /// The values.
    pub configuration: Configuration,
    /// Where they stand.
    pub places: Places,
    /// What will hardly do what was meant.
    pub warnings: Problems,
}

/// Reads the file and its includes.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    let (mut sources, mut problems) = (Sources::default(), Vec::new());
    let root = tree::read(path, &mut sources, &mut problems);
    finish(root, sources, problems)
}

/// The same for somebody who does what it says: if that is root, nobody else may be able to change it.
pub fn load_to_obey(path: &Path) -> Result<Loaded, Problems> {
    let loaded = load(path)?;
    let found = obeyed_by_root(&loaded.places);
    if !nix::unistd::geteuid().is_root() || found.is_empty() {
        return Ok(loaded);
    }
    Err(loaded.warnings.and(found))
}

/// What root would refuse to do as these files say.
pub fn obeyed_by_root(places: &Places) -> Vec<Problem> {
    writers::judge(places.sources())
}

/// Reads a text that lies in no file; `name` stands for the file in messages.
pub fn load_text(name: &str, text: &str) -> Result<Loaded, Problems> {
    let (mut sources, mut problems) = (Sources::default(), Vec::new());
    let root = tree::read_text(name, text, &mut sources, &mut problems);
    finish(root, sources, problems)
}

/// The JSON schema of the configuration, as editors want it.
pub fn schema() -> serde_json::Value {
    let mut schema = plain_schema();
    // `include` belongs to the files, not to the values that they say.
    schema["properties"]["include"] = serde_json::json!({
        "type": "array",
        "items": { "type": "string" },
        "description": "Other files to read, relative to this one; one `*` may stand in a file's name.",
    });
    schema
}

fn plain_schema() -> serde_json::Value {
    let settings =
        schemars::generate::SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Configuration>().to_value()
}

fn finish(root: Option<tree::Node>, sources: Sources, mut problems: Vec<Problem>) -> Result<Loaded, Problems> {
    let Some(root) = root else { return Err(Problems::new(sources, problems)) };
    problems.extend(inspect::inspect(&root, &plain_schema()));
    if !problems.is_empty() {
        return Err(Problems::new(sources, problems));
    }
    let places = Places::new(&root, sources.clone());
    let mut configuration: Configuration = match serde_path_to_error::deserialize(root.to_json()) {
        Ok(configuration) => configuration,
        Err(error) => {
            let path = error.path().to_string();
            let text = error.into_inner().to_string();
            problems.push(places.problem(&path, format!("`{path}` cannot be used"), text));
            return Err(Problems::new(sources, problems));
        }
    };
    anchor::anchor(&mut configuration, places.folder());
    problems.extend(judge::judge(&configuration, &places));
    let problems = Problems::new(sources, problems);
    if problems.fatal() { Err(problems) } else { Ok(Loaded { configuration, places, warnings: problems }) }
}

#[cfg(test)]
mod tests;
