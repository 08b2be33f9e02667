//! Webhooks: services whose whole address is the server of a kubeconfig.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Limited};
use kube::{Client, client::Body};

use super::{ClientError, causes, load_kubeconfig, reload, set_user_agent};

/// Answers are small.
const MAX_ANSWER: usize = 3 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a webhook gave no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WebhookError(String);

/// A service that is sent JSON and answers JSON.
pub struct Webhook {
    client: Client,
    path: String,
}

impl Webhook {
    /// Reads the kubeconfig; no request is sent. `component` goes into the user agent.
    ///
    /// # Errors
    /// The kubeconfig, or a file that it names, is unreadable or wrong.
    pub fn new(kubeconfig: &Path, component: &str) -> Result<Self, ClientError> {
        // Reading files is all that this waits for.
        let mut config = futures::executor::block_on(load_kubeconfig(kubeconfig, None))?;
        let server = config.cluster_url.clone();
        let mut parts = server.clone().into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        config.cluster_url = Uri::from_parts(parts)
            .map_err(|error| ClientError::Build { server: server.to_string(), reason: causes(&error) })?;
        (config.connect_timeout, config.read_timeout) = (Some(TIMEOUT), Some(TIMEOUT));
        set_user_agent(&mut config, &crate::config::version::user_agent(component));
        let namespace = config.default_namespace.clone();
        let client = Client::new(reload::make_service(config)?, namespace);
        Ok(Self { client, path: format!("{}?timeout={}s", server.path(), TIMEOUT.as_secs()) })
    }

    /// Sends JSON; answers the status code and the body.
    ///
    /// # Errors
    /// The service can't be reached, or says too much.
    pub async fn post(&self, json: String) -> Result<(u16, Bytes), WebhookError> {
        let request = Request::post(&self.path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Body::from(json.into_bytes()))
            .map_err(|error| WebhookError(causes(&error)))?;
        let response = self.client.send(request).await.map_err(|error| WebhookError(causes(&error)))?;
        let code = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok((code, body.map_err(|error| WebhookError(error.to_string()))?.to_bytes()))
    }
}
