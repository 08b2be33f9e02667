//! The node's own certificates: joining by a bootstrap kubeconfig, and client and serving certificates that are asked of the API
//! server (CertificateSigningRequest) and renewed before they end. Files and names are upstream's, so that either kubelet goes on
//! with what the other left.

mod bootstrap;
mod manager;
mod metrics;
mod request;
mod store;
mod template;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use common::config::flags::ClientConnection;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::shared::Kubelet;
use manager::Manager;
use store::Store;
use template::Kind;

/// The way to the API server, and how its client certificate is kept valid.
pub(crate) struct Connection {
    /// The node's client.
    pub(crate) client: kube::Client,
    /// Who renews its certificate; `None` when the kubeconfig's credentials are for ever.
    renewal: Option<Renewal>,
}

struct Renewal {
    store: Store,
    /// Asks with the bootstrap credentials while there is no certificate of our own.
    bootstrap: Option<kube::Client>,
    /// Goes on after the first certificate.
    rotates: bool,
}

/// Connects as the node. Nothing is waited for: without a certificate requests fail until there is one, and static pods run
/// meanwhile.
pub(crate) async fn connect(config: &Config) -> anyhow::Result<Option<Connection>> {
    let Some(kubeconfig) = &config.kubeconfig else { return Ok(None) };
    let connection = |path: &PathBuf| ClientConnection {
        kubeconfig: Some(path.clone()),
        kube_api_qps: config.file.kube_api_qps as f32,
        kube_api_burst: u32::try_from(config.file.kube_api_burst).unwrap_or(100),
        ..ClientConnection::default()
    };
    let store = Store::new(&config.cert_dir, Kind::Client.file_name());
    let mut bootstrap = None;
    if let Some(path) = &config.bootstrap_kubeconfig
        && !bootstrap::still_valid(kubeconfig)
    {
        bootstrap::write_kubeconfig(path, kubeconfig, &store.current_path())?;
        tracing::info!("using the bootstrap credentials to request a client certificate");
        bootstrap = Some(common::client::connect(&connection(path), "kubelet").await?);
    }
    let rotates = config.file.rotate_certificates;
    if !rotates && bootstrap.is_none() {
        let client = common::client::connect(&connection(kubeconfig), "kubelet").await?;
        return Ok(Some(Connection { client, renewal: None }));
    }
    store.drop_expired(jiff::Timestamp::now());
    let store = store.or_else_in(bootstrap::certificate_file(kubeconfig));
    let client = common::client::connect_with_pair(&connection(kubeconfig), "kubelet", &store.current_path())
        .await
        .with_context(|| format!("connecting by {}", kubeconfig.display()))?;
    Ok(Some(Connection { client, renewal: Some(Renewal { store, bootstrap, rotates }) }))
}

/// The file of the serving certificate that the API server signs; `None` when it is not asked to.
pub(crate) fn serving_pair(config: &Config) -> Option<PathBuf> {
    let file = &config.file;
    let wanted = file.server_tls_bootstrap && file.tls_cert_file.is_empty() && config.kubeconfig.is_some();
    wanted.then(|| Store::new(&config.cert_dir, Kind::Serving.file_name()).current_path())
}

impl Connection {
    /// Starts the tasks that keep certificates valid.
    pub(crate) fn spawn(self, kubelet: &Arc<Kubelet>, tasks: &TaskTracker, shutdown: &CancellationToken) {
        if let Some(Renewal { store, bootstrap, rotates }) = self.renewal {
            let manager = Manager::new(Kind::Client, store, kubelet.clone(), bootstrap);
            tasks.spawn(manager.run(rotates, shutdown.clone()));
        }
        if serving_pair(&kubelet.config).is_some() {
            let store = Store::new(&kubelet.config.cert_dir, Kind::Serving.file_name());
            let manager = Manager::new(Kind::Serving, store, kubelet.clone(), None);
            tasks.spawn(manager.run(true, shutdown.clone()));
        }
    }
}
