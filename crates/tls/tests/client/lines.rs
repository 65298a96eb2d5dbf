//! Handshakes: old certificates, sessions that are resumed, hosts that choke, fingerprints and names.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use dns::testing::Fixed;
use mail::{CertificateName, FoundBy, Host, TlsDemand, TlsLevel, TlsVersion, Verified};
use rustls::{HandshakeKind, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tls::client::{Ask, Client, Policy, Secured, TlsFailure};
use tls::report::FailureType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::host::{Age, Authority, Identity, client, connect, domain, own, serve};

async fn policy(client: &Client, level: &TlsLevel) -> Policy {
    let (found, host) = (FoundBy::Configuration, Host::Domain(domain("mx.example.org")));
    let ask = Ask { level, demand: TlsDemand::Default, implicit: false, found: &found, host: &host, port: 25 };
    client.policy(&ask).await.unwrap()
}

/// One handshake under a level, with these authorities.
async fn meet(identity: Identity, level: TlsLevel, roots: Arc<RootCertStore>) -> Result<Secured, TlsFailure> {
    let client = client(&Fixed::default(), roots);
    let policy = policy(&client, &level).await;
    let stream = connect(serve(identity).await).await;
    client.handshake(stream, &policy).await.map(|(_, secured)| secured)
}

fn nobody() -> Arc<RootCertStore> {
    Arc::new(RootCertStore::empty())
}

/// A certificate of X.509 version 1, as `openssl x509 -req` makes it without extensions.
fn version_1() -> Identity {
    Identity {
        chain: vec![CertificateDer::from_pem_slice(include_bytes!("version1.pem")).unwrap()],
        key: PrivateKeyDer::from_pem_slice(include_bytes!("version1.key.pem")).unwrap(),
    }
}

#[tokio::test]
async fn anything_is_taken_where_nothing_is_demanded() {
    for identity in [own("other.example", Age::Expired), version_1()] {
        for level in [TlsLevel::Opportunistic, TlsLevel::Encrypt] {
            let identity = Identity { chain: identity.chain.clone(), key: identity.key.clone_key() };
            let secured = meet(identity, level, nobody()).await.unwrap();
            assert_eq!((secured.facts.version, secured.facts.verified), (TlsVersion::V1_3, Verified::No));
            assert!(secured.facts.cipher.starts_with("TLS_"), "{}", secured.facts.cipher);
        }
    }
}

#[tokio::test]
async fn what_a_certificate_proves_unasked_is_told() {
    let authority = Authority::new("world");
    let identity = authority.issue("mx.example.org", Age::Fresh);
    let secured = meet(identity, TlsLevel::Opportunistic, authority.roots()).await.unwrap();
    assert_eq!(secured.facts.verified, Verified::WebPki);
}

#[tokio::test]
async fn verification_looks_at_authority_date_and_name() {
    let authority = Authority::new("world");
    let verify = |names: &[CertificateName]| TlsLevel::Verify(names.to_vec());
    let ask = async |name: &str, age, level| {
        let result = meet(authority.issue(name, age), level, authority.roots()).await;
        result.map(|secured| secured.facts.verified).map_err(|failure| failure.kind)
    };
    let below = [CertificateName::Below(domain("example.net"))];
    let exact = [CertificateName::Exact(domain("example.net"))];
    assert_eq!(ask("mx.example.org", Age::Fresh, verify(&[])).await, Ok(Verified::WebPki));
    assert_eq!(ask("*.example.org", Age::Fresh, verify(&[])).await, Ok(Verified::WebPki));
    assert_eq!(ask("any.example.net", Age::Fresh, verify(&below)).await, Ok(Verified::WebPki));
    assert_eq!(ask("*.example.net", Age::Fresh, verify(&below)).await, Ok(Verified::WebPki));
    assert_eq!(ask("example.net", Age::Fresh, verify(&exact)).await, Ok(Verified::WebPki));
    for (name, names) in [("mx.example.net", &[][..]), ("example.net", &below), ("mx.example.net", &exact)] {
        assert_eq!(ask(name, Age::Fresh, verify(names)).await, Err(FailureType::CertificateHostMismatch), "{name}");
    }
    assert_eq!(ask("mx.example.org", Age::Expired, verify(&[])).await, Err(FailureType::CertificateExpired));
    let own = meet(own("mx.example.org", Age::Fresh), verify(&[]), authority.roots()).await.unwrap_err();
    assert_eq!(own.kind, FailureType::CertificateNotTrusted);
    assert!(!own.again, "another handshake would show the same certificate");
}

#[tokio::test]
async fn a_fingerprint_is_of_the_certificate_or_of_its_key() {
    let key = |identity: &Identity| {
        use x509_parser::prelude::{FromDer, X509Certificate};
        let (_, parsed) = X509Certificate::from_der(&identity.chain[0]).unwrap();
        digest(&SHA256, parsed.tbs_certificate.subject_pki.raw).as_ref().try_into().unwrap()
    };
    for odd in [false, true] {
        let identity = || if odd { version_1() } else { own("any.example", Age::Expired) };
        let (one, other) = (identity(), identity());
        let whole: [u8; 32] = digest(&SHA256, &one.chain[0]).as_ref().try_into().unwrap();
        let secured = meet(one, TlsLevel::Fingerprint(vec![[0; 32], whole]), nobody()).await.unwrap();
        assert_eq!(secured.facts.verified, Verified::Fingerprint);
        let key: [u8; 32] = key(&other);
        assert!(meet(other, TlsLevel::Fingerprint(vec![key]), nobody()).await.is_ok());
        let failure = meet(identity(), TlsLevel::Fingerprint(vec![[1; 32]]), nobody()).await.unwrap_err();
        assert_eq!(failure.kind, FailureType::CertificateNotTrusted);
    }
}

#[tokio::test]
async fn a_session_is_resumed_only_under_the_same_proof_and_judged_again() {
    let authority = Authority::new("world");
    let client = client(&Fixed::default(), authority.roots());
    let address = serve(authority.issue("mx.example.org", Age::Fresh)).await;
    let meet = async |level: &TlsLevel| {
        let policy = policy(&client, level).await;
        let (mut stream, secured) = client.handshake(connect(address).await, &policy).await.unwrap();
        // The tickets come with the first octet.
        stream.read_u8().await.unwrap();
        (stream.get_ref().1.handshake_kind().unwrap(), secured.facts.verified)
    };
    let verify = TlsLevel::Verify(Vec::new());
    assert_eq!(meet(&TlsLevel::Encrypt).await, (HandshakeKind::Full, Verified::WebPki));
    assert_eq!(meet(&TlsLevel::Encrypt).await, (HandshakeKind::Resumed, Verified::WebPki));
    assert_eq!(meet(&verify).await, (HandshakeKind::Full, Verified::WebPki));
    assert_eq!(meet(&verify).await, (HandshakeKind::Resumed, Verified::WebPki));
}

/// Takes a ClientHello only if it fits into one segment, as some old boxes do.
async fn choking(identity: Identity) -> std::net::SocketAddr {
    let behind = serve(identity).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = [0; 5];
            client.read_exact(&mut head).await.unwrap();
            let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
            if length > 1400 {
                continue;
            }
            tokio::spawn(async move {
                let mut server = connect(behind).await;
                server.write_all(&head).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_host_that_chokes_on_a_large_hello_gets_a_small_one_from_then_on() {
    let client = client(&Fixed::default(), nobody());
    let address = choking(own("mx.example.org", Age::Fresh)).await;
    let policy = policy(&client, &TlsLevel::Encrypt).await;
    let failure = client.handshake(connect(address).await, &policy).await.unwrap_err();
    assert!(failure.again, "{failure}");
    for _ in 0..2 {
        client.handshake(connect(address).await, &policy).await.unwrap();
    }
}

#[tokio::test]
async fn a_host_that_speaks_no_tls_is_tried_again_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"421 go away\r\n").await;
        }
    });
    let client = client(&Fixed::default(), nobody());
    let policy = policy(&client, &TlsLevel::Opportunistic).await;
    for again in [true, false] {
        let failure = client.handshake(connect(address).await, &policy).await.unwrap_err();
        assert_eq!((failure.kind, failure.again), (FailureType::ValidationFailure, again));
    }
}
