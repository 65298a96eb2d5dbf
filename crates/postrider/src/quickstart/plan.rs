//! What will be written, decided before anything is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use mail::Domain;
use nix::unistd::{User, geteuid};

use super::files::Owner;
use super::options::Options;

/// The mail store's socket where Dovecot puts it.
const DOVECOT_LMTP: &str = "/run/dovecot/lmtp";

/// A new server, as it was asked for.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server's name.
    pub hostname: Domain,
    /// Whose mail it takes.
    pub domain: Domain,
    /// The folder of the configuration.
    pub folder: PathBuf,
    /// The folder of the queue, and of the keys.
    pub store: PathBuf,
    /// Where mail for the domain goes, if that is known.
    pub mailboxes: Option<String>,
    /// Whom a certificate authority may write to; then certificates come from Let's Encrypt.
    pub acme: Option<String>,
    /// Local addresses to listen on.
    pub listen: Vec<IpAddr>,
    /// The ports of `relay`, `submissions` and `submission`.
    pub ports: [u16; 3],
    /// Whom to become.
    pub user: Option<Unprivileged>,
}

/// The user of the server, and whether there is such a user.
#[derive(Clone, Debug)]
pub struct Unprivileged {
    /// Its name.
    pub name: String,
    /// What is made belongs to it.
    pub owner: Option<Owner>,
}

impl Plan {
    /// From the command line, completed by what is usual.
    pub fn new(options: &Options) -> Self {
        let domain = options.domain.clone().unwrap_or_else(|| parent(&options.hostname));
        let listen = match options.listen.is_empty() {
            true => usual_addresses(),
            false => options.listen.clone(),
        };
        let dovecot = Path::new(DOVECOT_LMTP).exists().then(|| format!("lmtp:{DOVECOT_LMTP}"));
        Self {
            hostname: options.hostname.clone(),
            domain,
            folder: absolute(&options.folder),
            store: absolute(&options.store),
            mailboxes: options.mailboxes.as_ref().map(ToString::to_string).or(dovecot),
            acme: options.acme.clone(),
            listen,
            ports: [options.relay_port, options.submissions_port, options.submission_port],
            user: geteuid().is_root().then(|| Unprivileged::find(&options.user)),
        }
    }

    /// The configuration's file.
    pub fn configuration(&self) -> PathBuf {
        self.folder.join("postrider.toml")
    }

    /// The accounts' file.
    pub fn accounts(&self) -> PathBuf {
        self.folder.join("accounts.toml")
    }

    /// Who owns what is made.
    pub fn owner(&self) -> Option<Owner> {
        self.user.as_ref().and_then(|user| user.owner)
    }

    /// Who owns what root obeys: root alone, so that the server's user can read it and not change it.
    pub fn obeyed_owner(&self) -> Option<Owner> {
        self.owner().map(|owner| Owner { uid: 0, ..owner })
    }

    /// All sockets that the server will listen on.
    pub fn sockets(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        // The authority asks there whether the name is ours (RFC 8555 §8.3).
        let web = self.acme.is_some().then_some(80);
        let ports = self.ports.into_iter().chain(web);
        ports.flat_map(|port| self.listen.iter().map(move |address| SocketAddr::new(*address, port)))
    }

    /// The text of the configuration: what a person would write, so that a person can go on with it.
    pub fn text(&self) -> String {
        let mut text = format!(
            "# Written by `postrider quickstart`; yours from here on. `postrider check` tells every mistake, and\n\
             # docs/configuration.md has all keys.\n\n\
             # The name of this server in the DNS, forward and back.\n\
             hostname = {}\n\n",
            quoted(self.hostname.as_str())
        );
        text.push_str(&self.domain_text());
        if let Some(user) = &self.user {
            text.push_str(&format!("# Who the server is once its ports are open.\nuser = {}\n\n", quoted(&user.name)));
        }
        for (name, comment) in [
            ("relay", "Mail from other servers."),
            ("submissions", "Mail from people and programs with an account, over TLS from the first octet."),
            ("submission", "The same for those that begin in clear and change to TLS by STARTTLS."),
        ] {
            let port = self.port(name);
            let addresses: Vec<String> =
                self.listen.iter().map(|ip| quoted(&SocketAddr::new(*ip, port).to_string())).collect();
            text.push_str(&format!(
                "# {comment}\n[[listener]]\nname = \"{name}\"\nrole = \"{name}\"\naddress = [{}]\n\n",
                addresses.join(", ")
            ));
        }
        text.push_str(
            "# Who may send to everybody: `postrider account add NAME`.\n[accounts]\nfile = \"accounts.toml\"\n\n",
        );
        text.push_str(&self.certificate_text());
        if let Some(mailboxes) = &self.mailboxes {
            text.push_str(&format!(
                "# Mail for the domain goes to the mail store, all other mail to the MX of its domain.\n\
                 [[route]]\ndomains = {}\nto = {}\n\n",
                quoted(self.domain.as_str()),
                quoted(mailboxes)
            ));
        }
        text.push_str(&format!("# The queue.\n[store]\npath = {}\n", quoted(&self.store.to_string_lossy())));
        text
    }

