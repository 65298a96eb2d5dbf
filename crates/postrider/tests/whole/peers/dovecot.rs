//! A real Dovecot that judges passwords for others.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use self::unpacked::{configuration, libraries};
use super::{Peer, workspace};
use crate::harness::{is_root, open_to_everybody, skipped, wait_for};

#[path = "../../../../directory/tests/backends/unpacked.rs"]
mod unpacked;

/// A running Dovecot, of which there is no more than its service for logins.
pub struct Dovecot {
    /// Where it is asked.
    pub socket: PathBuf,
    _master: Peer,
}

impl Dovecot {
    /// Starts one in the folder, with one user; says a word if that cannot be.
    pub fn start(folder: &Path, user: &str, password: &str) -> Option<Self> {
        let usual = || workspace().join("target/peers/accounts");
        let tree = std::env::var_os("POSTRIDER_TEST_ACCOUNTS").map_or_else(usual, PathBuf::from);
        let tree = tree.canonicalize().ok().filter(|tree| tree.join("usr/sbin/dovecot").is_file());
        let Some(tree) = tree.filter(|_| is_root()) else {
            skipped("Dovecot is not unpacked (its master needs root)");
            return None;
        };
        fs::create_dir_all(folder.join("run")).expect("a folder");
        open_to_everybody(folder, 0o755);
        fs::write(folder.join("users"), format!("{user}:{{PLAIN}}{password}::::::\n")).expect("a file");
        let (config, socket) = (folder.join("dovecot.conf"), folder.join("run/auth-client"));
        fs::write(&config, configuration(folder, &tree)).expect("a file");
        // Unpacked, it does not find its `doveconf` by itself.
        let mut command = Command::new(tree.join("usr/bin/doveconf"));
        command.args(["-f", "service=master", "-c"]).arg(&config).args(["-m", "master", "-x", "-e"]);
        command.arg(tree.join("usr/sbin/dovecot")).args(["-F", "-c"]).arg(&config);
        command.env("LD_LIBRARY_PATH", libraries(&tree)).stderr(Stdio::null());
        let master = Peer::spawn(&mut command);
        wait_for("Dovecot's socket", || UnixStream::connect(&socket).ok());
        Some(Self { socket, _master: master })
    }
}
