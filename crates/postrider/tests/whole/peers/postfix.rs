//! Postfix and its test programs, from an unpacked tree: it need not be installed.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Peer, skipped, workspace};
use crate::harness::{is_root, open_to_everybody, own_address};

/// An unpacked Postfix: `$POSTRIDER_TEST_POSTFIX`, or where `./dev test` puts it.
pub struct Tree(PathBuf);

impl Tree {
    /// The tree, or a word about its absence.
    pub fn found() -> Option<Self> {
        let tree = std::env::var_os("POSTRIDER_TEST_POSTFIX")
            .map_or_else(|| workspace().join("target/peers/postfix"), PathBuf::from);
        match tree.canonicalize() {
            Ok(tree) if tree.join("usr/sbin/smtp-sink").is_file() => Some(Self(tree)),
            _ => {
                skipped("postfix is not installed");
                None
            }
        }
    }

    /// The tree, if the whole Postfix can run: its master needs root.
    pub fn runnable() -> Option<Self> {
        let tree = Self::found()?;
        let user =
            fs::read_to_string("/etc/passwd").is_ok_and(|users| users.lines().any(|line| line.starts_with("postfix:")));
        if is_root() && user {
            return Some(tree);
        }
        skipped("postfix is not installed (its master needs root and the user `postfix`)");
        None
    }

    /// One of its programs.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.0.join("usr/sbin").join(name));
        command.env("LD_LIBRARY_PATH", self.0.join("usr/lib/postfix"));
        command
    }
}

/// A running Postfix with a folder, an address and a queue of its own.
pub struct Postfix {
    /// Where its smtpd listens.
    pub address: SocketAddr,
    work: PathBuf,
    _master: Peer,
}

impl Postfix {
    /// Starts one in the folder; `settings` are lines of main.cf.
    pub fn start(tree: &Tree, work: &Path, settings: &str) -> Self {
        Self::with_services(tree, work, settings, "")
    }

    /// The same with more services: lines of master.cf.
    pub fn with_services(tree: &Tree, work: &Path, settings: &str, services: &str) -> Self {
        let address = SocketAddr::new(own_address(), 2525);
        fs::create_dir_all(work.join("etc")).expect("a folder");
        fs::write(work.join("etc/main.cf"), main_cf(&tree.0, work, settings)).expect("main.cf");
        let master = fs::read_to_string(tree.0.join("usr/share/postfix/master.cf.dist")).expect("its master.cf");
        fs::write(work.join("etc/master.cf"), master_cf(&master, address) + services).expect("master.cf");
        make_queue(work);
        let mut command = Command::new(tree.0.join("usr/lib/postfix/sbin/master"));
        command.env("LD_LIBRARY_PATH", tree.0.join("usr/lib/postfix")).env("MAIL_CONFIG", work.join("etc"));
        command.arg("-d").arg("-c").arg(work.join("etc"));
        let master = Peer::listening(&mut command, address);
        Self { address, work: work.to_owned(), _master: master }
    }

    /// The messages that it has put into the Maildir `mail/all` so far.
    pub fn delivered(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.work.join("mail/all/new")) else { return Vec::new() };
        let read = |entry: fs::DirEntry| fs::read(entry.path()).expect("a delivered message");
        entries.flatten().map(|entry| String::from_utf8_lossy(&read(entry)).into_owned()).collect()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.work.join("maillog")).unwrap_or_default()
    }
}

fn main_cf(tree: &Path, work: &Path, settings: &str) -> String {
    let (tree, work) = (tree.display(), work.display());
    format!(
        "compatibility_level = 3.6\nqueue_directory = {work}/queue\ndata_directory = {work}/data\n\
         command_directory = {tree}/usr/sbin\ndaemon_directory = {tree}/usr/lib/postfix/sbin\n\
         shlib_directory = {tree}/usr/lib/postfix\nmeta_directory = {work}/etc\nmail_owner = postfix\n\
         setgid_group = postdrop\nimport_environment = MAIL_CONFIG TZ LANG=C LD_LIBRARY_PATH\n\
         myhostname = postfix.test\nmydestination =\nalias_maps =\nlocal_recipient_maps =\n\
         inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmynetworks = 127.0.0.0/8\n\
         smtpd_relay_restrictions = permit_mynetworks, reject\nsmtp_host_lookup = native\n\
         smtpd_peername_lookup = no\nsmtputf8_enable = yes\nlocal_header_rewrite_clients =\n\
         smtp_tls_security_level = none\nsmtpd_tls_security_level = none\n\
         maillog_file = {work}/maillog\nmaillog_file_prefixes = /\n{settings}\n"
    )
}

/// Nothing in a chroot, and smtpd at our address alone.
fn master_cf(original: &str, address: SocketAddr) -> String {
    let mut text = format!("{address} inet n - n - - smtpd\n");
    for line in original.lines().filter(|line| !line.starts_with('#')) {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if words.starts_with(&["smtp", "inet"]) {
            continue;
        }
        if !line.starts_with([' ', '\t']) && words.len() > 7 {
            words[4] = "n";
            text.push_str(&words.join(" "));
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    text
}

fn make_queue(work: &Path) {
    open_to_everybody(work, 0o755);
    for folder in
        "active bounce corrupt defer deferred flush hold incoming private saved trace maildrop pid public".split(' ')
    {
        let path = work.join("queue").join(folder);
        fs::create_dir_all(&path).expect("a folder");
        let (owner, mode) = match folder {
            "maildrop" => ("postfix:postdrop", 0o730),
            "public" => ("postfix:postdrop", 0o710),
            "pid" => ("root", 0o755),
            _ => ("postfix:root", 0o700),
        };
        own(&path, owner);
        open_to_everybody(&path, mode);
    }
    fs::create_dir_all(work.join("data")).expect("a folder");
    own(&work.join("data"), "postfix");
    fs::create_dir_all(work.join("mail")).expect("a folder");
    own(&work.join("mail"), "nobody");
}

fn own(path: &Path, owner: &str) {
    let done = Command::new("chown").arg(owner).arg(path).status().expect("chown runs");
    assert!(done.success(), "chown {owner} {}", path.display());
}
