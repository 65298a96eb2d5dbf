//! TLS of the running server: the terms of each listener, the certificates, and where an authority finds its proofs.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use mail::{Clock, Randomness};
use prometheus_client::registry::Registry;
use tls::mtasts::OwnPolicies;
use tls::web::Web;
use tls::{
    Acceptor, AcceptorSettings, Acme, Ask, Authorities, CertificateMetrics, CertificateSettings, Certificates,
    ClientCertificates, ClientRule, Grant, Identities, Proofs, Shown, Version,
};

use super::ServeError;
use super::rooms::Tasks;
use super::settings::SettingsError;
use super::supervision::Handed;
use crate::config::{AcmeChallenge, ClientCertificate, Configuration, Listener, TlsUse, TlsVersion};

/// The folder of our own certificates, in the folder of the store.
pub const TLS_FOLDER: &str = "tls";

/// What makes handshakes; there before there are certificates.
#[derive(Default)]
pub struct Security {
    identities: Identities,
    /// By listener: who reads the configuration anew must not forget the tickets that were given.
    services: Mutex<HashMap<String, Acceptor>>,
}

impl Security {
    /// What the certificates of clients are good for.
    pub fn clients(&self, configuration: &Configuration) -> Result<ClientCertificates, SettingsError> {
        let rules: Result<Vec<_>, _> =
            configuration.client_certificate.iter().filter_map(|client| rule(client).transpose()).collect();
        Ok(ClientCertificates::new(rules?))
    }

    /// TLS of one listener.
    pub fn listener(
        &self,
        configuration: &Configuration,
        listener: &Listener,
        clients: &ClientCertificates,
    ) -> Result<Option<reception::ListenerTls>, SettingsError> {
        if listener.tls() == TlsUse::Off {
            return Ok(None);
        }
        let minimum = match listener.tls_minimum.unwrap_or(configuration.tls.minimum) {
            TlsVersion::V1_2 => Version::V1_2,
            TlsVersion::V1_3 => Version::V1_3,
        };
        let certificates = if clients.is_empty() { Ask::No } else { Ask::Optional };
        Ok(Some(reception::ListenerTls {
            acceptor: self.service(&listener.name, AcceptorSettings { minimum, certificates })?,
            implicit: listener.tls() == TlsUse::Implicit,
            handshake_time: configuration.tls.handshake_time.0,
            clients: clients.clone(),
        }))
    }

    /// The acceptor of a service, with its tickets, as long as its terms stay.
    fn service(&self, name: &str, terms: AcceptorSettings) -> Result<Acceptor, SettingsError> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = services.get(name).filter(|known| known.settings() == terms) {
            return Ok(known.clone());
        }
        let made = Acceptor::new(&self.identities, terms)?;
        services.insert(name.to_owned(), made.clone());
        Ok(made)
    }
}

fn rule(client: &ClientCertificate) -> Result<Option<ClientRule>, SettingsError> {
    let shown = match (&client.fingerprint, &client.public_key, &client.name, &client.authority) {
        (Some(fingerprint), ..) => Shown::Certificate(fingerprint.0),
        (_, Some(key), ..) => Shown::Key(key.0),
        (_, _, Some(name), Some(file)) => Shown::Name(name.to_ascii_lowercase(), Authorities::from_file(file)?),
        // The checks of the configuration let none of these pass.
        _ => return Ok(None),
    };
    Ok(Some(ClientRule { shown, grant: Grant { relay: client.relay, account: client.account.clone() } }))
}

/// A socket of the web server.
pub struct WebSocket {
    listener: TcpListener,
    https: bool,
}

/// Opens the sockets of the web server, while the process may still bind low ports.
pub fn open_web(configuration: &Configuration, handed: &Handed) -> Result<Vec<WebSocket>, ServeError> {
    web_addresses(configuration).into_iter().map(|(address, https)| open(address, https, handed)).collect()
}

/// Where the web server listens: there it speaks HTTPS, or HTTP.
pub fn web_addresses(configuration: &Configuration) -> Vec<(SocketAddr, bool)> {
    let acme = &configuration.acme;
    let https = acme.challenge == AcmeChallenge::TlsAlpn01;
    let wanted = if acme.names.is_empty() { Vec::new() } else { acme.listen() };
    let mut addresses: Vec<_> = wanted.into_iter().map(|address| (address, https)).collect();
    for address in configuration.policy_addresses() {
        // Proofs by HTTPS and policies share a socket.
        if !addresses.contains(&(address, true)) {
            addresses.push((address, true));
        }
    }
    addresses
}

