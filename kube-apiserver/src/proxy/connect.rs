//! Connections to kubelets (mutual TLS with the apiserver's kubelet client certificate) and to pods.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Limited};
use hyper::{Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring::default_provider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::location::{Location, Scheme};
use crate::{
    request::{ApiError, ApiResult},
    server::response::Body,
};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// What a health endpoint may answer.
const MAX_PROBE_BODY: usize = 10 * 1024;

/// The flags that concern kubelets.
#[derive(Clone, Debug, Default)]
pub struct KubeletOptions {
    /// `--kubelet-certificate-authority`; without it kubelets' certificates are not verified, as upstream.
    pub certificate_authority: Option<PathBuf>,
    /// `--kubelet-client-certificate`
    pub client_certificate: Option<PathBuf>,
    /// `--kubelet-client-key`
    pub client_key: Option<PathBuf>,
    /// `--kubelet-preferred-address-types`, in order of preference.
    pub preferred_address_types: Vec<String>,
}

/// Why connections to kubelets can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// A file can't be read.
    #[error("reading {path}: {reason}")]
    File {
        /// Which.
        path: String,
        /// Why.
        reason: String,
    },
    /// Key and certificate don't fit.
    #[error("kubelet client certificate: {0}")]
    Certificate(#[from] rustls::Error),
}

/// TLS set-ups for what lies behind the apiserver.
pub struct Backends {
    kubelet: TlsConnector,
    anyone: TlsConnector,
    /// Preferred node address types.
    pub(super) address_types: Vec<String>,
}

/// A connection of either kind.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, ProxyError> {
    let failed = |reason: String| ProxyError::File { path: path.display().to_string(), reason };
    let pem = fs::read(path).map_err(|error| failed(error.to_string()))?;
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let list = list.map_err(|error| failed(error.to_string()))?;
    if list.is_empty() { Err(failed("no certificate in it".into())) } else { Ok(list) }
}

fn key(path: &PathBuf) -> Result<PrivateKeyDer<'static>, ProxyError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| ProxyError::File { path: path.display().to_string(), reason: error.to_string() })
}

impl Backends {
    /// Reads the files that the options name.
    ///
    /// # Errors
    /// When one can't be read or used.
    pub fn new(options: &KubeletOptions) -> Result<Self, ProxyError> {
        let provider = Arc::new(default_provider());
        let builder = || ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let unverified = || {
            let verifier = Arc::new(Unverified(provider.clone()));
            builder().map(|builder| builder.dangerous().with_custom_certificate_verifier(verifier))
        };
        let verified = match &options.certificate_authority {
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate)?;
                }
                builder()?.with_root_certificates(roots)
            }
            None => unverified()?,
        };
        let kubelet = match (&options.client_certificate, &options.client_key) {
            (Some(certificate), Some(path)) => {
                verified.with_client_auth_cert(certificates(certificate)?, key(path)?)?
            }
            _ => verified.with_no_client_auth(),
        };
        let anyone = unverified()?.with_no_client_auth();
        let types = if options.preferred_address_types.is_empty() {
            ["Hostname", "InternalDNS", "InternalIP", "ExternalDNS", "ExternalIP"].map(String::from).to_vec()
        } else {
            options.preferred_address_types.clone()
        };
        Ok(Self { kubelet: Arc::new(kubelet).into(), anyone: Arc::new(anyone).into(), address_types: types })
    }

    /// Connects to a location.
    pub(super) async fn connect(&self, location: &Location) -> ApiResult<Box<dyn Io>> {
        let failed = |error: io::Error| {
            let address = format!("{}:{}", location.host, location.port);
            ApiError::new(502, "", format!("error dialing backend: dial tcp {address}: {error}"), None)
        };
        timeout(CONNECT, self.dial(location))
            .await
            .unwrap_or_else(|_| Err(io::Error::other("i/o timeout")))
            .map_err(failed)
    }

    async fn dial(&self, location: &Location) -> io::Result<Box<dyn Io>> {
        let stream = TcpStream::connect((location.host.as_str(), location.port)).await?;
        stream.set_nodelay(true)?;
        let connector = match location.scheme {
            Scheme::Plain => return Ok(Box::new(stream)),
            Scheme::Tls => &self.anyone,
            Scheme::Kubelet => &self.kubelet,
        };
        let name = ServerName::try_from(location.host.clone()).map_err(io::Error::other)?;
        Ok(Box::new(connector.connect(name, stream).await?))
    }

    /// Asks a health endpoint over TLS, whatever its certificate; says whether it is well, and its text.
    ///
    /// # Errors
    /// When it can't be reached or answers no HTTP.
    pub async fn probe(&self, host: &str, port: u16, path: &str) -> ApiResult<(bool, String)> {
        let location = Location { scheme: Scheme::Tls, host: host.to_owned(), port, path: path.to_owned() };
        let request = Request::get(path).header("host", host).body(crate::server::response::empty());
        let response = self.send(&location, request.map_err(ApiError::internal)?).await?;
        let well = response.status().is_success();
        let body = Limited::new(response.into_body(), MAX_PROBE_BODY).collect().await.map_err(ApiError::internal)?;
        Ok((well, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    }

    /// Sends one request on a connection of its own. The connection can be upgraded.
    pub(super) async fn send(&self, location: &Location, request: Request<Body>) -> ApiResult<Response<Incoming>> {
        let failed =
            |error: hyper::Error| ApiError::new(502, "", format!("error sending request to backend: {error}"), None);
        let io = TokioIo::new(self.connect(location).await?);
        let (mut sender, connection) = http1::Builder::new().handshake(io).await.map_err(failed)?;
        // Ends when either side closes it.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to backend ended");
            }
        });
        sender.send_request(request).await.map_err(failed)
    }
}

/// Accepts any certificate: pods and services behind `proxy` have no authority that we know, as upstream.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
