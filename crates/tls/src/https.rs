//! The web as a mail server uses it: one request to a host that proves its name, no redirects, no proxies, no cookies,
//! and a bound on time and size.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dns::Resolve;
use mail::Domain;
use reqwest::dns::{Addrs, Name, Resolving};
use reqwest::{Response, header, redirect};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use url::Url;

/// How long a connection may take to come up.
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// How long a whole exchange may take (RFC 8461 §3.3 suggests a minute; a message waits for it).
const TIME: Duration = Duration::from_secs(30);

/// Asks the web; clones share everything.
#[derive(Clone, Debug)]
pub struct Https(reqwest::Client);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("no HTTPS client can be made: {0}")]
pub struct HttpsError(String);

/// Why an exchange gave nothing. The texts are few: they are counted apart in reports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WebError {
    /// The host's certificate does not prove its name.
    #[error("{0}")]
    Certificate(String),
    /// The host could not be found, reached, or understood.
    #[error("{0}")]
    Unreachable(String),
    /// It took too long.
    #[error("timeout")]
    Timeout,
    /// A redirect, which is never followed.
    #[error("redirect {0}")]
    Redirect(u16),
    /// Another status than 200.
    #[error("status {0}")]
    Status(u16),
    /// The wrong kind of content.
    #[error("not text/plain")]
    MediaType,
    /// More than wanted.
    #[error("too large")]
    TooLarge,
}

impl Https {
    /// A client that finds hosts by `resolver` and believes `roots`. It connects to `port` where an address names none,
    /// instead of 443, if one is given.
    pub fn new(resolver: Arc<dyn Resolve>, roots: Arc<RootCertStore>, port: Option<u16>) -> Result<Self, HttpsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| HttpsError(error.to_string()))?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A host proves its name each time.
        config.resumption = Resumption::disabled();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(config)
            .dns_resolver(Names { resolver, port: port.unwrap_or(0) })
            .https_only(true)
            .http1_only()
            .no_proxy()
            .referer(false)
            .redirect(redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .connect_timeout(CONNECT_TIME)
            .timeout(TIME)
            .user_agent(concat!("postrider/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| HttpsError(error.to_string()))?;
        Ok(Self(client))
    }

    /// A text of at most `most` octets.
    pub(crate) async fn text(&self, url: Url, most: usize) -> Result<Vec<u8>, WebError> {
        let mut response = self.0.get(url).send().await.map_err(|error| judge(&error))?;
        good(&response)?;
        if !is_plain_text(&response) {
            return Err(WebError::MediaType);
        }
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| judge(&error))? {
            if body.len() + piece.len() > most {
                return Err(WebError::TooLarge);
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Hands something over; any status from 200 to 299 says that it arrived.
    pub(crate) async fn post(&self, url: Url, media_type: &str, body: Vec<u8>) -> Result<(), WebError> {
        let request = self.0.post(url).header(header::CONTENT_TYPE, media_type).body(body);
        let response = request.send().await.map_err(|error| judge(&error))?;
        match response.status().is_success() {
            true => Ok(()),
            false => good(&response),
        }
    }
}

fn good(response: &Response) -> Result<(), WebError> {
    match response.status() {
        status if status.is_redirection() => Err(WebError::Redirect(status.as_u16())),
        status if status.as_u16() != 200 => Err(WebError::Status(status.as_u16())),
        _ => Ok(()),
    }
}

/// RFC 8461 §3.3: anything else may have been put there by somebody who is not the domain's owner.
fn is_plain_text(response: &Response) -> bool {
    let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = media_type.and_then(|text| text.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("text/plain"))
}

/// What went wrong, from the innermost error that says something.
fn judge(error: &reqwest::Error) -> WebError {
    let mut source = error.source();
    let mut last = None;
    while let Some(inner) = source {
        if let Some(tls) = inner.downcast_ref::<rustls::Error>().or_else(|| tls_inside(inner)) {
            return match tls {
                rustls::Error::InvalidCertificate(why) => WebError::Certificate(certificate(why)),
                other => WebError::Unreachable(format!("TLS: {other}")),
            };
        }
        if inner.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return WebError::Timeout;
        }
        last = Some(inner.to_string());
        source = inner.source();
    }
    if error.is_timeout() {
        return WebError::Timeout;
    }
    WebError::Unreachable(last.unwrap_or_else(|| error.to_string()))
}

/// I/O errors hide what they carry from `source`, one within the other.
fn tls_inside<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut error = error.downcast_ref::<io::Error>()?;
    loop {
        let inner = error.get_ref()?;
        match inner.downcast_ref::<rustls::Error>() {
            Some(tls) => return Some(tls),
            None => error = inner.downcast_ref()?,
        }
    }
}

/// In few different words, none of them the host's.
fn certificate(why: &rustls::CertificateError) -> String {
    use rustls::CertificateError as Why;
    let text = match why {
        Why::Expired | Why::ExpiredContext { .. } => "certificate expired",
        Why::NotValidYet | Why::NotValidYetContext { .. } => "certificate not valid yet",
        Why::NotValidForName | Why::NotValidForNameContext { .. } => "certificate for another name",
        Why::UnknownIssuer => "certificate of an unknown issuer",
        Why::Revoked => "certificate revoked",
        _ => "certificate invalid",
    };
    text.to_owned()
}

/// Our own look-ups in the place of the system's.
struct Names {
    resolver: Arc<dyn Resolve>,
    /// 0 for the scheme's own.
    port: u16,
}

impl reqwest::dns::Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let (resolver, port) = (Arc::clone(&self.resolver), self.port);
        Box::pin(async move {
            let domain = Domain::parse(name.as_str())?;
            let found = resolver.addresses(&domain).await.map_err(|error| io::Error::other(format!("DNS: {error}")))?;
            let addresses = found.ips.into_iter().map(move |ip| SocketAddr::new(ip, port));
            Ok(Box::new(addresses.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}
