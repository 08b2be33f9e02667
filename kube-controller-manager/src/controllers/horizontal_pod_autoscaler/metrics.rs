//! The three metrics APIs: resources (metrics.k8s.io), custom ones of objects and pods, external ones.

use std::collections::BTreeMap;

use common::meta::{LabelSelector, Quantity};
use jiff::SignedDuration;
use k8s_openapi::api::autoscaling::v2::CrossVersionObjectReference;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector as MetaSelector, Time};
use kube::Client;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::calculator::{Sample, Samples};
use crate::shared::apierr;
use crate::shared::scale::Scaler;

const RESOURCE: &str = "/apis/metrics.k8s.io/v1beta1";
const CUSTOM: (&str, &[&str]) = ("custom.metrics.k8s.io", &["v1beta2", "v1beta1"]);
const EXTERNAL: (&str, &[&str]) = ("external.metrics.k8s.io", &["v1beta1"]);
/// Over which time custom metrics are measured that do not say so.
const DEFAULT_WINDOW: SignedDuration = SignedDuration::from_secs(60);

#[derive(Deserialize)]
struct List<T> {
    #[serde(default = "Vec::new")]
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct ContainerMetrics {
    name: String,
    #[serde(default)]
    usage: BTreeMap<String, ApiQuantity>,
}

#[derive(Deserialize)]
struct PodMetrics {
    metadata: Named,
    timestamp: Time,
    window: String,
    #[serde(default)]
    containers: Vec<ContainerMetrics>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricValue {
    described_object: Option<Named>,
    timestamp: Time,
    window_seconds: Option<i64>,
    value: ApiQuantity,
}

fn milli(quantity: &ApiQuantity) -> i64 {
    Quantity::try_from(quantity).map_or(0, |q| q.milli_value())
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Asks the metrics APIs.
pub(super) struct Metrics {
    pub(super) client: Client,
}

impl Metrics {
    async fn get<T: DeserializeOwned>(&self, path: String, what: &str) -> Result<T, String> {
        let request = http::Request::get(path).body(Vec::new()).map_err(|e| e.to_string())?;
        self.client.request(request).await.map_err(|error| match apierr::is_not_found(&error) {
            true => format!("the server could not find the requested resource (get {what})"),
            false => apierr::message(&error),
        })
    }

    /// The preferred version of a metrics API, among those that we speak.
    async fn version(&self, (group, known): (&str, &[&str]), what: &str) -> Result<String, String> {
        let groups = self.client.list_api_groups().await.map_err(|e| apierr::message(&e))?;
        let found = groups.groups.into_iter().find(|g| g.name == group);
        let found = found.ok_or_else(|| format!("no {what} metrics API ({group}) registered"))?;
        let served = |version: &&&str| found.versions.iter().any(|v| v.version == **version);
        let version = known.iter().find(served).ok_or("no known available metric versions found")?;
        Ok(format!("/apis/{group}/{version}"))
    }

    /// What the pods use of a resource; of one container, if it is named.
    ///
    /// # Errors
    /// The API is not there or has nothing, in upstream's words.
    pub(super) async fn of_resource(
        &self,
        resource: &str,
        namespace: &str,
        selector: &str,
        container: &str,
    ) -> Result<Samples, String> {
        let path = format!("{RESOURCE}/namespaces/{namespace}/pods?labelSelector={}", encoded(selector));
        let list: Result<List<PodMetrics>, String> = self.get(path, "pods.metrics.k8s.io").await;
        let list = list.map_err(|e| format!("unable to fetch metrics from resource metrics API: {e}"))?;
        if list.items.is_empty() {
            return Err("no metrics returned from resource metrics API".into());
        }
        Ok(list.items.into_iter().filter_map(|pod| sample(pod, resource, container)).collect())
    }

    /// A custom metric of each pod.
    ///
    /// # Errors
    /// See [`Self::of_resource`].
    pub(super) async fn of_pods(
        &self,
        metric: &str,
        namespace: &str,
        selector: &str,
        metric_selector: &LabelSelector,
    ) -> Result<Samples, String> {
        let fetch = async {
            let root = self.version(CUSTOM, "custom").await?;
            let query = format!("labelSelector={}{}", encoded(selector), metric_query(metric_selector, "&"));
            let path = format!("{root}/namespaces/{namespace}/pods/*/{metric}?{query}");
            self.get::<List<MetricValue>>(path, "pods.custom.metrics.k8s.io").await
        };
        let list = fetch.await.map_err(|e| format!("unable to fetch metrics from custom metrics API: {e}"))?;
        if list.items.is_empty() {
            return Err("no metrics returned from custom metrics API".into());
        }
        let sample = |m: MetricValue| {
            let window = m.window_seconds.map_or(DEFAULT_WINDOW, SignedDuration::from_secs);
            Some((m.described_object?.name, Sample { at: m.timestamp.0, window, value: milli(&m.value) }))
        };
        Ok(list.items.into_iter().filter_map(sample).collect())
    }

    /// A custom metric of one object, in thousandths.
    ///
    /// # Errors
    /// See [`Self::of_resource`].
    pub(super) async fn of_object(
        &self,
        scaler: &Scaler,
        metric: &str,
        namespace: &str,
        object: &CrossVersionObjectReference,
        metric_selector: &LabelSelector,
    ) -> Result<i64, String> {
        let fetch = async {
            let root = self.version(CUSTOM, "custom").await?;
            let version = object.api_version.as_deref().unwrap_or("");
            let group = version.split_once('/').map_or("", |(group, _)| group);
            let path = if object.kind == "Namespace" && group.is_empty() {
                format!("{root}/namespaces/{namespace}/metrics/{metric}")
            } else {
                let kind = &object.kind;
                let resource = scaler.resource(group, kind).await.map_err(|e| apierr::message(&e))?;
                let resource = resource.ok_or_else(|| format!("no matches for kind {kind:?} in group {group:?}"))?;
                let dot = if group.is_empty() { "" } else { "." };
                format!("{root}/namespaces/{namespace}/{}{dot}{group}/{}/{metric}", resource.plural, object.name)
            };
            let path = format!("{path}{}", metric_query(metric_selector, "?"));
            let list = self.get::<List<MetricValue>>(path, &format!("{}.custom.metrics.k8s.io", object.kind)).await?;
            match &list.items[..] {
                [only] => Ok(milli(&only.value)),
                list => Err(format!(
                    "the custom metrics API server returned {} results when we asked for exactly one",
                    list.len()
                )),
            }
        };
        fetch.await.map_err(|e| format!("unable to fetch metrics from custom metrics API: {e}"))
    }

    /// The sum of an external metric, in thousandths.
    ///
    /// # Errors
    /// See [`Self::of_resource`].
    pub(super) async fn of_the_outside(
        &self,
        metric: &str,
        namespace: &str,
        metric_selector: &LabelSelector,
    ) -> Result<i64, String> {
        let fetch = async {
            let root = self.version(EXTERNAL, "external").await?;
            let query = format!("labelSelector={}", encoded(&metric_selector.to_string()));
            let path = format!("{root}/namespaces/{namespace}/{}?{query}", encoded(metric));
            self.get::<List<MetricValue>>(path, &format!("{metric}.external.metrics.k8s.io")).await
        };
        let list = fetch.await.map_err(|e| format!("unable to fetch metrics from external metrics API: {e}"))?;
        if list.items.is_empty() {
            return Err("no metrics returned from external metrics API".into());
        }
        Ok(list.items.iter().map(|m| milli(&m.value)).fold(0, i64::saturating_add))
    }
}

/// The selector of a metric; None selects by nothing.
///
/// # Errors
/// Malformed requirements.
pub(super) fn metric_selector(selector: Option<&MetaSelector>) -> Result<LabelSelector, String> {
    selector.map_or_else(|| Ok(LabelSelector::everything()), |s| LabelSelector::from_meta(Some(s)))
}

fn metric_query(selector: &LabelSelector, before: &str) -> String {
    match selector.to_string() {
        text if text.is_empty() => String::new(),
        text => format!("{before}metricLabelSelector={}", encoded(&text)),
    }
}

/// A pod's sample; none when a container (or the one that is asked for) says nothing about the resource.
fn sample(pod: PodMetrics, resource: &str, container: &str) -> Option<(String, Sample)> {
    let window = common::config::parse_go_duration(&pod.window).ok()?;
    let mut chosen = pod.containers.iter().filter(|c| container.is_empty() || c.name == container).peekable();
    chosen.peek()?;
    let value = chosen.map(|c| c.usage.get(resource).map(milli)).sum::<Option<i64>>()?;
    let window = SignedDuration::try_from(window).ok()?;
    Some((pod.metadata.name, Sample { at: pod.timestamp.0, window, value }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn samples() {
        let pod = || -> PodMetrics {
            serde_json::from_value(json!({"metadata": {"name": "p"}, "timestamp": "2026-01-01T00:00:00Z", "window": "30s",
                "containers": [{"name": "a", "usage": {"cpu": "250m"}}, {"name": "b", "usage": {"cpu": "1", "memory": "1Ki"}}]}))
            .unwrap()
        };
        let value = |resource, container| sample(pod(), resource, container).map(|(_, s)| s.value);
        assert_eq!(value("cpu", ""), Some(1250));
        assert_eq!(value("cpu", "b"), Some(1000));
        assert_eq!(value("memory", ""), None);
        assert_eq!(value("memory", "b"), Some(1_024_000));
        assert_eq!(value("cpu", "x"), None);
        assert_eq!(metric_query(&metric_selector(None).unwrap(), "?"), "");
        let selector = serde_json::from_value(json!({"matchLabels": {"a": "b"}})).unwrap();
        assert_eq!(metric_query(&metric_selector(Some(&selector)).unwrap(), "?"), "?metricLabelSelector=a%3Db");
    }
}
