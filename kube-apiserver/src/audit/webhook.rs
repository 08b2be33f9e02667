//! `--audit-webhook-config-file`: events are sent to a server as an `EventList`.

use std::{path::Path, time::Duration};

use kube::config::{KubeConfigOptions, Kubeconfig};
use rand::RngExt;
use serde_json::json;

use super::event::Event;

/// Upstream's retries.
const ATTEMPTS: u32 = 5;
const FACTOR: f64 = 1.5;
const JITTER: f64 = 0.2;

/// A server that is told of events.
pub struct Webhook {
    client: kube::Client,
    path: String,
    first_delay: Duration,
}

impl Webhook {
    /// A client as a kubeconfig file says.
    ///
    /// # Errors
    /// The file cannot be used.
    pub async fn load(path: &Path, first_delay: Duration) -> anyhow::Result<Self> {
        let file = Kubeconfig::read_from(path)?;
        let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        // The address names the very path, not one to add to.
        let path = match config.cluster_url.path() {
            "" => "/".to_owned(),
            path => path.to_owned(),
        };
        let mut parts = config.cluster_url.into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        config.cluster_url = http::Uri::from_parts(parts)?;
        config.default_retry = false;
        Ok(Self { client: kube::Client::try_from(config)?, path, first_delay })
    }

    /// Sends events; whatever is wrong, tries again a few times.
    ///
    /// # Errors
    /// What was wrong at last.
    pub async fn send(&self, events: &[Event]) -> Result<(), String> {
        let list = json!({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {}, "items": events});
        let body = list.to_string().into_bytes();
        let mut delay = self.first_delay;
        for attempt in 1.. {
            match self.post(body.clone()).await {
                Ok(()) => break,
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(error) => tracing::debug!(error, attempt, "the audit webhook failed, trying again"),
            }
            let jitter = rand::rng().random_range(0.0..JITTER);
            tokio::time::sleep(delay.mul_f64(1.0 + jitter)).await;
            delay = delay.mul_f64(FACTOR);
        }
        Ok(())
    }

    async fn post(&self, body: Vec<u8>) -> Result<(), String> {
        let request = http::Request::post(&self.path).header("content-type", "application/json");
        let request = request.body(kube::client::Body::from(body)).map_err(|error| error.to_string())?;
        let response = self.client.send(request).await.map_err(|error| error.to_string())?;
        if response.status().is_success() { Ok(()) } else { Err(format!("the server answered {}", response.status())) }
    }
}
