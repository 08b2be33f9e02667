//! The way to the apiserver: kubeconfig or in-cluster, rate-limited, with certificates and tokens that follow their files.

mod limit;
mod reach;
mod reload;
mod webhook;

use std::path::{Path, PathBuf};

use http::{HeaderValue, Uri, header::USER_AGENT};
use kube::{
    Client, Config,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};

use crate::config::flags::ClientConnection;

pub use limit::RateLimit;
pub use reach::Reach;
pub use webhook::{Webhook, WebhookError};

/// Why there is no client; the text names the file or the server.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig is unreadable or wrong, or names files that are.
    #[error("failed to load kubeconfig {path}: {reason}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No kubeconfig, no master, and not in a pod.
    #[error("neither --kubeconfig nor --master was given, and this is not a pod: {0}")]
    InCluster(String),
    /// `--master` is no URL.
    #[error("--master {server:?} is not a valid server address: {reason}")]
    Server {
        /// What was given.
        server: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificates or keys do not make a client.
    #[error("cannot make a client for {server}: {reason}")]
    Build {
        /// The server.
        server: String,
        /// What is wrong.
        reason: String,
    },
}

/// An error's text for a log line: kube prints a server's `Status` twice, the second time with all its empty fields.
pub fn brief(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    match text.find(" (Status {") {
        Some(end) => text[..end].trim_end_matches(": Forbidden").to_owned(),
        None => text,
    }
}

/// Makes a client as the flags say. No request is sent; `component` goes into the user agent
/// (`kube-scheduler/v1.36.1 (linux/amd64) corten`). A client with another purpose (leader election) should be another connection,
/// so that the rate limit of one does not starve the other.
pub async fn connect(connection: &ClientConnection, component: &str) -> Result<Client, ClientError> {
    connect_reporting(connection, component, &Reach::default()).await
}

/// As [`connect`]; the outcome of every request is noted in `reach`.
pub async fn connect_reporting(
    connection: &ClientConnection,
    component: &str,
    reach: &Reach,
) -> Result<Client, ClientError> {
    let source = Source::new(connection, component, None);
    let config = source.load().await?;
    build(source, Ok(config), reach.clone())
}

/// As [`connect`], for a daemon that renews its client certificate itself: certificate and key are those of `pair`, one PEM file, as
/// soon as it is there, and till then the kubeconfig's. That there are none yet is no error; requests fail, saying so, until there are.
pub async fn connect_with_pair(
    connection: &ClientConnection,
    component: &str,
    pair: &Path,
) -> Result<Client, ClientError> {
    let source = Source::new(connection, component, Some(pair.to_owned()));
    let config = source.load().await;
    build(source, config, Reach::default())
}

/// Makes a client from a ready config, with rate limit and user agent but without reloading (tests, loopback clients).
pub fn from_config(mut config: Config, connection: &ClientConnection, component: &str) -> Result<Client, ClientError> {
    set_user_agent(&mut config, &crate::config::version::user_agent(component));
    let namespace = config.default_namespace.clone();
    let limited = RateLimit::new(reload::make_service(config)?, connection.kube_api_qps, connection.kube_api_burst);
    Ok(Client::new(limited, namespace))
}

fn build(source: Source, config: Result<Config, ClientError>, reach: Reach) -> Result<Client, ClientError> {
    let namespace = config.as_ref().map_or_else(|_| "default".to_owned(), |config| config.default_namespace.clone());
    let (qps, burst) = (source.connection.kube_api_qps, source.connection.kube_api_burst);
    let service = reload::Reloading::new(source, config, reach)?;
    Ok(Client::new(RateLimit::new(service, qps, burst), namespace))
}

fn set_user_agent(config: &mut Config, agent: &str) {
    if let Ok(value) = HeaderValue::from_str(agent) {
        config.headers.push((USER_AGENT, value));
    }
}

/// Where a config comes from; can be read again when files change.
struct Source {
    connection: ClientConnection,
    agent: String,
    /// Certificate and key that replace the kubeconfig's credentials as soon as the file is there.
    pair: Option<PathBuf>,
}

impl Source {
    fn new(connection: &ClientConnection, component: &str, pair: Option<PathBuf>) -> Self {
        Self { connection: connection.clone(), agent: crate::config::version::user_agent(component), pair }
    }

