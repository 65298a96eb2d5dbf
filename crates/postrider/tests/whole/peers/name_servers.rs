//! `nsd`, which serves zones below `test`, signed ones too, and `unbound`, which asks it for us.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Peer, run, tool};
use crate::harness::own_address;

/// Where the names of loopback addresses are.
const REVERSE: &str = "127.in-addr.arpa";

/// Both, running; what unbound does not find at nsd it does not find at all.
pub struct NameServers {
    /// Where unbound listens.
    pub address: SocketAddr,
    /// The file with the key of the root zone, if that is signed.
    pub anchor: Option<PathBuf>,
    _unbound: Peer,
    _nsd: Peer,
}

impl NameServers {
    /// Starts both, or says a word about the absence of one. `zone` are the records of `test`; names in it have no dot at
    /// their end. nsd knows of `broken.test`, but has no records of it, and so answers SERVFAIL.
    pub fn start(folder: &Path, zone: &str) -> Option<Self> {
        let authority = SocketAddr::new(own_address(), 5300);
        fs::write(folder.join("test.zone"), head("test", authority) + zone).expect("the zone");
        let zones = [("test", "test.zone"), ("broken.test", "absent.zone")];
        Self::serve(folder, authority, SocketAddr::new(own_address(), 5300), &zones, &["test"], None)
    }

    /// The same with a zone for the way back from addresses: `reverse` are the records of `127.in-addr.arpa`.
    pub fn with_reverse(folder: &Path, zone: &str, reverse: &str) -> Option<Self> {
        let authority = SocketAddr::new(own_address(), 5300);
        fs::write(folder.join("test.zone"), head("test", authority) + zone).expect("the zone");
        fs::write(folder.join("reverse.zone"), head(REVERSE, authority) + reverse).expect("the zone");
        let zones = [("test", "test.zone"), ("broken.test", "absent.zone"), (REVERSE, "reverse.zone")];
        Self::serve(folder, authority, SocketAddr::new(own_address(), 5300), &zones, &["test", REVERSE], None)
    }

    /// The same with a signed root, and two zones below: `plain.test`, and `dane.test`, which is signed. The signatures
    /// of the records in `forged` (`name TYPE`) are broken. unbound validates if it is to.
    pub fn signed(folder: &Path, plain: &str, dane: &str, forged: &[&str], validates: Validates) -> Option<Self> {
        Self::signed_at(SocketAddr::new(own_address(), 5300), folder, plain, dane, forged, validates)
    }

    /// The same with unbound at this address.
    pub fn signed_at(
        at: SocketAddr,
        folder: &Path,
        plain: &str,
        dane: &str,
        forged: &[&str],
        validates: Validates,
    ) -> Option<Self> {
        let authority = SocketAddr::new(own_address(), 5300);
        fs::write(folder.join("plain.test.signed"), head("plain.test", authority) + plain).expect("the zone");
        let dane = sign(folder, "dane.test", &(head("dane.test", authority) + dane), Denial::Names)?;
        let delegated = "plain NS ns.plain\ndane NS ns.dane\n";
        let glue = format!("ns.plain A {0}\nns.dane A {0}\n", authority.ip());
        let test = head("test", authority) + delegated + &glue + &dane.digest;
        let test = sign(folder, "test", &test, Denial::Hashes)?;
        let root = format!("{}test. NS ns.test.\nns.test. A {}\n{}", head("", authority), authority.ip(), test.digest);
        let root = sign(folder, "", &root, Denial::Names)?;
        let file = folder.join("dane.test.signed");
        let whole = fs::read_to_string(&file).expect("the signed zone");
        fs::write(&file, forge(&whole, forged)).expect("the zone");
        let zones = [
            (".", ".signed"),
            ("test", "test.signed"),
            ("dane.test", "dane.test.signed"),
            ("plain.test", "plain.test.signed"),
        ];
        let anchor = Some(&*root.key).filter(|_| validates == Validates::Unbound);
        // Delegations say nothing of ports.
        let stubs = ["", "test", "dane.test", "plain.test"];
        let mut servers = Self::serve(folder, authority, at, &zones, &stubs, anchor)?;
        servers.anchor = Some(root.key);
        Some(servers)
    }

    /// The table of the configuration that asks them.
    pub fn table(&self, validates: Validates) -> String {
        let how = match (validates, &self.anchor) {
            (Validates::Postrider, Some(anchor)) => format!("\"validate\"\ntrust_anchors = \"{}\"", anchor.display()),
            _ => "\"trust\"".to_owned(),
        };
        format!("[dns]\nservers = \"{}\"\ndnssec = {how}", self.address)
    }

