//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use mail::MessageId;
use queue::{Pattern, Selection};

use crate::config::Period;

/// Where the configuration lies unless told otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/postrider/postrider.toml";

/// A mail transfer agent that loses nothing.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    long_about = "Postrider receives mail by SMTP, keeps it safe on disk before it says 250, and delivers it by SMTP or \
                  LMTP.\n\nTo see it work at once, without any configuration: postrider sandbox",
    after_help = "Examples:\n  postrider check --config ./postrider.toml\n  postrider serve\n  postrider queue summary\n  \
                  postrider queue retry --domain example.org\n  postrider explain someone@example.org",
    propagate_version = true,
    max_term_width = 100
)]
pub struct Cli {
    /// The configuration.
    #[arg(long, short, global = true, value_name = "FILE", default_value = DEFAULT_CONFIG, env = "POSTRIDER_CONFIG")]
    pub config: PathBuf,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server in the foreground.
    #[command(
        long_about = "Run the server in the foreground. It logs to standard error.\n\nSIGTERM and SIGINT drain and stop, \
                      SIGHUP reads the configuration anew: all of it takes effect, or none.\nStarted as root, it opens \
                      its sockets and then becomes the `user` of the configuration."
    )]
    Serve,
    /// Read the configuration and tell what is wrong with it.
    #[command(
        long_about = "Read the configuration and tell what is wrong with it, each problem with its line and its \
                            cure.\n\nExit status: 0 if it can be used (there may be warnings), 1 if not."
    )]
    Check {
        /// Print the problems as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON schema of the configuration, for editors.
    Schema,
    /// Print the reference of the configuration as Markdown.
    Reference,
    /// Tell where mail for a domain or an address goes, and which line of the configuration says so.
    #[command(
        after_help = "Examples:\n  postrider explain example.org\n  postrider explain someone@example.org --json"
    )]
    Explain {
        /// A domain, an address literal, or a whole address.
        recipient: String,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Set up a server: write its configuration, make the first account, look at the machine and at the DNS.
    #[command(
        long_about = "Set up a server: write its configuration, make the first account, look at the machine and at the \
                      DNS, and tell which records to publish.\n\nIt may be run again at any time: what exists stays as \
                      it is. If something fails, what it had made is gone again.",
        after_help = "Examples:\n  postrider quickstart mail.example.org\n  postrider quickstart mail.example.org --account \
                      anna@example.org --acme postmaster@example.org\n\nTo try it out without root:\n  postrider quickstart \
                      mail.example.org --folder ./etc --store ./store --listen 127.0.0.1 --relay-port 2525 \
                      --submissions-port 2465 --submission-port 2587 --offline"
    )]
    Quickstart(crate::quickstart::Options),
    /// Try it out: a server on loopback that delivers to a built-in capture server only.
    #[command(long_about = "Try it out: a server on loopback that delivers to a built-in capture server only. No \
                      configuration is needed, and no mail leaves the machine.\n\nEvery message goes through the real \
                      queue and the real SMTP client. What arrives is written to DIR/captured/*.eml.")]
    Sandbox(Sandbox),
    /// Look into the queue of the running server, and act on it.
    #[command(after_help = SELECT_HELP)]
    Queue {
        #[command(flatten)]
        reach: Reach,
        #[command(subcommand)]
        command: QueueCommand,
    },
    /// Make, show and change the accounts of those who may submit mail.
    #[command(
        after_help = "Examples:\n  postrider account add joe@example.org\n  postrider account add printer --send-as scans@example.org \
                      --generate\n  postrider account app-password add joe@example.org phone\n  postrider account disable \
                      joe@example.org\n\nA running server sees a change at once."
    )]
    Account {
        #[command(subcommand)]
        command: AccountCommand,
    },
    /// Look after the certificate that the running server gets from an authority by ACME.
    #[command(after_help = "Examples:\n  postrider acme status\n  postrider acme renew")]
    Acme {
        #[command(flatten)]
        reach: Reach,
        #[command(subcommand)]
        command: AcmeCommand,
    },
    /// See who is refused at connect, and change it.
    #[command(
        long_about = "See who is refused at connect, and change it.\n\nAddresses are banned by themselves for failed \
                      logins, on the listeners that have AUTH. What is banned by hand is refused on every listener.",
        after_help = "Examples:\n  postrider ban list\n  postrider ban add 203.0.113.0/24 --for 7d --reason \"spam run\"\n  \
                      postrider ban lift 192.0.2.7"
    )]
    Ban {
        #[command(flatten)]
        reach: Reach,
        #[command(subcommand)]
        command: BanCommand,
    },
    /// Look into TLS reports: those that came, and those that were sent.
    #[command(
        name = "tlsrpt",
        after_help = "Examples:\n  postrider tlsrpt summary --since 7d\n  postrider tlsrpt list --domain example.org\n  \
                      postrider tlsrpt show 01kan8q3v7c4x1m0z9t6w2r5hd\n  postrider tlsrpt counts --domain example.net"
    )]
    TlsReports {
        #[command(flatten)]
        reach: Reach,
        #[command(subcommand)]
        command: TlsReportsCommand,
    },
    /// Print the DNS records to publish for the configuration.
    #[command(
        long_about = "Print the DNS records to publish for the configuration, of one domain or of all in `domains`: MX, \
                      TLSA, MTA-STS, TLS-RPT and SPF. Lines can be put into a zone file as they are.",
        after_help = "Examples:\n  postrider dns-records\n  postrider dns-records example.org --json"
    )]
    DnsRecords {
        /// The domain.
        domain: Option<mail::Domain>,
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Tell how the running server is.
    Status {
        #[command(flatten)]
        reach: Reach,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the running server's metrics in the OpenMetrics text form.
    Metrics {
        #[command(flatten)]
        reach: Reach,
    },
    /// Print the completions for a shell.
    #[command(after_help = "Example:\n  postrider completions bash > /etc/bash_completion.d/postrider")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

const SELECT_HELP: &str = "Examples:\n  postrider queue summary\n  postrider queue list --domain example.org --limit 20\n  \
                           postrider queue show 01kan8q3v7c4x1m0z9t6w2r5hd --content > message.eml\n  postrider queue hold \
                           --sender news@example.org --reason \"complaints\"\n  postrider queue remove --domain \
                           example.org --older-than 2d";

/// What to see of TLS reports.
#[derive(Debug, Subcommand)]
pub enum TlsReportsCommand {
    /// List the reports that came, oldest first.
    List {
        #[command(flatten)]
        about: About,
        /// List at most this many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Show one report.
    Show {
        /// The id of its mail, as `list` tells it.
        id: MessageId,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Sum up the reports that came, by domain.
    Summary {
        #[command(flatten)]
        about: About,
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// List the reports that were sent to others or wait to be.
    Sent {
        /// About this domain.
        #[arg(long)]
        domain: Option<mail::Domain>,
        /// List at most this many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// List what is counted and not reported yet, by domain and day.
    Counts {
        /// About this domain.
        #[arg(long)]
        domain: Option<mail::Domain>,
        /// List at most this many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
}

/// Which reports are meant.
#[derive(Clone, Debug, Default, Args)]
pub struct About {
    /// Reports about this domain.
    #[arg(long)]
    pub domain: Option<mail::Domain>,
    /// Reports received not longer ago than this, such as 7d.
    #[arg(long, value_name = "DURATION")]
    pub since: Option<Period>,
}

/// What to do with accounts.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Make an account. Its password is asked for, unless told otherwise.
    Add {
        /// Its name, mostly an address.
        name: String,
        /// What it may send as: an address, a domain, or a pattern such as `*@example.org` or `joe+*@example.org`. Its
        /// own name if that is an address and nothing else is said.
        #[arg(long, value_name = "RULE")]
        send_as: Vec<String>,
        /// It proves itself by token or certificate only.
        #[arg(long, conflicts_with_all = ["generate", "password_stdin"])]
        without_password: bool,
        /// Its password does not open this server; only app passwords do.
        #[arg(long)]
        app_passwords_only: bool,
        #[command(flatten)]
        password: PasswordFrom,
        /// Print what was made as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List all accounts.
    List {
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Show one account, with when its passwords were last used.
    Show {
        /// Its name.
        name: String,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Give an account another password. Its app passwords stay.
    Passwd {
        /// Its name.
        name: String,
        #[command(flatten)]
        password: PasswordFrom,
        /// Print what was made as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shut an account out.
    Disable {
        /// Its name.
        name: String,
    },
    /// Let an account in again.
    Enable {
        /// Its name.
        name: String,
    },
    /// Remove an account. Mail that it has sent stays in the queue.
    Remove {
        /// Its name.
        name: String,
    },
    /// Tell what accounts have sent lately, and whose mail is held for a spike.
    Usage {
        /// This account; all of which anything is known if not said.
        name: Option<String>,
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Find right what an account sends: its mail is held no more, and what is held goes.
    Release {
        /// Its name.
        name: String,
        /// Why; logged, and kept with the messages.
        #[arg(long, default_value = "by hand")]
        reason: String,
        /// Print what was done as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Passwords for one program or device each.
    AppPassword {
        #[command(subcommand)]
        command: AppPasswordCommand,
    },
}

/// What to do with app passwords.
#[derive(Debug, Subcommand)]
pub enum AppPasswordCommand {
    /// Make one; it is shown this once.
    Add {
        /// The account.
        name: String,
        /// What it is for, such as `phone`.
        label: String,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List those of an account, with when they were last used.
    List {
        /// The account.
        name: String,
        /// Print them as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove one: what uses it is shut out.
    Remove {
        /// The account.
        name: String,
        /// What it is for.
        label: String,
    },
}

/// Where a password comes from; never from the command line, which everybody on the machine can read.
#[derive(Debug, Args)]
pub struct PasswordFrom {
    /// Read it from the first line of standard input.
    #[arg(long)]
    pub password_stdin: bool,
    /// Make one, and print it.
    #[arg(long, conflicts_with = "password_stdin")]
    pub generate: bool,
}

/// How to reach the running server.
#[derive(Debug, Args)]
pub struct Reach {
    /// The control socket; by default that of the configuration's store.
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// What to do with the certificate from an authority.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum AcmeCommand {
    /// Tell until when it is good, when the next one will be got, and what went wrong.
    Status {
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Get a new one now; the log tells how that goes.
    Renew,
}

/// The sandbox.
#[derive(Debug, Args)]
pub struct Sandbox {
    /// The port of the SMTP listener on 127.0.0.1.
    #[arg(long, default_value_t = 2525, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The folder for the queue and the captured messages.
    #[arg(long, value_name = "DIR", default_value = "./postrider-sandbox")]
    pub dir: PathBuf,
}

/// What to do with bans.
#[derive(Debug, Subcommand)]
pub enum BanCommand {
    /// List the bans in force, those that end first at the beginning.
    List {
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Refuse an address or a network from now on.
    Add {
        /// The address or network.
        network: reception::Network,
        /// For how long, such as 7d; without end if not said.
        #[arg(long = "for", value_name = "DURATION")]
        time: Option<Period>,
        /// Why; kept with the ban and logged.
        #[arg(long, default_value = "by hand")]
        reason: String,
        /// Print the ban as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Let an address or a network in again, and forget its failed logins.
    Lift {
        /// The address or network, as the list names it.
        network: reception::Network,
        /// Why; logged.
        #[arg(long, default_value = "by hand")]
        reason: String,
        /// Print what was done as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What to do with the queue.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// List messages, oldest first.
    List {
        #[command(flatten)]
        filter: Filter,
        /// List at most this many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Count what is queued and held, per destination.
    Summary {
        /// List at most this many destinations and lanes, those with the most first.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Print one JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Show one message with its recipients, or its content.
    Show {
        /// Its id.
        id: MessageId,
        /// Print the content as it will be sent, instead.
        #[arg(long, conflicts_with = "json")]
        content: bool,
        /// Print it as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Put messages on hold: nothing is tried until they are released.
    Hold(Change),
    /// Release messages from hold.
    Release(Change),
    /// Try messages again now.
    Retry(Change),
    /// Remove messages. Nobody is told, and nothing brings them back.
    Remove {
        #[command(flatten)]
        change: Change,
        /// Do not ask.
        #[arg(long, short)]
        yes: bool,
    },
}

/// An action on what is selected.
#[derive(Debug, Args)]
pub struct Change {
    #[command(flatten)]
    pub filter: Filter,
    /// Select the whole queue.
    #[arg(long)]
    pub all: bool,
    /// Why; kept with the messages and logged.
    #[arg(long, default_value = "by hand")]
    pub reason: String,
    /// Print what was done as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which messages are meant; several conditions must all hold.
#[derive(Clone, Debug, Default, Args)]
pub struct Filter {
    /// This message.
    #[arg(long, value_name = "ID")]
    pub id: Option<MessageId>,
    /// Messages to this address; `*` stands for any text.
    #[arg(long, value_name = "ADDRESS")]
    pub recipient: Option<Pattern>,
    /// Messages to this domain.
    #[arg(long, value_parser = mail::Domain::parse)]
    pub domain: Option<mail::Domain>,
    /// Messages from this address; `*` stands for any text, `<>` means reports.
    #[arg(long, value_name = "ADDRESS")]
    pub sender: Option<Pattern>,
    /// Messages that this account submitted.
    #[arg(long, value_name = "NAME")]
    pub account: Option<String>,
    /// Messages for this site, as `queue summary` names it.
    #[arg(long)]
    pub site: Option<String>,
    /// Messages that were received longer ago than this, such as 2d.
    #[arg(long, value_name = "DURATION")]
    pub older_than: Option<Period>,
}

impl Filter {
    /// Whether it has no condition.
    pub fn is_empty(&self) -> bool {
        self.to_selection(false).is_empty()
    }

    /// As the queue takes it; `all` must be said when there is no condition.
    pub fn to_selection(&self, all: bool) -> Selection {
        Selection {
            id: self.id,
            recipient: self.recipient.clone(),
            domain: self.domain.clone(),
            sender: self.sender.clone(),
            account: self.account.as_deref().map(str::to_lowercase),
            site: self.site.as_deref().map(mail::Site::new),
            older_than: self.older_than.map(|period| period.0),
            all,
        }
    }
}