    fn domain_text(&self) -> String {
        let domain = quoted(self.domain.as_str());
        if self.mailboxes.is_some() {
            return format!("# Domains whose mail is accepted from everybody.\ndomains = [{domain}]\n\n");
        }
        format!(
            "# Domains whose mail is accepted from everybody. None yet: without a mail store it would have nowhere to go.\n\
             # Once there is one, say so here and in a route:\n\
             # domains = [{domain}]\n\
             # [[route]]\n# domains = {domain}\n# to = \"lmtp:{DOVECOT_LMTP}\"\n\n"
        )
    }

    fn certificate_text(&self) -> String {
        match &self.acme {
            Some(contact) => format!(
                "# Certificates from Let's Encrypt, renewed in time. Its terms of service apply.\n\
                 [acme]\ndirectory = \"letsencrypt\"\ncontact = [{}]\nnames = [{}]\n\n",
                quoted(contact),
                quoted(self.hostname.as_str())
            ),
            None => "# The server makes itself a certificate. Other servers take it; programs of people will warn of it. To\n\
                     # have one that they trust, name its files:\n\
                     # [[certificate]]\n# chain = \"/etc/postrider/fullchain.pem\"\n# key = \"/etc/postrider/privkey.pem\"\n\n"
                .to_owned(),
        }
    }

    fn port(&self, role: &str) -> u16 {
        let [relay, submissions, submission] = self.ports;
        match role {
            "relay" => relay,
            "submissions" => submissions,
            _ => submission,
        }
    }
}

impl Unprivileged {
    fn find(name: &str) -> Self {
        let found = User::from_name(name).ok().flatten();
        let owner = found.map(|user| Owner { uid: user.uid.as_raw(), gid: user.gid.as_raw() });
        Self { name: name.to_owned(), owner }
    }
}

/// `mail.example.org` serves `example.org`; a name of two labels serves itself.
fn parent(hostname: &Domain) -> Domain {
    let above = hostname.as_str().split_once('.').map(|(_, above)| above).filter(|above| above.contains('.'));
    above.and_then(|above| Domain::parse(above).ok()).unwrap_or_else(|| hostname.clone())
}

/// All addresses of both families, or of the one that this machine speaks.
fn usual_addresses() -> Vec<IpAddr> {
    let all: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let speaks = |ip: &IpAddr| std::net::UdpSocket::bind(SocketAddr::new(*ip, 0)).is_ok();
    all.into_iter().filter(speaks).collect()
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A TOML string; JSON's escapes are TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn plan(line: &str) -> Plan {
        let cli = Cli::parse_from(format!("postrider quickstart {line}").split(' '));
        let Command::Quickstart(options) = cli.command else { panic!("not quickstart") };
        Plan { user: Some(Unprivileged { name: "postrider".into(), owner: None }), ..Plan::new(&options) }
    }

    #[test]
    fn the_domain_is_that_above_the_host() {
        assert_eq!(plan("mail.example.org").domain.as_str(), "example.org");
        assert_eq!(plan("example.org").domain.as_str(), "example.org");
        assert_eq!(plan("mail.example.org --domain other.example").domain.as_str(), "other.example");
    }

    #[test]
    fn what_is_written_is_a_configuration_without_a_warning() {
        for line in [
            "mail.example.org --mailboxes lmtp:/run/dovecot/lmtp",
            "mail.example.org --mailboxes lmtp:/run/dovecot/lmtp --acme postmaster@example.org",
            "mail.example.org --listen 127.0.0.1 --relay-port 2525 --submissions-port 2465 --submission-port 2587",
        ] {
            let text = plan(line).text();
            let loaded = crate::config::load_text("quickstart", &text);
            let loaded = loaded.unwrap_or_else(|problems| panic!("{line}: {text}\n{}", problems.render(false)));
            assert_eq!(loaded.warnings.len(), 0, "{text}\n{}", loaded.warnings.render(false));
        }
    }
}
