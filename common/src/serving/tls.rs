//! TLS of the secure port: certificate files that may be rotated, verification of client certificates if they are shown.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::{Mutex, RwLock};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use tokio::time::Instant;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{ServeError, v1_client};

const CHECK_EVERY: Duration = Duration::from_secs(5);

/// A verified client certificate, as far as authentication needs it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientCertificate {
    /// Subject CN: the user.
    pub common_name: String,
    /// Subject O: the groups.
    pub organizations: Vec<String>,
    /// Subject UID extension (1.3.6.1.4.1.57683.2), if any.
    pub uid: Option<String>,
    /// DNS names of the certificate.
    pub dns_names: Vec<String>,
    /// End of validity, seconds since the epoch.
    pub not_after: i64,
    /// SHA-256 of the DER form, hex: upstream's `authentication.kubernetes.io/credential-id` is `X509SHA256=` and this.
    pub fingerprint: String,
}

/// What the secure port presents and accepts. Changed files are picked up within seconds.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// Certificate chain, PEM.
    pub cert: Option<PathBuf>,
    /// Private key, PEM.
    pub key: Option<PathBuf>,
    /// CAs for client certificates, PEM; without it client certificates are not asked for.
    pub client_ca: Option<PathBuf>,
    /// More CAs for client certificates, PEM text that may be filled later (from the cluster's `extension-apiserver-authentication`).
    pub client_ca_pem: Arc<RwLock<Vec<u8>>>,
    /// CAs of front proxies, PEM; whose certificates are no clients'.
    pub front_proxy_ca: Option<PathBuf>,
    /// Without certificate and key: keep a self-signed pair here as `<pair_name>.crt/.key`; None keeps it in memory.
    pub cert_dir: Option<PathBuf>,
    /// File name of the self-signed pair.
    pub pair_name: String,
    /// Names and addresses of the self-signed certificate.
    pub self_signed_hosts: Vec<String>,
    /// Only TLS 1.3.
    pub tls13_only: bool,
    /// Certificate and key may not be there yet: till then handshakes fail.
    pub pair_comes_later: bool,
}

/// Reads what the port needs from a client certificate that was verified before.
pub fn parse_client_certificate(der: &[u8]) -> Option<ClientCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let subject = certificate.subject();
    let names = certificate.subject_alternative_name().ok().flatten();
    let uid_oid = x509_parser::oid_registry::Oid::from(&[1, 3, 6, 1, 4, 1, 57683, 2]).ok()?;
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| attribute.as_str().ok().map(str::to_owned);
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    Some(ClientCertificate {
        common_name: subject.iter_common_name().next().and_then(text).unwrap_or_default(),
        organizations: subject.iter_organization().filter_map(text).collect(),
        uid: subject.iter_by_oid(&uid_oid).next().and_then(text),
        dns_names: names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None })
            .collect(),
        not_after: certificate.validity().not_after.timestamp(),
        fingerprint: digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
    })
}

/// Certificate and key, PEM.
type Pair = (Vec<u8>, Vec<u8>);
type Stamp = Option<(SystemTime, u64)>;

struct Current {
    setup: Arc<Setup>,
    seen: Vec<Stamp>,
    check_at: Instant,
}

type Verifier = Arc<dyn ClientCertVerifier>;

/// What one connection is accepted with.
pub(super) struct Setup {
    pub(super) config: Arc<ServerConfig>,
    /// Which CAs a certificate is of, asked only when there are two kinds.
    client: Option<Verifier>,
    front_proxy: Option<Verifier>,
}

impl Setup {
    /// Whether a chain that passed the handshake leads to a client CA, and whether to one of front proxies.
    pub(super) fn verified_by(&self, chain: &[CertificateDer<'_>]) -> (bool, bool) {
        let Some(front_proxy) = &self.front_proxy else { return (true, false) };
        let Some((end, between)) = chain.split_first() else { return (false, false) };
        let by = |verifier: &Verifier| verifier.verify_client_cert(end, between, UnixTime::now()).is_ok();
        (self.client.as_ref().is_some_and(by), by(front_proxy))
    }
}

/// The TLS configuration for new connections, rebuilt when files change.
pub(super) struct Reloader {
    options: TlsOptions,
    memory_pair: Option<Pair>,
    current: Mutex<Current>,
}

impl Reloader {
    pub(super) fn new(mut options: TlsOptions) -> Result<Self, ServeError> {
        let memory_pair = ensure_pair(&mut options)?;
        let setup = Arc::new(build(&options, memory_pair.as_ref())?);
        let current = Current { setup, seen: stamps(&options), check_at: Instant::now() + CHECK_EVERY };
        Ok(Self { options, memory_pair, current: Mutex::new(current) })
    }

