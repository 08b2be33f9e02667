//! One extender: its configuration as a client, and its verbs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::config::parse_go_duration;
use http_body_util::{BodyExt, Limited};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::wire;
use crate::config::types::ExtenderConfig;
use crate::framework::pod::PodInfo;

/// As upstream's.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Five thousand whole nodes fit into this.
const MAX_ANSWER: usize = 64 << 20;

/// An extender.
pub struct Extender {
    /// Its configuration.
    pub config: ExtenderConfig,
    client: kube::Client,
    timeout: Duration,
    managed: BTreeSet<String>,
}

fn client(config: &ExtenderConfig) -> Result<kube::Client, String> {
    let url: http::Uri = config.url_prefix.trim_end_matches('/').parse().map_err(|error| format!("{error}"))?;
    let mut client = kube::Config::new(url);
    client.default_retry = false;
    if let Some(tls) = &config.tls_config {
        client.accept_invalid_certs = tls.insecure;
        client.tls_server_name = Some(tls.server_name.clone()).filter(|name| !name.is_empty());
        client.root_cert_file = Some((&tls.ca_file).into()).filter(|_| !tls.ca_file.is_empty());
        if let Some(data) = &tls.ca_data {
            let certificates = CertificateDer::pem_slice_iter(&data.0);
            let certificates: Result<Vec<_>, _> = certificates.map(|found| found.map(|one| one.to_vec())).collect();
            client.root_cert = Some(certificates.map_err(|error| format!("caData: {error}"))?);
        }
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        let identity = json!({
            "client-certificate": given(&tls.cert_file), "client-certificate-data": given(&tls.cert_data),
            "client-key": given(&tls.key_file), "client-key-data": given(&tls.key_data),
        });
        client.auth_info = serde_json::from_value(identity).map_err(|error| error.to_string())?;
    }
    if config.enable_https && client.root_cert.is_none() && client.root_cert_file.is_none() {
        client.accept_invalid_certs = true;
    }
    kube::Client::try_from(client).map_err(|error| error.to_string())
}

impl Extender {
    /// From its configuration. Must be called within a runtime.
    pub fn new(config: &ExtenderConfig) -> Result<Self, String> {
        let wrap = |error: String| format!("extender {:?}: {error}", config.url_prefix);
        let timeout = config.http_timeout.as_deref().map(parse_go_duration).transpose();
        let timeout = timeout.map_err(|error| wrap(format!("httpTimeout: {error}")))?;
        Ok(Self {
            client: client(config).map_err(wrap)?,
            timeout: timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(TIMEOUT),
            managed: config.managed_resources.iter().map(|resource| resource.name.clone()).collect(),
            config: config.clone(),
        })
    }

    /// Whether the pod asks for a resource of the extender's, or the extender wants to see every pod.
    pub fn interested(&self, pod: &PodInfo) -> bool {
        self.managed.is_empty() || pod.template.requests.scalars.iter().any(|(name, _)| self.managed.contains(&**name))
    }

    async fn send<T: DeserializeOwned>(&self, verb: &str, args: &Value) -> Result<T, String> {
        let exchange = self.exchange(verb, args);
        let body = tokio::time::timeout(self.timeout, exchange).await.unwrap_or_else(|_| {
            let url = format!("{}/{verb}", self.config.url_prefix.trim_end_matches('/'));
            Err(format!("Post {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"))
        })?;
        wire::parse(&body)
    }

    async fn exchange(&self, verb: &str, args: &Value) -> Result<Vec<u8>, String> {
        let url = format!("{}/{verb}", self.config.url_prefix.trim_end_matches('/'));
        let failed = |error: &dyn std::fmt::Display| format!("Post {url:?}: {error}");
        let body = serde_json::to_vec(args).map_err(|error| failed(&error))?;
        let request = http::Request::post(format!("/{verb}"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(kube::client::Body::from(body))
            .map_err(|error| failed(&error))?;
        let answer = self.client.send(request).await.map_err(|error| failed(&error))?;
        let code = answer.status().as_u16();
        if code != 200 {
            return Err(format!("failed {verb} with extender at URL {url}, code {code}"));
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        Ok(body.map_err(|error| failed(&error))?.to_bytes().to_vec())
    }

    /// Asks which of some nodes will do.
    pub async fn filter(&self, args: &Value) -> Result<wire::FilterAnswer, String> {
        let answer: wire::FilterAnswer = self.send(&self.config.filter_verb, args).await?;
        match answer.error.as_deref() {
            None | Some("") => Ok(answer),
            Some(error) => Err(error.to_owned()),
        }
    }

    /// Asks for scores.
    pub async fn prioritize(&self, args: &Value) -> Result<Vec<wire::HostPriority>, String> {
        self.send::<Option<Vec<_>>>(&self.config.prioritize_verb, args).await.map(Option::unwrap_or_default)
    }

    /// Asks which victims will do.
    pub async fn preempt(&self, args: &Value) -> Result<BTreeMap<String, Option<wire::MetaVictims>>, String> {
        let answer: wire::PreemptAnswer = self.send(&self.config.preempt_verb, args).await?;
        Ok(answer.nodenametometavictims.unwrap_or_default())
    }

    /// Has it bind.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), String> {
        let args = json!({"PodName": *pod.name, "PodNamespace": pod.namespace(), "PodUID": *pod.uid, "Node": node});
        let answer: wire::BindAnswer = self.send(&self.config.bind_verb, &args).await?;
        match answer.error.as_deref() {
            None | Some("") => Ok(()),
            Some(error) => Err(error.to_owned()),
        }
    }
}
