//! HTTP(S) requests of probes and hooks: one connection each, certificates unchecked (as upstream), bodies bounded,
//! redirects followed within the same host.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

const MAX_BODY: usize = 10 * 1024;
const MAX_REDIRECTS: usize = 10;

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
}

/// Why nothing came back; worded as Go's client does.
#[derive(Debug, thiserror::Error)]
#[error("Get {url:?}: {reason}")]
pub(crate) struct HttpError {
    url: String,
    reason: String,
}

/// `host:port`, with brackets where needed.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An I/O error without Rust's `(os error N)`.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

/// GET as the action says.
pub(crate) async fn get(action: &HTTPGetAction, host: &str, port: u16, timeout: Duration) -> Result<Answer, HttpError> {
    let scheme = action.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
    let path = action.path.as_deref().unwrap_or("/");
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut url = format!("{scheme}://{}{slash}{path}", authority(host, port));
    let first = url.clone();
    let follow = async {
        for _ in 0..MAX_REDIRECTS {
            let (status, location) = once(action, &url).await?;
            let next = location.filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308)).and_then(|l| join(&url, &l));
            match next {
                Some(next) if same_host(&url, &next) => url = next,
                // A redirect to elsewhere counts as an answer.
                _ => return Ok(Answer { status }),
            }
        }
        Err("stopped after 10 redirects".to_owned())
    };
    match tokio::time::timeout(timeout, follow).await {
        Ok(outcome) => outcome.map_err(|reason| HttpError { url: first, reason }),
        Err(_) => {
            let reason = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into();
            Err(HttpError { url: first, reason })
        }
    }
}

fn join(base: &str, location: &str) -> Option<String> {
    if location.contains("://") {
        return Some(location.to_owned());
    }
    let base: Uri = base.parse().ok()?;
    let slash = if location.starts_with('/') { "" } else { "/" };
    Some(format!("{}://{}{slash}{location}", base.scheme_str()?, base.authority()?))
}

fn same_host(a: &str, b: &str) -> bool {
    let host = |url: &str| url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    host(a) == host(b)
}

async fn once(action: &HTTPGetAction, url: &str) -> Result<(u16, Option<String>), String> {
    let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let address = authority(&host, port);
    let stream = TcpStream::connect(&address)
        .await
        .map_err(|error| format!("dial tcp {address}: connect: {}", plain(&error)))?;
    let request = request(action, &uri, &address)?;
    if tls {
        let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(insecure());
        let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
        exchange(stream, request).await
    } else {
        exchange(stream, request).await
    }
}

fn request(action: &HTTPGetAction, uri: &Uri, address: &str) -> Result<Request<Empty<Bytes>>, String> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let mut builder = Request::get(target);
    let (mut agent, mut accept, mut host) = (true, true, true);
    for header in action.http_headers.iter().flatten() {
        match header.name.to_lowercase().as_str() {
            "user-agent" => agent = false,
            "accept" => accept = false,
            "host" => host = false,
            _ => {}
        }
        // An empty User-Agent or Accept means: send none.
        if !header.value.is_empty() {
            builder = builder.header(&header.name, &header.value);
        }
    }
    if agent {
        builder = builder.header(header::USER_AGENT, "kube-probe/1.36");
    }
    if accept {
        builder = builder.header(header::ACCEPT, "*/*");
    }
    if host {
        builder = builder.header(header::HOST, address);
    }
    builder.header(header::CONNECTION, "close").body(Empty::new()).map_err(|error| error.to_string())
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<(u16, Option<String>), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(|error| error.to_string());
    let outcome = match answer {
        Ok(answer) => {
            let status = answer.status().as_u16();
            let location =
                answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
            // Read a little, so that a server is not cut off in the middle of a short answer.
            let _ = Limited::new(answer.into_body(), MAX_BODY).collect().await;
            Ok((status, location))
        }
        Err(error) => Err(error),
    };
    connection.abort();
    outcome
}

fn insecure() -> Arc<rustls::ClientConfig> {
    static CONFIG: OnceLock<Arc<rustls::ClientConfig>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = rustls::ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .expect("ring supports the default versions")
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth();
            Arc::new(config)
        })
        .clone()
}

/// Probes ask "does it answer", not "is it who it says".
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects() {
        assert_eq!(join("http://10.0.0.1:80/a", "/b").as_deref(), Some("http://10.0.0.1:80/b"));
        assert!(same_host("http://10.0.0.1:80/a", "http://10.0.0.1:8080/"));
        assert!(!same_host("http://10.0.0.1/", "http://example.com/"));
        assert_eq!(authority("fd00::1", 80), "[fd00::1]:80");
    }
}