    /// The configuration for a connection accepted now.
    pub(super) fn current(&self) -> Arc<Setup> {
        let mut current = self.current.lock();
        let now = Instant::now();
        if now >= current.check_at {
            current.check_at = now + CHECK_EVERY;
            let seen = stamps(&self.options);
            if seen != current.seen {
                match build(&self.options, self.memory_pair.as_ref()) {
                    Ok(setup) => {
                        tracing::info!("serving certificate or client CA changed on disk, reloaded");
                        current.setup = Arc::new(setup);
                        current.seen = seen;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "serving certificate changed on disk but cannot be used; keeping the old one")
                    }
                }
            }
        }
        current.setup.clone()
    }
}

fn stamps(options: &TlsOptions) -> Vec<Stamp> {
    let files = [&options.cert, &options.key, &options.client_ca, &options.front_proxy_ca];
    let stamp =
        |file: &PathBuf| std::fs::metadata(file).ok().and_then(|data| Some((data.modified().ok()?, data.len())));
    let shared = Some((SystemTime::UNIX_EPOCH, options.client_ca_pem.read().len() as u64));
    files.into_iter().map(|file| file.as_ref().and_then(stamp)).chain([shared]).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, ServeError> {
    std::fs::read(path).map_err(|error| ServeError::Tls(format!("failed to read {}: {error}", path.display())))
}

/// Finds or makes a self-signed pair when no files were given; without a directory it is handed back as PEM.
fn ensure_pair(options: &mut TlsOptions) -> Result<Option<Pair>, ServeError> {
    match (&options.cert, &options.key) {
        (Some(_), Some(_)) => return Ok(None),
        (None, None) => {}
        _ => {
            return Err(ServeError::Tls(
                "a certificate needs its private key: give both --tls-cert-file and --tls-private-key-file".into(),
            ));
        }
    }
    let Some(dir) = options.cert_dir.clone() else { return self_signed(&options.self_signed_hosts).map(Some) };
    let name = if options.pair_name.is_empty() { "server" } else { &options.pair_name };
    let (cert_path, key_path) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
    if !(cert_path.exists() && key_path.exists()) {
        let (cert, key) = self_signed(&options.self_signed_hosts)?;
        let failed = |error: std::io::Error| {
            ServeError::Tls(format!("failed to write the self-signed pair to {}: {error}", dir.display()))
        };
        std::fs::create_dir_all(&dir).map_err(failed)?;
        write_private(&key_path, &key).map_err(failed)?;
        std::fs::write(&cert_path, cert).map_err(failed)?;
    }
    options.cert = Some(cert_path);
    options.key = Some(key_path);
    Ok(None)
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(bytes)
}

fn self_signed(hosts: &[String]) -> Result<Pair, ServeError> {
    let failed = |error: rcgen::Error| ServeError::Tls(format!("failed to make a self-signed certificate: {error}"));
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    names.extend(hosts.iter().filter(|host| !host.is_empty() && *host != "localhost" && *host != "127.0.0.1").cloned());
    let mut params = rcgen::CertificateParams::new(names).map_err(failed)?;
    let common_name = hosts.first().map_or("localhost", String::as_str);
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    params.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ServerAuth);
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok((certificate.pem().into_bytes(), key.serialize_pem().into_bytes()))
}

/// No certificate to show: the peer is told that the handshake failed.
#[derive(Debug)]
struct NoPair;

impl rustls::server::ResolvesServerCert for NoPair {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
}

