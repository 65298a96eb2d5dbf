//! What the files say that a configuration names, and what this machine has of what it needs: for `check`, which runs as the
//! server's user where it can. The server itself meets the same when it starts.

use std::net::{IpAddr, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use delivery::auth::SecretPlace;
use mail::{Clock, SystemClock};

use super::listener::TlsUse;
use super::places::Places;
use super::problem::Problem;
use super::tls::Certificate;
use super::types::Configuration;

/// How long before its end a certificate is doubtful.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// The problems, and notes that tell which certificates there are.
pub fn examine(configuration: &Configuration, places: &Places) -> (Vec<Problem>, Vec<String>) {
    let mut examination = Examination { configuration, places, problems: Vec::new(), notes: Vec::new() };
    examination.certificates();
    examination.authorities();
    examination.accounts();
    examination.smart_hosts();
    examination.secrets();
    examination.addresses();
    examination.folders();
    (examination.problems, examination.notes)
}

struct Examination<'a> {
    configuration: &'a Configuration,
    places: &'a Places,
    problems: Vec<Problem>,
    notes: Vec<String>,
}

impl Examination<'_> {
    fn bad(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(self.places.problem(path, message, "").help(help));
    }

    fn doubt(&mut self, path: &str, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(self.places.problem(path, message, "").warning().help(help));
    }

    fn certificates(&mut self) {
        let (mut facts, mut unread) = (Vec::new(), false);
        for (at, Certificate { chain, key }) in self.configuration.certificate.iter().enumerate() {
            let path = format!("certificate[{at}]");
            match tls::Identity::from_files(chain, key) {
                Ok(identity) => {
                    let found = identity.facts();
                    self.notes.push(format!("certificate for {}, until {}", found.names.join(", "), found.not_after));
                    self.age(found, &path);
                    self.openness(&format!("{path}.key"), "the key", key);
                    facts.push(found.clone());
                }
                Err(error) => {
                    unread = true;
                    self.bad(&path, error.to_string(), error.cure());
                }
            }
        }
        if !unread {
            self.coverage(&facts);
        }
        self.made_ones();
    }

    fn age(&mut self, facts: &tls::IdentityFacts, path: &str) {
        let now = SystemClock.now();
        let verb = match facts.not_after {
            end if end <= now => "expired",
            end if end - SOON <= now => "expires",
            _ => return,
        };
        let message = format!("the certificate for {} {verb} at {}", facts.name(), facts.not_after);
        self.doubt(&format!("{path}.chain"), message, "renew it");
    }

    /// Whether a secret can be read by those who need not.
    fn openness(&mut self, path: &str, what: &str, file: &Path) {
        if std::fs::metadata(file).is_ok_and(|file| file.mode() & 0o007 != 0) {
            let file = file.display();
            self.doubt(path, format!("everybody on this machine can read {what} {file}"), format!("chmod o= {file}"));
        }
    }

    /// What nobody else on this machine may read.
    fn secrets(&mut self) {
        let configuration = self.configuration;
        if let Some(key) = &configuration.acme.external_account_key {
            self.openness("acme.external_account_key", "the key", key);
        }
        if let Some(accounts) = &configuration.accounts {
            if let Some(file) = &accounts.file {
                self.openness("accounts.file", "what recognises the passwords in", file);
            }
            if let Some(file) = accounts.ldap.as_ref().and_then(|ldap| ldap.bind_password_file.as_deref()) {
                self.openness("accounts.ldap.bind_password_file", "the password in", file);
            }
            if let Some(file) = accounts.sql.as_ref().and_then(|sql| sql.password_file.as_deref()) {
                self.openness("accounts.sql.password_file", "the password in", file);
            }
            if let Some(file) = accounts.sql.as_ref().and_then(|sql| sql.url.strip_prefix("sqlite:")) {
                self.openness("accounts.sql.url", "what recognises the passwords in", Path::new(file));
            }
        }
        for (at, route) in configuration.route.iter().enumerate() {
            for (key, secret) in route.auth.iter().flat_map(|auth| auth.secrets()) {
                if let SecretPlace::File(file) = secret {
                    self.openness(&format!("route[{at}].auth.{key}"), "the secret in", &file);
                }
            }
        }
    }

    /// Whether each name has a certificate by which others would know us.
    fn coverage(&mut self, facts: &[tls::IdentityFacts]) {
        let acme = &self.configuration.acme.names;
        let covered = |name: &str| {
            facts.iter().any(|one| one.covers(name)) || acme.iter().any(|one| one.0.as_str().eq_ignore_ascii_case(name))
        };
        let hostname = self.configuration.hostname.to_string();
        let self_signed = facts.is_empty() && acme.is_empty();
        if !self_signed && !covered(&hostname) {
            let path = if facts.is_empty() { "acme.names" } else { "certificate[0]" };
            let message = format!("no certificate is for {hostname}: clients that verify will not send");
            let cure = "this server calls itself by `hostname`; get a certificate for that name";
            self.doubt(path, message, cure);
        }
        for (at, domain) in self.configuration.mta_sts.domains.iter().enumerate() {
            let name = format!("mta-sts.{domain}");
            if !covered(&name) {
                let message = format!("no certificate is for {name}: nobody can fetch the policy of {domain}");
                let cure =
                    format!("add a [[certificate]] for it, or the name to those of [acme]: names = [\"{name}\"]");
                self.doubt(&format!("mta_sts.domains[{at}]"), message, cure);
            }
        }
    }

    /// What is said of certificates that are not in the configuration's files.
    fn made_ones(&mut self) {
        let configuration = self.configuration;
        let names: Vec<String> = configuration.acme.names.iter().map(ToString::to_string).collect();
        let uses_tls = configuration.listeners().iter().any(|listener| listener.tls() != TlsUse::Off);
        if !names.is_empty() {
            let directory = &configuration.acme.directory;
            self.notes.push(format!("certificate for {} from {directory} by ACME", names.join(", ")));
        } else if configuration.certificate.is_empty() && uses_tls {
            let (name, folder) = (&configuration.hostname, configuration.store.path.join(crate::server::TLS_FOLDER));
            let folder = folder.display();
            self.notes.push(format!(
                "certificate for {name}, self-signed, kept in {folder}; senders that verify need [[certificate]] or \
                 [acme]"
            ));
        }
    }

    /// Those whose word is taken for others.
    fn authorities(&mut self) {
        for (at, client) in self.configuration.client_certificate.iter().enumerate() {
            if let Some(Err(error)) = client.authority.as_deref().map(tls::Authorities::from_file) {
                self.bad(&format!("client_certificate[{at}].authority"), error.to_string(), error.cure());
            }
        }
        let (roots, acme) = (&self.configuration.tls.roots, &self.configuration.acme);
        for (path, file) in [("tls.roots", roots), ("acme.root", &acme.root)] {
            if let Some(Err(error)) = file.as_deref().map(|file| tls::roots(Some(file))) {
                self.bad(
                    path,
                    error.to_string(),
                    "it takes a file of certificates in PEM, which the server's user can read",
                );
            }
        }
        if let Some(Err(error)) = acme.to_settings().map(|settings| settings.check()) {
            self.bad(
                "acme.external_account_key",
                error.to_string(),
                "write the key there as the authority gave it, in base64url",
            );
        }
    }

    fn accounts(&mut self) {
        let Some(accounts) = &self.configuration.accounts else { return };
        let kind = match accounts {
            accounts if accounts.dovecot.is_some() => "accounts.dovecot",
            accounts if accounts.ldap.is_some() => "accounts.ldap",
            accounts if accounts.sql.is_some() => "accounts.sql",
            _ => "accounts",
        };
        let checked = accounts.to_backend().and_then(|backend| backend.check().map_err(|error| error.to_string()));
        if let Err(why) = checked {
            self.bad(kind, "the accounts cannot be used", why);
        }
        if let Some(Ok(Err(why))) = accounts.oauth.as_ref().map(|oauth| oauth.to_settings().map(|made| made.examine()))
        {
            self.doubt("accounts.oauth.keys", "no token can be checked now", why);
        }
        let file = accounts.sql.as_ref().and_then(|sql| sql.url.strip_prefix("sqlite:"));
        if let Some(Err(error)) = file.map(std::fs::File::open) {
            self.doubt("accounts.sql.url", "no password can be checked now", format!("the data base: {error}"));
        }
    }

    /// Without its secret mail waits, and no more than that: the server looks again for each connection.
    fn smart_hosts(&mut self) {
        for (at, route) in self.configuration.route.iter().enumerate() {
            let Some(auth) = &route.auth else { continue };
            let path = format!("route[{at}].auth");
            for (key, secret) in auth.secrets() {
                if let Err(error) = secret.read_now() {
                    let cure = "put the secret into its first line, and let the server's user read it";
                    self.doubt(&format!("{path}.{key}"), format!("mail of this route would wait: {error}"), cure);
                }
            }
            let program = auth.token_command.as_ref().and_then(|words| words.first());
            if let Some(program) = program.filter(|program| program.contains('/') && !is_program(Path::new(program))) {
                let message = format!("mail of this route would wait: {program} is no program that can be run");
                self.doubt(&format!("{path}.token_command"), message, "name a file that the server's user can execute");
            }
        }
    }

    /// Whether what is bound is an address of this machine.
    fn addresses(&mut self) {
        for (at, listener) in self.configuration.listener.iter().enumerate() {
            for (item, address) in listener.address.0.iter().enumerate() {
                let path = super::judge::listed_path(&format!("listener[{at}].address"), item, self.places);
                self.own(&path, address.0.ip());
            }
        }
        let acme = self.configuration.acme.listen.iter().flat_map(|listed| listed.0.iter().enumerate());
        let policies = self.configuration.mta_sts.listen.iter().flat_map(|listed| listed.0.iter().enumerate());
        let web = acme.map(|one| ("acme.listen", one)).chain(policies.map(|one| ("mta_sts.listen", one)));
        for (key, (item, address)) in web {
            let path = super::judge::listed_path(key, item, self.places);
            self.own(&path, address.0.ip());
        }
        for (at, source) in self.configuration.source.iter().enumerate() {
            for (key, address) in [("ipv4", source.ipv4), ("ipv6", source.ipv6)] {
                if let Some(address) = address.filter(|address| !is_here(address.0)) {
                    let message = format!("{address} is no address of this machine: mail from this source would wait");
                    self.doubt(&format!("source[{at}].{key}"), message, "`ip address` lists them");
                }
            }
        }
    }

    fn own(&mut self, path: &str, address: IpAddr) {
        if !is_here(address) {
            let message = format!("{address} is no address of this machine");
            self.bad(path, message, "`ip address` lists them; `0.0.0.0` and `[::]` stand for all");
        }
    }

    fn folders(&mut self) {
        let path = &self.configuration.store.path;
        if path.exists() && !path.is_dir() {
            self.bad("store.path", format!("{} is no folder", path.display()), "choose a folder for the queue");
        }
        let sources: Vec<_> = self.places.sources().paths().map(Path::to_owned).collect();
        for file in sources {
            if let Err(error) = std::fs::File::open(&file) {
                let message = format!("{} cannot be read by the server's user: {error}", file.display());
                self.doubt("user", message, "without that a reload fails; chgrp and chmod g+r the file");
            }
        }
    }
}

/// Whether sockets can have the address.
fn is_here(address: IpAddr) -> bool {
    match UdpSocket::bind((address, 0)) {
        Err(error) => error.kind() != std::io::ErrorKind::AddrNotAvailable,
        Ok(_) => true,
    }
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}
