//! What the command line says.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use mail::Domain;

use crate::cli::PasswordFrom;
use crate::config::NextHop;

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
    #[arg(long, value_name = "NAME", default_value = "postrider")]
    pub user: String,
    /// The folder of the configuration.
    #[arg(long, value_name = "DIR", default_value = "/etc/postrider")]
    pub folder: PathBuf,
    /// The folder of the queue.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/postrider")]
    pub store: PathBuf,
    /// Listen on this local address only; may be given several times.
    #[arg(long, value_name = "IP")]
    pub listen: Vec<IpAddr>,
    /// The port for other servers.
    #[arg(long, value_name = "PORT", default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..))]
    pub relay_port: u16,
    /// The port for people, with TLS from the first octet.
    #[arg(long, value_name = "PORT", default_value_t = 465, value_parser = clap::value_parser!(u16).range(1..))]
    pub submissions_port: u16,
    /// The port for people, with STARTTLS.
    #[arg(long, value_name = "PORT", default_value_t = 587, value_parser = clap::value_parser!(u16).range(1..))]
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
    /// Print all of it as JSON.
    #[arg(long)]
    pub json: bool,
}
