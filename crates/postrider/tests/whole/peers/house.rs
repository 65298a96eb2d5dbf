//! A server for people's mail: both kinds of listeners, and the account `anna@example.org`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use super::folder_in;
use crate::harness::{Postrider, Setup, Sink, open_to_everybody};

pub const ANNA: &str = "anna@example.org";
pub const PASSWORD: &str = "correct horse";
const MAIL: &str = "From: Anna <anna@example.org>\r\nBcc: hidden@example.net\r\nSubject: hi\r\n\r\nhello\r\n";

pub struct House {
    pub server: Postrider,
    /// Where all mail goes.
    pub sink: Sink,
    /// Port 587.
    pub starttls: SocketAddr,
    /// Port 465.
    pub implicit: SocketAddr,
}

impl House {
    /// With more tables in its configuration.
    pub fn open(tables: &str) -> Self {
        Self::furnished(|_| tables.to_owned())
    }

    /// With more tables, which may name files that are made here, and `[accounts]` itself if it is to have keys.
    pub fn furnished(tables: impl FnOnce(&Setup) -> String) -> Self {
        let sink = Sink::start();
        let setup = Setup::to(&sink);
        let ip = setup.address.ip();
        let (starttls, implicit) = (SocketAddr::new(ip, 5870), SocketAddr::new(ip, 4650));
        let tables = tables(&setup);
        let accounts = if tables.contains("[accounts]") { "" } else { "[accounts]\n" };
        let setup = setup.table(&format!(
            "{accounts}[[listener]]\nname = \"submission\"\naddress = \"{starttls}\"\nrole = \"submission\"\n\
             [[listener]]\nname = \"submissions\"\naddress = \"{implicit}\"\nrole = \"submissions\"\n{tables}"
        ));
        setup.write();
        open_to_everybody(setup.folder(), 0o755);
        let password = folder_in(&setup, "client").join("password");
        std::fs::write(&password, format!("{PASSWORD}\n")).expect("a file");
        let mut add = Command::new(crate::harness::binary());
        add.arg("--config").arg(setup.config()).args(["account", "add", ANNA, "--password-stdin"]);
        let output = add.stdin(std::fs::File::open(&password).expect("our file")).output().expect("the binary runs");
        assert!(output.status.success(), "{output:?}");
        Self { server: Postrider::start(&setup), sink, starttls, implicit }
    }

    /// A file with the mail.
    pub fn mail(&self) -> PathBuf {
        let file = folder_in(self.server.setup(), "client").join("mail");
        std::fs::write(&file, MAIL).expect("a file");
        file
    }

    /// The next mail came from the account, completed, and tells nothing of where it is.
    pub fn arrived(&self, mechanism: &str) {
        let mail = self.sink.next();
        assert_eq!(mail.from, ANNA, "{mechanism}");
        assert!(mail.header("Date").is_some() && mail.header("Message-ID").is_some(), "{}", mail.content);
        assert!(mail.header("Bcc").is_none() && !mail.content.contains("[127."), "{}", mail.content);
        self.logged_in(mechanism);
    }

    /// Waits until Anna has logged in so.
    pub fn logged_in(&self, mechanism: &str) {
        self.server.wait(&format!("the login by {mechanism}"), |line| {
            line["event"] == "logged in" && line["account"] == ANNA && line["mechanism"] == mechanism
        });
    }

    pub fn json(&self, arguments: &[&str]) -> Vec<serde_json::Value> {
        self.server.command(arguments).json()
    }
}