    async fn load(&self) -> Result<Config, ClientError> {
        let mut config = match (&self.connection.kubeconfig, &self.connection.master) {
            (Some(path), _) => load_kubeconfig(path, self.pair.as_deref()).await?,
            (None, Some(master)) => Config::new(parse_server(master)?),
            (None, None) => Config::incluster().map_err(|error| ClientError::InCluster(causes(&error)))?,
        };
        if let Some(master) = self.connection.master.as_deref().filter(|master| !master.is_empty()) {
            config.cluster_url = parse_server(master)?;
        }
        set_user_agent(&mut config, &self.agent);
        Ok(config)
    }

    /// The files whose change means that the client must be rebuilt.
    fn files(&self) -> Vec<PathBuf> {
        let Some(path) = &self.connection.kubeconfig else { return Vec::new() };
        let mut files = vec![path.clone()];
        files.extend(self.pair.clone());
        let Ok(kubeconfig) = Kubeconfig::read_from(path) else { return files };
        let clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
        files.extend(clusters.filter_map(|cluster| cluster.certificate_authority.as_deref()).map(PathBuf::from));
        for user in kubeconfig.auth_infos.iter().filter_map(|named| named.auth_info.as_ref()) {
            let pair = [user.client_certificate.as_deref(), user.client_key.as_deref()];
            files.extend(pair.into_iter().flatten().map(PathBuf::from));
        }
        files
    }
}

async fn load_kubeconfig(path: &Path, pair: Option<&Path>) -> Result<Config, ClientError> {
    let wrong = |error: &dyn std::error::Error| ClientError::Kubeconfig {
        path: path.display().to_string(),
        reason: causes(error),
    };
    let mut kubeconfig = Kubeconfig::read_from(path).map_err(|error| wrong(&error))?;
    if let Some(pair) = pair.filter(|pair| pair.exists()) {
        let file = Some(pair.display().to_string());
        let user = AuthInfo { client_certificate: file.clone(), client_key: file, ..AuthInfo::default() };
        kubeconfig.auth_infos.iter_mut().for_each(|named| named.auth_info = Some(user.clone()));
    }
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(|error| wrong(&error))
}

fn parse_server(server: &str) -> Result<Uri, ClientError> {
    let with_scheme = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    with_scheme.parse().map_err(|error: http::uri::InvalidUri| ClientError::Server {
        server: server.to_owned(),
        reason: error.to_string(),
    })
}

/// An error with its causes, each said once.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(path: &Path) -> ClientConnection {
        ClientConnection { kubeconfig: Some(path.to_owned()), ..ClientConnection::default() }
    }

    #[tokio::test]
    async fn errors_name_the_file() {
        let missing = Path::new("/nonexistent/kubeconfig");
        let error = connect(&connection(missing), "t").await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/kubeconfig"), "{error}");

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1', certificate-authority: ca.crt}}]\nusers: [{name: u, user: {}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n").unwrap();
        let error = connect(&connection(&path), "t").await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("ca.crt"), "{error}");
    }

    #[tokio::test]
    async fn master_overrides_and_watches_referenced_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, "clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}]\nusers: [{name: u, user: {client-certificate: a.crt, client-key: a.key}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\ncurrent-context: x\n").unwrap();
        let source = Source {
            connection: ClientConnection { master: Some("127.0.0.1:8080".into()), ..connection(&path) },
            agent: "a/v1".into(),
            pair: None,
        };
        assert_eq!(source.files(), [path.clone(), dir.path().join("a.crt"), dir.path().join("a.key")]);
        assert_eq!(source.load().await.unwrap().cluster_url.to_string(), "http://127.0.0.1:8080/");
    }

    #[tokio::test]
    async fn a_certificate_may_come_later() {
        let dir = tempfile::tempdir().unwrap();
        let (path, pair) = (dir.path().join("config"), dir.path().join("current.pem"));
        std::fs::write(&path, format!("clusters: [{{name: c, cluster: {{server: 'https://127.0.0.1:1'}}}}]\nusers: [{{name: u, user: {{client-certificate: {0}, client-key: {0}}}}}]\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\ncurrent-context: x\n", pair.display())).unwrap();
        let client = connect_with_pair(&connection(&path), "t", &pair).await.unwrap();
        let version = async || client.apiserver_version().await.unwrap_err().to_string();
        let text = version().await;
        assert!(text.contains("current.pem"), "{text}");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        std::fs::write(&pair, format!("{}{}", certificate.pem(), key.serialize_pem())).unwrap();
        let text = version().await;
        assert!(!text.contains("current.pem"), "connects at once: {text}");
    }
}
