//! What a server is started with.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::{Sink, own_socket};

/// A folder, an address and a configuration; clones share the folder, so that a restart finds the queue.
#[derive(Clone)]
pub struct Setup {
    folder: Arc<TempDir>,
    /// Where the server takes mail.
    pub address: SocketAddr,
    top: String,
    tables: String,
    networks: String,
    listener: String,
    store: String,
    segment: &'static str,
    floors: &'static str,
    user: &'static str,
    config: &'static str,
}

impl Setup {
    /// No routes yet.
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// The same, with its folder made in that one.
    pub fn within(parent: &Path) -> Self {
        Self {
            folder: Arc::new(tempfile::tempdir_in(parent).expect("a temporary folder")),
            address: own_socket(),
            top: String::new(),
            tables: String::new(),
            networks: "127.0.0.0/8".to_owned(),
            listener: String::new(),
            store: String::new(),
            segment: "1MiB",
            floors: "free_space = \"0B\"\nfree_inodes = 0",
            user: if is_root() { "nobody" } else { "" },
            config: "postrider.toml",
        }
    }

    /// All mail goes to the sink.
    pub fn to(sink: &Sink) -> Self {
        Self::new().route("*", &sink.address().to_string())
    }

    /// Adds a route.
    pub fn route(self, domains: &str, to: &str) -> Self {
        self.table(&format!("[[route]]\ndomains = \"{domains}\"\nto = \"{to}\""))
    }

    /// Adds keys to the top level: `drain = "1s"`.
    pub fn top(mut self, keys: &str) -> Self {
        writeln!(self.top, "{keys}").expect("a string takes everything");
        self
    }

    /// Adds tables: `[retry]\nfirst = "1s"`.
    pub fn table(mut self, table: &str) -> Self {
        writeln!(self.tables, "{table}").expect("a string takes everything");
        self
    }

    /// The same folder and address with another configuration.
    pub fn instead(&self) -> Self {
        Self { top: String::new(), tables: String::new(), ..self.clone() }
    }

    /// The same folder and configuration at another address, with a file of its own.
    pub fn elsewhere(&self) -> Self {
        Self { address: own_socket(), config: "elsewhere.toml", ..self.clone() }
    }

    /// Other networks may relay than loopback.
    pub fn networks(mut self, network: &str) -> Self {
        self.networks = network.to_owned();
        self
    }

    /// The listener speaks LMTP.
    pub fn lmtp(self) -> Self {
        self.listener("protocol = \"lmtp\"")
    }

    /// Adds keys to the listener: `endings = "repair"`.
    pub fn listener(mut self, keys: &str) -> Self {
        writeln!(self.listener, "{keys}").expect("a string takes everything");
        self
    }

    /// Adds keys to the store: `checkpoint = "1s"`.
    pub fn store(mut self, keys: &str) -> Self {
        writeln!(self.store, "{keys}").expect("a string takes everything");
        self
    }

    /// Sets the size of the log's files; 1 MiB if not set.
    pub fn segment(mut self, size: &'static str) -> Self {
        self.segment = size;
        self
    }

    /// How much must be free on the disk: `free_space = "8MiB"\nfree_inodes = 20`; none if not set.
    pub fn floors(mut self, floors: &'static str) -> Self {
        self.floors = floors;
        self
    }

    /// No user to become, even if the test runs as root.
    pub fn staying_root(mut self) -> Self {
        self.user = "";
        self
    }

    /// The folder of everything.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder().join(self.config)
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.folder().join("queue/control")
    }

    /// Writes the configuration file.
    pub fn write(&self) {
        std::fs::write(self.config(), self.text()).expect("the configuration is written");
    }

    fn text(&self) -> String {
        let user = if self.user.is_empty() { String::new() } else { format!("user = \"{}\"\n", self.user) };
        let Self { top, tables, address, networks, listener, store, segment, floors, .. } = self;
        let path = self.folder().join("queue");
        format!(
            "hostname = \"mx.test\"\nnetworks = [\"{networks}\"]\n{user}{top}\n\
             [[listener]]\nname = \"test\"\naddress = \"{address}\"\n{listener}\
             [store]\npath = \"{}\"\nsegment = \"{segment}\"\n{floors}\n{store}\
             [log]\nlevel = \"debug\"\nformat = \"json\"\n{tables}",
            path.display()
        )
    }
}

/// The server does not run as root; tests may.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