fn open(address: SocketAddr, https: bool, handed: &Handed) -> Result<WebSocket, ServeError> {
    let refused = |error| ServeError::Web { address, error };
    let listener = match handed.find(address) {
        Some(socket) => socket.try_clone().map_err(refused)?,
        None => tls::web::listen(address).map_err(refused)?,
    };
    Ok(WebSocket { listener, https })
}

/// What keeps the certificates; opened as the server's own user, who must be able to read them again later.
#[derive(Clone)]
pub struct Keeper {
    pub certificates: Certificates,
    pub acme: Acme,
    proofs: Proofs,
    policies: OwnPolicies,
    folder: PathBuf,
}

impl Keeper {
    /// Reads the certificates and puts them in force.
    pub fn open(
        configuration: &Configuration,
        security: &Security,
        clock: &Arc<dyn Clock>,
        randomness: &Randomness,
        registry: &mut Registry,
    ) -> Result<Self, ServeError> {
        let folder = configuration.store.path.join(TLS_FOLDER);
        let (identities, hostname) = (security.identities.clone(), configuration.hostname.to_string());
        let metrics = CertificateMetrics::register(registry);
        let certificates = Certificates::new(identities.clone(), folder.clone(), hostname, Arc::clone(clock), metrics);
        let proofs = Proofs::new(identities);
        let own = folder.join(ACME_FOLDER);
        let acme = Acme::new(own, certificates.clone(), proofs.clone(), Arc::clone(clock), randomness.clone());
        let keeper = Self { certificates, acme, proofs, policies: OwnPolicies::default(), folder };
        let read = keeper.load(configuration)?;
        keeper.adopt(configuration, read);
        Ok(keeper)
    }

    /// Reads the certificates of a configuration. Nothing changes by that.
    pub fn load(&self, configuration: &Configuration) -> Result<tls::Kept, ServeError> {
        let files = configuration.certificate.iter().map(|one| (one.chain.clone(), one.key.clone())).collect();
        let wanted = !configuration.acme.names.is_empty();
        let awaited = wanted.then(|| Acme::files(&self.folder.join(ACME_FOLDER)));
        Ok(self.certificates.load(&CertificateSettings { files, awaited })?)
    }

    /// Puts them in force, and asks the configuration's authority from now on.
    pub fn adopt(&self, configuration: &Configuration, read: tls::Kept) {
        self.certificates.adopt(read);
        self.acme.configure(configuration.acme.to_settings());
        self.policies.replace(configuration.own_policies());
    }

    /// Starts what goes on: looks at the files, orders, and the web server.
    pub fn start(&self, web: Vec<WebSocket>, tasks: &mut Tasks) -> Result<(), ServeError> {
        let certificates = self.certificates.clone();
        tasks.watch("the keeping of certificates", async move { certificates.run().await });
        let acme = self.acme.clone();
        tasks.watch("ACME", async move { acme.run().await });
        for WebSocket { listener, https } in web {
            let router = self.proofs.router().merge(self.policies.router());
            let web = match https {
                true => Web::https(
                    listener,
                    Acceptor::web(self.certificates.identities()).map_err(SettingsError::from)?,
                    router,
                ),
                false => Web::http(listener, router),
            };
            tasks.watch("the web server", async move {
                if let Err(error) = web.run().await {
                    tracing::error!(%error, "the web server ended");
                }
            });
        }
        Ok(())
    }
}

/// The files of all certificates that are in force, or will be with the next start.
pub fn certificate_chains(configuration: &Configuration) -> Vec<PathBuf> {
    let folder = configuration.store.path.join(TLS_FOLDER);
    let mut chains: Vec<PathBuf> = configuration.certificate.iter().map(|one| one.chain.clone()).collect();
    if !configuration.acme.names.is_empty() {
        chains.extend([Acme::files(&folder.join(ACME_FOLDER)).0].into_iter().filter(|chain| chain.exists()));
    }
    if chains.is_empty() {
        chains.push(Certificates::self_signed_files(&folder).0);
    }
    chains
}

/// What comes from an authority, in our folder.
const ACME_FOLDER: &str = "acme";