    fn serve(
        folder: &Path,
        authority: SocketAddr,
        resolver: SocketAddr,
        zones: &[(&str, &str)],
        stubs: &[&str],
        anchor: Option<&Path>,
    ) -> Option<Self> {
        let (nsd, unbound) = (tool("nsd")?, tool("unbound")?);
        let nsd_conf = folder.join("nsd.conf");
        fs::write(&nsd_conf, nsd_settings(folder, authority, zones)).expect("a file");
        let mut command = Command::new(nsd);
        let nsd = Peer::saying(command.arg("-d").arg("-c").arg(&nsd_conf), "nsd started");
        let unbound_conf = folder.join("unbound.conf");
        fs::write(&unbound_conf, unbound_settings(folder, resolver, authority, stubs, anchor)).expect("a file");
        let mut command = Command::new(unbound);
        let unbound = Peer::saying(command.arg("-d").arg("-c").arg(&unbound_conf), "start of service");
        Some(Self { address: resolver, anchor: None, _unbound: unbound, _nsd: nsd })
    }
}

/// Who proves the answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Validates {
    Unbound,
    /// unbound only hands them on.
    Postrider,
}

/// How a signed zone says that something does not exist.
enum Denial {
    /// NSEC.
    Names,
    /// NSEC3 that leaves delegations to unsigned zones out.
    Hashes,
}

/// A zone that was signed into `zone.signed`.
struct Signed {
    /// The file with its key.
    key: PathBuf,
    /// The record of its key's digest, for the zone above.
    digest: String,
}

fn sign(folder: &Path, zone: &str, records: &str, denial: Denial) -> Option<Signed> {
    let (keygen, signzone) = (tool("ldns-keygen")?, tool("ldns-signzone")?);
    let (file, origin) = (format!("{zone}.zone"), format!("{zone}."));
    fs::write(folder.join(&file), records).expect("the zone");
    let mut command = Command::new(keygen);
    command.args(["-a", "ECDSAP256SHA256", "-k", "-r", "/dev/urandom", &origin]).current_dir(folder);
    let key = run(&mut command).trim().to_owned();
    let mut command = Command::new(signzone);
    if matches!(denial, Denial::Hashes) {
        command.args(["-n", "-p"]);
    }
    command.args(["-o", &origin, "-f", &format!("{zone}.signed"), &file, &key]).current_dir(folder);
    run(&mut command);
    let digest = fs::read_to_string(folder.join(format!("{key}.ds"))).expect("the digest");
    Some(Signed { key: folder.join(format!("{key}.key")), digest })
}

fn head(zone: &str, authority: SocketAddr) -> String {
    let ip = authority.ip();
    format!("$ORIGIN {zone}.\n$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A {ip}\n")
}

/// Breaks the signatures of some records: another first character makes another signature.
fn forge(zone: &str, forged: &[&str]) -> String {
    let mut broken = 0;
    let lines = zone.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, _, "IN", "RRSIG", covered, .., signature] = words.as_slice() else { return line.to_owned() };
        if !forged.iter().any(|record| *record == format!("{} {covered}", name.trim_end_matches('.'))) {
            return line.to_owned();
        }
        broken += 1;
        let other = if signature.starts_with('A') { "B" } else { "A" };
        line.replace(signature, &format!("{other}{}", &signature[1..]))
    });
    let text = lines.map(|line| line + "\n").collect();
    assert_eq!(broken, forged.len(), "{zone}");
    text
}

fn nsd_settings(folder: &Path, address: SocketAddr, zones: &[(&str, &str)]) -> String {
    let (folder, ip, port) = (folder.display(), address.ip(), address.port());
    let zones = zones.iter().map(|(name, file)| format!("zone:\n name: {name}\n zonefile: {file}\n"));
    format!(
        "server:\n ip-address: {ip}\n port: {port}\n username: \"\"\n chroot: \"\"\n database: \"\"\n pidfile: \"\"\n \
         zonesdir: \"{folder}\"\n xfrdfile: \"{folder}/xfrd.state\"\n xfrdir: \"{folder}\"\n \
         zonelistfile: \"{folder}/zone.list\"\n server-count: 1\n verbosity: 1\nremote-control:\n control-enable: no\n{}",
        zones.collect::<String>()
    )
}

fn unbound_settings(
    folder: &Path,
    address: SocketAddr,
    authority: SocketAddr,
    stubs: &[&str],
    anchor: Option<&Path>,
) -> String {
    let (ip, port) = (address.ip(), address.port());
    let (modules, anchor) = match anchor {
        Some(anchor) => ("validator iterator", format!(" trust-anchor-file: \"{}\"\n", anchor.display())),
        None => ("iterator", String::new()),
    };
    let stubs = stubs.iter().map(|name| {
        let (ip, port) = (authority.ip(), authority.port());
        format!("stub-zone:\n name: \"{name}.\"\n stub-addr: {ip}@{port}\n stub-prime: no\n")
    });
    format!(
        "server:\n interface: {ip}\n port: {port}\n access-control: 127.0.0.0/8 allow\n username: \"\"\n chroot: \"\"\n \
         directory: \"{}\"\n pidfile: \"\"\n use-syslog: no\n logfile: \"\"\n verbosity: 1\n do-daemonize: no\n num-threads: 1\n \
         module-config: \"{modules}\"\n do-not-query-localhost: no\n local-zone: \"test.\" nodefault\n \
         local-zone: \"{REVERSE}.\" nodefault\n{anchor}\
         remote-control:\n control-enable: no\n{}",
        folder.display(),
        stubs.collect::<String>()
    )
}
