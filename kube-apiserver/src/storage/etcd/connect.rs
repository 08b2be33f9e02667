//! Reaching etcd: endpoints, TLS, and what the members can do.

use std::{path::Path, sync::Arc, time::Duration};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{EtcdOptions, EtcdStore, Inner, call, compact, follow, lease};
use crate::storage::{Store, StoreError, hub::Hub, metrics};

const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);

/// Connects; fails when no endpoint answers within the connect timeout.
pub async fn connect(options: EtcdOptions) -> Result<Arc<dyn Store>, StoreError> {
    let dial = dial_options(&options)?;
    let client = Client::connect(&options.endpoints, Some(dial.clone()))
        .await
        .map_err(|error| StoreError::Internal(format!("--etcd-servers {}: {error}", options.endpoints.join(","))))?;
    let (wanted, wishes) = watch::channel(0);
    let mut inner = Inner {
        client,
        prefix: format!("/{}/", options.prefix.trim_matches('/')),
        hub: Hub::new(0),
        wanted,
        progress: false,
    };
    let revision = first_answer(&inner, &options).await?;
    inner.progress = progress_supported(&options, &dial).await;
    inner.hub = Hub::new(revision);
    let inner = Arc::new(inner);
    let stop = CancellationToken::new();
    tokio::spawn(stop.clone().run_until_cancelled_owned(follow::run(inner.clone(), wishes)));
    if !options.compaction_interval.is_zero() {
        let compactor = compact::run(inner.clone(), options.compaction_interval);
        tokio::spawn(stop.clone().run_until_cancelled_owned(compactor));
    }
    let leases = lease::Leases::new(inner.client.lease_client());
    Ok(metrics::observed(Arc::new(EtcdStore { inner, leases, stop })))
}

/// Waits for an endpoint that answers.
async fn first_answer(inner: &Inner, options: &EtcdOptions) -> Result<u64, StoreError> {
    let deadline = tokio::time::Instant::now() + options.connect_timeout;
    loop {
        let failure = match tokio::time::timeout_at(deadline, inner.revision()).await {
            Ok(Ok(revision)) => return Ok(revision),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        if tokio::time::Instant::now() + RETRY >= deadline {
            let endpoints = options.endpoints.join(",");
            return Err(StoreError::Unavailable(format!("cannot reach etcd at {endpoints}: {failure}")));
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn dial_options(options: &EtcdOptions) -> Result<ConnectOptions, StoreError> {
    let mut dial = ConnectOptions::new()
        .with_connect_timeout(DIAL_TIMEOUT)
        .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE_TIMEOUT)
        .with_require_leader(true);
    let secure = options.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
    if !secure {
        return Ok(dial);
    }
    let Some(authority) = &options.ca_file else {
        return Err(StoreError::Internal("https endpoints in --etcd-servers need --etcd-cafile".into()));
    };
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read("--etcd-cafile", authority)?));
    match (&options.cert_file, &options.key_file) {
        (Some(certificate), Some(key)) => {
            let certificate = read("--etcd-certfile", certificate)?;
            tls = tls.identity(Identity::from_pem(certificate, read("--etcd-keyfile", key)?));
        }
        (None, None) => {}
        _ => return Err(StoreError::Internal("--etcd-certfile and --etcd-keyfile must be given together".into())),
    }
    dial = dial.with_tls(tls);
    Ok(dial)
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|error| StoreError::Internal(format!("{flag} {}: {error}", path.display())))
}

/// Requested progress can be relied on from 3.4.31 and 3.5.13 on, as upstream decided; all members must have it.
async fn progress_supported(options: &EtcdOptions, dial: &ConnectOptions) -> bool {
    for endpoint in &options.endpoints {
        let version = async {
            let client = call(Client::connect([endpoint], Some(dial.clone()))).await?;
            call(client.maintenance_client().status()).await.map(|status| status.version().to_owned())
        };
        match tokio::time::timeout(DIAL_TIMEOUT, version).await {
            Ok(Ok(version)) if orders_progress(&version) => {}
            _ => return false,
        }
    }
    true
}

fn orders_progress(version: &str) -> bool {
    let numbers: Vec<u32> = version.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect();
    match numbers[..] {
        [3, 4, patch, ..] => patch >= 31,
        [3, 5, patch, ..] => patch >= 13,
        [major, minor, ..] => (major, minor) > (3, 5),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::orders_progress;

    #[test]
    fn versions_with_ordered_progress() {
        for (version, expected) in [
            ("3.4.23", false),
            ("3.4.31", true),
            ("3.5.12", false),
            ("3.5.30", true),
            ("3.6.0-rc.1", true),
            ("3.3.9", false),
            ("", false),
        ] {
            assert_eq!(orders_progress(version), expected, "{version}");
        }
    }
}
