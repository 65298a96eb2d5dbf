//! A real Dovecot that judges passwords for others.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Peer, workspace};
use crate::harness::{is_root, open_to_everybody, skipped, wait_for};

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

fn libraries(tree: &Path) -> String {
    let folders = [
        "usr/lib/dovecot",
        "usr/lib/dovecot/modules/old-stats",
        "usr/lib/x86_64-linux-gnu",
        "usr/lib/aarch64-linux-gnu",
    ];
    folders.map(|folder| tree.join(folder).display().to_string()).join(":")
}

fn configuration(folder: &Path, tree: &Path) -> String {
    let (folder, libraries, tree) = (folder.display(), libraries(tree), tree.display());
    format!(
        "import_environment = LD_LIBRARY_PATH={libraries}\n\
         base_dir = {folder}/run\nstate_dir = {folder}/run\nlog_path = {folder}/log\nauth_verbose = yes\n\
         libexec_dir = {tree}/usr/lib/dovecot\nmail_plugin_dir = {tree}/usr/lib/dovecot/modules\n\
         protocols =\nssl = no\nlisten = 127.0.0.1\n\
         default_internal_user = daemon\ndefault_internal_group = daemon\ndefault_login_user = nobody\n\
         auth_mechanisms = plain login scram-sha-256\nauth_failure_delay = 0 secs\n\
         passdb {{\n  driver = passwd-file\n  args = {folder}/users\n}}\n\
         userdb {{\n  driver = static\n  args = uid=65534 gid=65534 home=/nonexistent\n}}\n\
         service auth {{\n  user = root\n  unix_listener auth-client {{\n    mode = 0666\n  }}\n}}\n"
    )
}
