//! A server to try things out with: no configuration, loopback only, and a capture server as the only way out.
//!
//! ```text
//! you ─► 127.0.0.1:2525 ─► queue on disk ─► SMTP client ─► capture server ─► captured/*.eml
//! ```
//!
//! Everything between the two ends is the real thing: the same rooms, wired the same way, only configured here.

mod capture;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use mail::{Clock, MessageIds, Randomness, SystemClock};
use prometheus_client::registry::Registry;
use reception::Reception;

use crate::cli::Sandbox;
use crate::config;
use crate::output;
use crate::server::{CONTROL_SOCKET, Prepared, Root, ServeError, keep_private};
use capture::Capture;

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// See the inner error.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Somebody else listens there.
    #[error("port {0} is taken: another sandbox, or another program, listens on 127.0.0.1:{0}")]
    PortTaken(u16),
    /// A file or socket cannot be used.
    #[error("cannot {action}: {error}")]
    System {
        /// What was tried.
        action: String,
        /// Why it failed.
        error: std::io::Error,
    },
}

impl SandboxError {
    fn system(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::System { action: action.into(), error }
    }

    /// What to do about it.
    pub fn cure(&self) -> Option<String> {
        match self {
            Self::PortTaken(port) => {
                let other = port.checked_add(1).unwrap_or(2525);
                Some(format!("stop it, or choose another port: postrider sandbox --port {other}"))
            }
            Self::Serve(error) => error.cure(),
            Self::System { .. } => None,
        }
    }
}

/// Runs the sandbox until it is told to stop.
pub fn sandbox(options: &Sandbox) -> Result<(), SandboxError> {
    keep_private();
    check_port(options.port)?;
    let captured = options.dir.join("captured");
    std::fs::create_dir_all(&captured).map_err(SandboxError::system(format!("make {}", captured.display())))?;
    let (capture, address) = open_capture(&captured)?;
    let loaded = config::load_text("sandbox", &configuration(options, address)).map_err(ServeError::Configuration)?;
    let prepared = Prepared::new(loaded, None, Root::Allowed)?;
    let banner = banner(options, &captured);
    prepared.run(move |_| {
        tokio::spawn(async move { capture.serve().await });
        // A sandbox whose terminal is gone has nobody to greet.
        let _ = output::line(banner);
    })?;
    Ok(())
}

/// Says so in clear words if somebody listens there already.
fn check_port(port: u16) -> Result<(), SandboxError> {
    match std::net::TcpStream::connect_timeout(&loopback(port), std::time::Duration::from_millis(500)) {
        Ok(_) => Err(SandboxError::PortTaken(port)),
        Err(_) => Ok(()),
    }
}

/// The capture server on a free port of its own. It listens from here on, and answers once it is served.
fn open_capture(folder: &Path) -> Result<(Reception, SocketAddr), SandboxError> {
    let listener = TcpListener::bind(loopback(0)).map_err(SandboxError::system("listen for captured mail"))?;
    let address = listener.local_addr().map_err(SandboxError::system("listen for captured mail"))?;
    let reception = Reception::new(reception::Parts {
        intake: Arc::new(Capture::new(folder.to_owned())),
        clock: Arc::new(SystemClock) as Arc<dyn Clock>,
        ids: Arc::new(MessageIds::new(Randomness::from_system())),
        metrics: reception::Metrics::register(&mut Registry::default()),
        directory: directory::Directory::new(directory::Metrics::default()),
        observer: Arc::new(()),
    });
    reception.bind(capture::settings(listener, address)).map_err(ServeError::from)?;
    Ok((reception, address))
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The sandbox's configuration: written as anybody would write it, so that it is read and checked the same way.
fn configuration(options: &Sandbox, capture: SocketAddr) -> String {
    let store = options.dir.join("queue");
    let store = serde_json::Value::from(store.to_string_lossy());
    format!(
        "hostname = \"sandbox.localhost\"\n\
         networks = [\"127.0.0.0/8\", \"::1/128\"]\n\
         drain = \"5s\"\n\
         [[listener]]\n\
         name = \"sandbox\"\n\
         address = \"127.0.0.1:{port}\"\n\
         endings = \"repair\"\n\
         [[route]]\n\
         name = \"capture\"\n\
         domains = \"*\"\n\
         to = \"{capture}\"\n\
         [store]\n\
         path = {store}\n\
         segment = \"8MiB\"\n\
         free_space = \"32MiB\"\n\
         [dns]\n\
         servers = \"127.0.0.1:53\"\n",
        port = options.port,
    )
}

fn banner(options: &Sandbox, captured: &Path) -> String {
    let (port, captured) = (options.port, captured.display());
    let socket = options.dir.join("queue").join(CONTROL_SOCKET);
    let socket = socket.display();
    format!(
        "\nThe sandbox takes mail on 127.0.0.1:{port}. Nothing leaves this machine: all of it is captured in\n{captured}\n\n\
         Send a test message with curl:\n\n  \
         printf 'From: me@example.org\\r\\nTo: you@example.net\\r\\nSubject: Hello\\r\\n\\r\\nIt works.\\r\\n' | \
         curl -s smtp://127.0.0.1:{port} --mail-from me@example.org --mail-rcpt you@example.net -T -\n\n\
         or with swaks:\n\n  \
         swaks --server 127.0.0.1:{port} --from me@example.org --to you@example.net\n\n\
         Look into the queue:\n\n  \
         postrider queue summary --socket {socket}\n\n\
         Ctrl-C stops it.\n"
    )
}
