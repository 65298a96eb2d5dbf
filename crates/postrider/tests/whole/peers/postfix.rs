//! The test programs of Postfix, from an unpacked tree: it need not be installed.

use std::path::PathBuf;
use std::process::Command;

use super::{skipped, workspace};

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

    /// One of its programs.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.0.join("usr/sbin").join(name));
        command.env("LD_LIBRARY_PATH", self.0.join("usr/lib/postfix"));
        command
    }
}
