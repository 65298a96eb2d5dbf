//! What servers need that were unpacked and not installed.

use std::path::Path;

/// Where the libraries of a tree are.
pub fn libraries(tree: &Path) -> String {
    let folders = [
        "usr/lib/dovecot",
        "usr/lib/dovecot/modules/old-stats",
        "usr/lib/x86_64-linux-gnu",
        "usr/lib/aarch64-linux-gnu",
    ];
    folders.map(|folder| tree.join(folder).display().to_string()).join(":")
}

/// Dovecot's settings: its service for logins alone, with the users of the file `users`.
pub fn configuration(folder: &Path, tree: &Path) -> String {
    let (folder, libraries, tree) = (folder.display(), libraries(tree), tree.display());
    format!(
        "import_environment = LD_LIBRARY_PATH={libraries}\n\
         base_dir = {folder}/run\nstate_dir = {folder}/run\nlog_path = {folder}/log\nauth_verbose = yes\n\
         libexec_dir = {tree}/usr/lib/dovecot\nmail_plugin_dir = {tree}/usr/lib/dovecot/modules\n\
         protocols =\nssl = no\nlisten = 127.0.0.1\n\
         default_internal_user = daemon\ndefault_internal_group = daemon\ndefault_login_user = nobody\n\
         auth_mechanisms = plain login scram-sha-256\nauth_failure_delay = 0 secs\n\
         auth_username_translation = %@\n\
         passdb {{\n  driver = passwd-file\n  args = {folder}/users\n}}\n\
         userdb {{\n  driver = passwd-file\n  args = {folder}/users\n  default_fields = uid=65534 gid=65534 home=/nonexistent\n}}\n\
         service auth {{\n  user = root\n  unix_listener auth-client {{\n    mode = 0666\n  }}\n  unix_listener auth-userdb {{\n    mode = 0666\n  }}\n}}\n"
    )
}
