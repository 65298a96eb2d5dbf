//! `nsd`, which serves the zone `test`, and `unbound`, which asks it for us.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::{Peer, tool};
use crate::harness::own_address;

/// Both, running; what unbound does not find at nsd it does not find at all.
pub struct NameServers {
    /// Where unbound listens.
    pub address: SocketAddr,
    _unbound: Peer,
    _nsd: Peer,
}

impl NameServers {
    /// Starts both, or says a word about the absence of one. `zone` are the records of `test`; names in it have no dot at
    /// their end. nsd knows of `broken.test`, but has no records of it, and so answers SERVFAIL.
    pub fn start(folder: &Path, zone: &str) -> Option<Self> {
        let (nsd, unbound) = (tool("nsd")?, tool("unbound")?);
        let authority = SocketAddr::new(own_address(), 5300);
        let resolver = SocketAddr::new(own_address(), 5300);
        let head = format!(
            "$ORIGIN test.\n$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A {}\n",
            authority.ip()
        );
        fs::write(folder.join("test.zone"), head + zone).expect("the zone");
        let nsd_conf = folder.join("nsd.conf");
        fs::write(&nsd_conf, nsd_settings(folder, authority)).expect("a file");
        let mut command = Command::new(nsd);
        let nsd = Peer::saying(command.arg("-d").arg("-c").arg(&nsd_conf), "nsd started");
        let unbound_conf = folder.join("unbound.conf");
        fs::write(&unbound_conf, unbound_settings(folder, resolver, authority)).expect("a file");
        let mut command = Command::new(unbound);
        let unbound = Peer::saying(command.arg("-d").arg("-c").arg(&unbound_conf), "start of service");
        Some(Self { address: resolver, _unbound: unbound, _nsd: nsd })
    }
}

fn nsd_settings(folder: &Path, address: SocketAddr) -> String {
    let (folder, ip, port) = (folder.display(), address.ip(), address.port());
    format!(
        "server:\n ip-address: {ip}\n port: {port}\n username: \"\"\n chroot: \"\"\n database: \"\"\n pidfile: \"\"\n \
         zonesdir: \"{folder}\"\n xfrdfile: \"{folder}/xfrd.state\"\n xfrdir: \"{folder}\"\n \
         zonelistfile: \"{folder}/zone.list\"\n server-count: 1\n verbosity: 1\nremote-control:\n control-enable: no\n\
         zone:\n name: test\n zonefile: test.zone\nzone:\n name: broken.test\n zonefile: absent.zone\n"
    )
}

fn unbound_settings(folder: &Path, address: SocketAddr, authority: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!(
        "server:\n interface: {ip}\n port: {port}\n access-control: 127.0.0.0/8 allow\n username: \"\"\n chroot: \"\"\n \
         directory: \"{}\"\n pidfile: \"\"\n use-syslog: no\n logfile: \"\"\n verbosity: 1\n do-daemonize: no\n num-threads: 1\n \
         module-config: \"iterator\"\n do-not-query-localhost: no\n local-zone: \"test.\" nodefault\n\
         remote-control:\n control-enable: no\n\
         stub-zone:\n name: \"test.\"\n stub-addr: {}@{}\n stub-prime: no\n",
        folder.display(),
        authority.ip(),
        authority.port()
    )
}
