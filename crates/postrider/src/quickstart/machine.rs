//! Whether this machine is fit for a mail server, each doubt with its cure.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use dns::{LookupError, MxAnswer, Probe, Resolve, Resolver};
use mail::Domain;
use serde::Serialize;
use tokio::net::TcpStream;

use super::plan::{Plan, sockets};
use crate::config::Configuration;
use crate::control::Client;
use crate::server::{CONTROL_SOCKET, make_user};

/// How long another server may take to accept a connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// Domains whose mail servers stand open to everybody.
const WELL_KNOWN: [&str; 3] = ["gmail.com", "outlook.com", "yahoo.com"];

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// How it is.
    pub state: State,
    /// What was seen.
    pub text: String,
    /// What to do, unless it is well.
    pub cure: Option<String>,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Good,
    /// It could not be found out, or may be on purpose.
    Unsure,
    /// Mail will suffer.
    Bad,
}

impl Finding {
    fn good(subject: &'static str, text: impl Into<String>) -> Self {
        Self { subject, state: State::Good, text: text.into(), cure: None }
    }

    fn unsure(subject: &'static str, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { subject, state: State::Unsure, text: text.into(), cure: Some(cure.into()) }
    }

    fn bad(subject: &'static str, text: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { subject, state: State::Bad, text: text.into(), cure: Some(cure.into()) }
    }
}

/// Whether the user exists that the server becomes.
pub fn user(plan: &Plan) -> Option<Finding> {
    let user = plan.user.as_ref()?;
    let name = &user.name;
    Some(match user.owner {
        Some(_) => Finding::good("user", format!("`{name}` exists")),
        None => Finding::bad(
            "user",
            format!("there is no user `{name}`, and the server does not serve as root"),
            format!(
                "{} && chgrp {name} {} {} && chown {name}: {} {}",
                make_user(name, &plan.store),
                plan.folder.display(),
                plan.configuration().display(),
                plan.accounts.as_deref().unwrap_or(Path::new("")).display(),
                plan.store.display()
            ),
        ),
    })
}

/// What was asked for, and is not so because a configuration is there.
pub fn command_line(plan: &Plan, unheeded: &[&str]) -> Option<Finding> {
    let path = plan.configuration();
    let path = path.display();
    (!unheeded.is_empty()).then(|| {
        Finding::unsure(
            "configuration",
            format!("{path} stays as it is, and does not say what the command line says: {}", unheeded.join(", ")),
            format!("change it in {path}, and look again"),
        )
    })
}

/// Nothing can be looked up at all.
pub fn no_look_ups(why: &dyn std::fmt::Display) -> Finding {
    let cure = "list name servers that answer in [dns] servers, best a resolver of your own: apt install unbound";
    Finding::bad("name servers", format!("nothing can be looked up: {why}"), cure)
}

/// Whether the ports are free.
pub fn ports(configuration: &Configuration) -> Vec<Finding> {
    let running = is_running(&configuration.store.path);
    sockets(configuration).into_iter().map(|socket| port(socket, running)).collect()
}

