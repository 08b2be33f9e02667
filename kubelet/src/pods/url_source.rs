//! Static pods of a URL (`staticPodURL`): a Pod or a PodList, asked for again and again. What can't be had or read leaves the pods alone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Limited};
use k8s_openapi::api::core::v1::Pod;
use tokio_util::sync::CancellationToken;

use super::static_source::{self, Source};
use crate::config::KubeletConfiguration;
use crate::shared::Kubelet;

/// Answers larger than this are refused.
const MAX_ANSWER: usize = 10 << 20;
const PATIENCE: Duration = Duration::from_secs(10);

/// Feeds the URL's pods to the manager until shutdown.
pub(crate) async fn run(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let file = &kubelet.config.file;
    if file.static_pod_url.is_empty() {
        kubelet.pods.replace_static(Source::Url, Vec::new());
        return;
    }
    tracing::info!(url = file.static_pod_url, "adding static pod URL");
    let mut failures = 0u32;
    loop {
        match tokio::time::timeout(PATIENCE, read(file, &kubelet.config.node_name)).await {
            Ok(Ok(pods)) => {
                failures = 0;
                kubelet.pods.replace_static(Source::Url, pods);
            }
            Ok(Err(error)) => {
                failures = failures.saturating_add(1);
                // Told three times, then only when somebody looks closely.
                if failures <= 3 {
                    tracing::error!(error = %format!("{error:#}"), "failed to read pods from URL");
                } else {
                    tracing::debug!(error = %format!("{error:#}"), "failed to read pods from URL");
                }
            }
            Err(_) => tracing::error!(url = file.static_pod_url, "no answer from the static pod URL in time"),
        }
        tokio::select! {
            () = tokio::time::sleep(file.http_check_frequency.0.max(Duration::from_secs(1))) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

async fn read(file: &KubeletConfiguration, node: &str) -> anyhow::Result<Vec<Pod>> {
    let url = &file.static_pod_url;
    let uri: http::Uri = url.parse().with_context(|| format!("invalid static pod URL {url:?}"))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    let client = kube::Client::try_from(kube::Config::new(http::Uri::from_parts(parts)?))?;
    let mut request = http::Request::get(path);
    for (name, values) in &file.static_pod_url_header {
        for value in values {
            request = request.header(name, value);
        }
    }
    let answer = client.send(request.body(kube::client::Body::empty())?).await?;
    if answer.status() != http::StatusCode::OK {
        bail!("{url}: {}", answer.status());
    }
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("reading {url}: {error}"))?.to_bytes();
    if body.is_empty() {
        bail!("zero-length data received from {url}");
    }
    parse(std::str::from_utf8(&body)?, url, node)
}

/// One pod or a list of them; of a list all must be right.
fn parse(text: &str, url: &str, node: &str) -> anyhow::Result<Vec<Pod>> {
    let tree: serde_json::Value = serde_saphyr::from_str(text).context("not valid YAML or JSON")?;
    let items = match (tree["apiVersion"].as_str(), tree["kind"].as_str()) {
        (Some("v1"), Some("Pod")) => vec![tree],
        (Some("v1"), Some("PodList" | "List")) => tree["items"].as_array().cloned().unwrap_or_default(),
        (version, kind) => bail!(
            "{url}: received {kind:?} of {version:?}, but couldn't parse as single (v1.Pod) or multiple pods (v1.PodList)"
        ),
    };
    let settle = |item: serde_json::Value| {
        let text = item.to_string();
        let pod: Pod = serde_json::from_value(item)?;
        static_source::settle(pod, &text, (Source::Url, url), node).map_err(|error| anyhow::anyhow!("{url}: {error}"))
    };
    items.into_iter().map(settle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::spec;

    #[test]
    fn one_pod_or_many() {
        let pod = |name: &str| {
            format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: i}}]}}}}"
            )
        };
        let one = parse(&pod("a"), "http://u", "n1").unwrap();
        assert_eq!(spec::name(&one[0]), "a-n1");
        assert_eq!(spec::annotation(&one[0], spec::CONFIG_SOURCE), Some("http"));
        let list = format!("{{apiVersion: v1, kind: PodList, items: [{}, {}]}}", pod("a"), pod("b"));
        let many = parse(&list, "http://u", "n1").unwrap();
        assert_eq!(many.len(), 2);
        assert_ne!(spec::uid(&many[0]), spec::uid(&many[1]));
        for (text, part) in [
            ("kind: [", "not valid"),
            ("{apiVersion: v1, kind: Service}", "couldn't parse as single"),
            ("{apiVersion: v1, kind: PodList, items: [{metadata: {name: X}}]}", "metadata.name"),
        ] {
            let error = format!("{:#}", parse(text, "http://u", "n1").unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }
}
