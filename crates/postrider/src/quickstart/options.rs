//! What the command line says.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use mail::Domain;

use crate::cli::PasswordFrom;
use crate::config::NextHop;

/// What is meant where the command line does not say it.
pub const USER: &str = "postrider";
pub const FOLDER: &str = "/etc/postrider";
pub const STORE: &str = "/var/lib/postrider";
pub const PORTS: [u16; 3] = [25, 465, 587];

/// The new server, as the command line says.
#[derive(Debug, Args)]
pub struct Options {
    /// The server's name in the DNS, such as mail.example.org.
    #[arg(value_name = "HOSTNAME", value_parser = Domain::parse)]
    pub hostname: Domain,
    /// The domain whose mail it takes; by default that above the host's name.
    #[arg(long, value_parser = Domain::parse)]
    pub domain: Option<Domain>,
    /// Where mail for the domain goes, such as lmtp:/run/dovecot/lmtp, which is the default where Dovecot runs.
    #[arg(long, value_name = "NEXT HOP")]
    pub mailboxes: Option<NextHop>,
    /// The address of the first account.
    #[arg(long, value_name = "ADDRESS")]
    pub account: Option<String>,
    #[command(flatten)]
    pub password: PasswordFrom,
    /// Have certificates from Let's Encrypt, which may write to this address. You agree to its terms of service.
    #[arg(long, value_name = "ADDRESS")]
    pub acme: Option<String>,
    /// The user that the server becomes when it is started as root.
    #[arg(long, value_name = "NAME", default_value = USER)]
    pub user: String,
    /// The folder of the configuration.
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    pub folder: PathBuf,
    /// The folder of the queue.
    #[arg(long, value_name = "DIR", default_value = STORE)]
    pub store: PathBuf,
    /// Listen on this local address only; may be given several times.
    #[arg(long, value_name = "IP")]
    pub listen: Vec<IpAddr>,
    /// The port for other servers.
    #[arg(long, value_name = "PORT", default_value_t = PORTS[0], value_parser = clap::value_parser!(u16).range(1..))]
    pub relay_port: u16,
    /// The port for people, with TLS from the first octet.
    #[arg(long, value_name = "PORT", default_value_t = PORTS[1], value_parser = clap::value_parser!(u16).range(1..))]
    pub submissions_port: u16,
    /// The port for people, with STARTTLS.
    #[arg(long, value_name = "PORT", default_value_t = PORTS[2], value_parser = clap::value_parser!(u16).range(1..))]
    pub submission_port: u16,
    /// The address by which the world reaches this server, where the machine does not have it itself; may be given
    /// several times.
    #[arg(long, value_name = "IP")]
    pub address: Vec<IpAddr>,
    /// Try whether port 25 of others can be reached at this address, not at well-known providers.
    #[arg(long, value_name = "IP:PORT")]
    pub probe: Vec<SocketAddr>,
    /// Look at nothing outside of this machine.
    #[arg(long)]
    pub offline: bool,
    /// Print each stage as a line of JSON.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// The ports of `relay`, `submissions` and `submission`.
    pub fn ports(&self) -> [u16; 3] {
        [self.relay_port, self.submissions_port, self.submission_port]
    }

    /// The command that looks at the same server again, for a shell, wherever that is: all that was said but the account.
    pub fn again(&self) -> String {
        let mut words = vec!["postrider quickstart".to_owned(), self.hostname.to_string()];
        let mut say =
            |option: &str, value: &dyn ToString| words.push(format!("{option} {}", shell(&value.to_string())));
        if let Some(domain) = &self.domain {
            say("--domain", domain);
        }
        if let Some(mailboxes) = &self.mailboxes {
            say("--mailboxes", mailboxes);
        }
        if let Some(acme) = &self.acme {
            say("--acme", acme);
        }
        if self.user != USER {
            say("--user", &self.user);
        }
        for (option, path, usual) in [("--folder", &self.folder, FOLDER), ("--store", &self.store, STORE)] {
            if path != Path::new(usual) {
                say(option, &absolute(path).display());
            }
        }
        self.listen.iter().for_each(|ip| say("--listen", ip));
        for (at, option) in ["--relay-port", "--submissions-port", "--submission-port"].into_iter().enumerate() {
            if self.ports()[at] != PORTS[at] {
                say(option, &self.ports()[at]);
            }
        }
        self.address.iter().for_each(|ip| say("--address", ip));
        self.probe.iter().for_each(|socket| say("--probe", socket));
        words.extend(
            [(self.offline, "--offline"), (self.json, "--json")]
                .map(|(is, word)| is.then(|| word.to_owned()))
                .into_iter()
                .flatten(),
        );
        words.join(" ")
    }
}

/// A path from the root.
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// One word of a shell's command line.
pub fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn options(words: &[&str]) -> Options {
        let cli = Cli::parse_from(["postrider", "quickstart"].iter().chain(words));
        let Command::Quickstart(options) = cli.command else { panic!("not quickstart") };
        options
    }

    #[test]
    fn the_command_for_another_look_says_what_was_said() {
        assert_eq!(
            options(&["mail.example.org", "--account", "a@b.c", "--generate"]).again(),
            "postrider quickstart mail.example.org"
        );
        let said = "mail.example.org --domain other.example --mailboxes lmtp:/run/x --acme a@b.example --user nobody \
                    --folder /a/etc --store /a/store --listen 127.0.0.1 --listen ::1 --relay-port 2525 \
                    --submissions-port 2465 --submission-port 2587 --address 192.0.2.1 --probe 127.0.0.1:25 --offline --json";
        let words: Vec<&str> = said.split(' ').filter(|word| !word.is_empty()).collect();
        assert_eq!(options(&words).again(), format!("postrider quickstart {}", words.join(" ")));
        let again = options(&["mail.example.org", "--folder", "/it's here"]).again();
        assert_eq!(again, r"postrider quickstart mail.example.org --folder '/it'\''s here'");
    }
}