fn port(socket: SocketAddr, running: bool) -> Finding {
    let listener = match socket {
        SocketAddr::V4(_) => TcpListener::bind(socket),
        SocketAddr::V6(_) => bind_v6_only(socket),
    };
    match listener {
        Ok(_) => Finding::good("port", format!("{socket} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse && running => {
            Finding::good("port", format!("{socket} is taken by the server that runs here"))
        }
        Err(error) if error.kind() == ErrorKind::AddrInUse => Finding::bad(
            "port",
            format!("{socket} is taken by another program"),
            format!(
                "find it with `ss -ltnp 'sport = :{}'` and stop it for good; often it is another mail server: systemctl disable --now postfix exim4",
                socket.port()
            ),
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Finding::unsure(
            "port",
            format!("only root may listen on {socket}"),
            "run this as root, or let systemd give the right: AmbientCapabilities=CAP_NET_BIND_SERVICE, as in packaging/postrider.service",
        ),
        Err(error) => Finding::bad(
            "port",
            format!("{socket} cannot be used: {error}"),
            "choose addresses of this machine with --listen",
        ),
    }
}

/// As the server binds it: an IPv6 socket that takes no IPv4 connections along.
fn bind_v6_only(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
    socket.set_only_v6(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)?;
    Ok(socket.into())
}

/// Whether a server runs on that store.
pub fn is_running(store: &Path) -> bool {
    Client::connect(&store.join(CONTROL_SOCKET)).is_ok()
}

/// Whether port 25 of others can be reached from here: many networks close it.
pub async fn way_out(resolver: Option<&dyn Resolve>, probes: &[SocketAddr]) -> Finding {
    let targets = match resolver {
        Some(resolver) if probes.is_empty() => mail_servers(resolver).await,
        _ => probes.to_vec(),
    };
    if targets.is_empty() {
        return Finding::unsure(
            "port 25 out",
            "no mail server could be looked up to try",
            "see to the name servers first, then run this again",
        );
    }
    for target in &targets {
        if let Ok(Ok(_)) = tokio::time::timeout(PATIENCE, TcpStream::connect(target)).await {
            return Finding::good("port 25 out", format!("{target} answers"));
        }
    }
    let tried: Vec<String> = targets.iter().map(ToString::to_string).collect();
    Finding::bad(
        "port 25 out",
        format!("none of {} answers: this network seems to close port 25", tried.join(", ")),
        "ask your provider to open outgoing port 25, or send through a smart host: a [[route]] with domains = \"*\", to = \"smtp.provider.example:587\" and `auth`",
    )
}

async fn mail_servers(resolver: &dyn Resolve) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for name in WELL_KNOWN {
        let Ok(domain) = Domain::parse(name) else { continue };
        let Ok(MxAnswer::Hosts(hosts)) = resolver.mx(&domain).await.map(|answer| answer.found) else { continue };
        let Some(first) = hosts.first() else { continue };
        if let Ok(addresses) = resolver.addresses(&first.host).await {
            found.extend(addresses.ips.into_iter().find(IpAddr::is_ipv4).map(|ip| SocketAddr::new(ip, 25)));
        }
    }
    found
}

/// Whether names can be looked up, and whether the answers can be relied on.
pub async fn name_servers(resolver: &Resolver, domain: &Domain) -> Vec<Finding> {
    if let Err(error @ LookupError::Temporary { .. }) = resolver.mx(domain).await {
        let cure = "list name servers that answer in [dns] servers, best a resolver of your own: apt install unbound";
        return vec![Finding::bad("name servers", format!("they do not answer: {error}"), cure)];
    }
    let dnssec = match resolver.probe().await {
        Probe::Validates => Finding::good("DNSSEC", "the name servers validate: DANE works"),
        Probe::ValidatesHere => Finding::good("DNSSEC", "this server validates answers: DANE works"),
        Probe::Fails(error) => Finding::bad(
            "DNSSEC",
            format!("the answer about the root zone cannot be validated, and no mail would leave: {error}"),
            "list name servers in [dns] servers that hand on signatures, and look at the clock",
        ),
        Probe::DoesNotValidate => Finding::unsure(
            "DNSSEC",
            "the name servers do not validate, so that there is no DANE",
            "run a validating resolver on this machine: apt install unbound",
        ),
        Probe::Off => Finding::unsure(
            "DNSSEC",
            "the name servers are not on this machine, so that what they say of DNSSEC is not believed, and there is no DANE",
            "run a validating resolver on this machine and name it first in /etc/resolv.conf (apt install unbound), or set \
             `dnssec = \"validate\"` in [dns]",
        ),
        Probe::Unknown(error) => {
            Finding::unsure("DNSSEC", format!("it could not be found out: {error}"), "run this again later")
        }
    };
    vec![Finding::good("name servers", "they answer"), dnssec]
}

/// Whether the clock can be trusted: certificates, signatures and schedules depend on it.
pub fn clock() -> Finding {
    let output = std::process::Command::new("timedatectl").args(["show", "-p", "NTPSynchronized", "--value"]).output();
    match output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).as_deref() {
        Ok("yes") => Finding::good("clock", "it is kept right"),
        Ok("no") => Finding::bad(
            "clock",
            "nothing keeps it right",
            "timedatectl set-ntp true, or install a time service such as chrony",
        ),
        _ => Finding::unsure(
            "clock",
            "whether something keeps it right cannot be found out here",
            "see to it that a time service such as chrony or systemd-timesyncd runs",
        ),
    }
}