fn build(options: &TlsOptions, memory_pair: Option<&Pair>) -> Result<Setup, ServeError> {
    let (cert_pem, key_pem, name) = match (memory_pair, &options.cert, &options.key) {
        (Some((cert, key)), _, _) => (cert.clone(), key.clone(), "the self-signed pair".to_owned()),
        (None, Some(cert), Some(key)) if options.pair_comes_later && !cert.exists() => {
            (Vec::new(), Vec::new(), format!("{}, {}", cert.display(), key.display()))
        }
        (None, Some(cert), Some(key)) => (read(cert)?, read(key)?, format!("{}, {}", cert.display(), key.display())),
        _ => return Err(ServeError::Tls("no serving certificate".into())),
    };
    let wrong = |error: &dyn std::fmt::Display| ServeError::Tls(format!("{name}: {error}"));
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&cert_pem).collect::<Result<_, _>>().map_err(|error| wrong(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[&rustls::SupportedProtocolVersion] = if options.tls13_only { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|error| wrong(&error))?;
    let verifier = |authorities: Vec<CertificateDer<'static>>| -> Result<Verifier, ServeError> {
        let mut roots = RootCertStore::empty();
        for der in &authorities {
            roots.add(der.clone()).map_err(|error| wrong(&error))?;
        }
        let webpki = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let webpki = webpki.allow_unauthenticated().build().map_err(|error| wrong(&error))?;
        let algorithms = provider.signature_verification_algorithms;
        Ok(Arc::new(v1_client::Verifier::new(webpki, authorities, algorithms)))
    };
    let (clients, proxies) = (client_authorities(options)?, front_proxy_authorities(options)?);
    let builder = match (&clients, &proxies) {
        (None, None) => builder.with_no_client_auth(),
        _ => {
            let all = clients.iter().chain(&proxies).flatten().cloned().collect();
            builder.with_client_cert_verifier(verifier(all)?)
        }
    };
    let mut config = if cert_pem.is_empty() && options.pair_comes_later {
        builder.with_cert_resolver(Arc::new(NoPair))
    } else {
        let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| wrong(&error))?;
        builder.with_single_cert(chain, key).map_err(|error| wrong(&error))?
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let config = Arc::new(config);
    Ok(match proxies {
        None => Setup { config, client: None, front_proxy: None },
        Some(proxies) => {
            Setup { config, client: clients.map(&verifier).transpose()?, front_proxy: Some(verifier(proxies)?) }
        }
    })
}

fn front_proxy_authorities(options: &TlsOptions) -> Result<Option<Vec<CertificateDer<'static>>>, ServeError> {
    let read = |path: &Path| authorities(&read(path)?, &path.display().to_string());
    options.front_proxy_ca.as_deref().map(read).transpose()
}

fn client_authorities(options: &TlsOptions) -> Result<Option<Vec<CertificateDer<'static>>>, ServeError> {
    let mut pem = options.client_ca_pem.read().clone();
    let mut name = "the cluster's client CA".to_owned();
    if let Some(path) = &options.client_ca {
        pem.push(b'\n');
        pem.extend(read(path)?);
        name = path.display().to_string();
    }
    if pem.is_empty() { Ok(None) } else { authorities(&pem, &name).map(Some) }
}

/// The CAs in a PEM text, each of which must be usable.
fn authorities(pem: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>, ServeError> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let usable = certificate
            .map_err(|error| error.to_string())
            .and_then(|der| RootCertStore::empty().add(der.clone()).map(|()| der).map_err(|error| error.to_string()));
        certificates.push(usable.map_err(|error| ServeError::Tls(format!("client CA {name}: {error}")))?);
    }
    if certificates.is_empty() {
        return Err(ServeError::Tls(format!("client CA {name} holds no certificate")));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rotated_pair_is_picked_up_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let write = |hosts: &[String]| {
            let pair = self_signed(hosts).unwrap();
            std::fs::write(&cert, pair.0).unwrap();
            std::fs::write(&key, pair.1).unwrap();
        };
        write(&["first".into()]);
        let options = TlsOptions { cert: Some(cert.clone()), key: Some(key.clone()), ..TlsOptions::default() };
        let reloader = Reloader::new(options).unwrap();
        let first = reloader.current();
        write(&["second-and-longer".into()]);
        assert!(Arc::ptr_eq(&first, &reloader.current()), "not looked at yet");
        reloader.current.lock().check_at = Instant::now();
        let second = reloader.current();
        assert!(!Arc::ptr_eq(&first, &second));
        std::fs::write(&cert, "broken").unwrap();
        reloader.current.lock().check_at = Instant::now();
        assert!(Arc::ptr_eq(&second, &reloader.current()));
    }

    #[test]
    fn errors_name_the_file() {
        let options =
            TlsOptions { cert: Some("/no/such.crt".into()), key: Some("/no/such.key".into()), ..TlsOptions::default() };
        let error = Reloader::new(options).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("/no/such.crt"), "{error}");
        let options = TlsOptions { cert: Some("/no/such.crt".into()), ..TlsOptions::default() };
        assert!(Reloader::new(options).map(|_| ()).unwrap_err().to_string().contains("--tls-private-key-file"));
    }
}
