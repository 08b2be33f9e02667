//! Keeps one certificate valid: asks for the first one, renews it in time and when the node's addresses change.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::request;
use super::store::{self, Held, Store};
use super::template::{self, Kind, Template};
use crate::shared::Kubelet;

/// How often the node's addresses are compared with the certificate's.
const LOOK: Duration = Duration::from_secs(10);
/// While there are no addresses.
const FIRST_LOOK: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(32);

/// The keeper of one certificate.
pub(super) struct Manager {
    kind: Kind,
    store: Store,
    kubelet: Arc<Kubelet>,
    /// Who asks while there is no valid certificate.
    bootstrap: Option<kube::Client>,
    metrics: Metrics,
}

impl Manager {
    pub(super) fn new(kind: Kind, store: Store, kubelet: Arc<Kubelet>, bootstrap: Option<kube::Client>) -> Self {
        Self { kind, store, kubelet, bootstrap, metrics: Metrics::new(kind) }
    }

    /// Runs until shutdown; without `rotates` until there is a certificate.
    pub(super) async fn run(self, rotates: bool, shutdown: CancellationToken) {
        tokio::select! {
            () = self.keep(rotates) => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn keep(&self, rotates: bool) {
        let mut planned: Option<(Held, Timestamp)> = None;
        loop {
            let Some(template) = self.template() else {
                tokio::time::sleep(FIRST_LOOK).await;
                continue;
            };
            let held = self.store.current();
            self.metrics.ends(held.as_ref().map(|held| held.not_after));
            let now = Timestamp::now();
            let due = match held.as_ref().filter(|held| template.is_met_by(held)) {
                None => now,
                Some(held) => match &planned {
                    Some((of, due)) if of == held => *due,
                    _ => {
                        // A certificate that is due as soon as it is issued must not keep us busy.
                        let soonest = now.checked_add(RETRY).unwrap_or(now);
                        let due = template::renewal(held, rand::random()).max(soonest);
                        tracing::info!(kind = ?self.kind, expiry = %held.not_after, deadline = %due, "certificate rotation deadline determined");
                        planned = Some((held.clone(), due));
                        due
                    }
                },
            };
            if due <= now {
                self.renew_at_last(held.as_ref()).await;
                continue;
            }
            if !rotates {
                return;
            }
            let left = Duration::try_from(due.duration_since(now)).unwrap_or_default();
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }

    fn template(&self) -> Option<Template> {
        let node = self.kubelet.node.object();
        let addresses = node.as_ref().and_then(|node| node.status.as_ref()?.addresses.as_deref());
        Template::of(self.kind, &self.kubelet.config.node_name, addresses.unwrap_or_default())
    }

    /// Tries until there is a new certificate.
    async fn renew_at_last(&self, held: Option<&Held>) {
        let mut pause = RETRY;
        while let Err(error) = self.renew(held).await {
            self.metrics.failed();
            tracing::error!(kind = ?self.kind, error = %format!("{error:#}"), "cannot rotate the certificate, will retry");
            tokio::time::sleep(pause.mul_f64(1.0 + 0.1 * rand::random::<f64>())).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        if let Some(held) = held {
            self.metrics.replaced(held.not_before);
        }
    }

    async fn renew(&self, held: Option<&Held>) -> anyhow::Result<()> {
        tracing::info!(kind = ?self.kind, "rotating certificates");
        let own = self.kubelet.client.as_ref();
        let valid = held.is_some_and(|held| held.not_after > Timestamp::now());
        let client = if valid { own } else { self.bootstrap.as_ref().or(own) };
        let client = client.context("no API server to ask")?;
        let template = self.template().context("the node has no addresses any more")?;
        let key = KeyPair::generate().context("unable to generate a new private key")?;
        let pem = template.request(&key).context("unable to create a csr")?;
        let certificate = request::request(client, pem, self.kind).await?;
        if !store::is_for_key(&certificate, &key.subject_public_key_info())? {
            bail!("the issued certificate is for another key");
        }
        let store = self.store.clone();
        let key = key.serialize_pem();
        tokio::task::spawn_blocking(move || store.update(&certificate, &key, Timestamp::now()))
            .await?
            .context("unable to store new cert/key pair")
    }
}
