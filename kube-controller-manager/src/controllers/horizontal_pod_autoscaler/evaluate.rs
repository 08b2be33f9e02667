//! What one metric of an autoscaler proposes.

use std::sync::Arc;

use common::meta::Quantity;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, HorizontalPodAutoscaler, MetricSpec,
    MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource,
    PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;

use super::Controller;
use super::calculator::{Calculator, Proposal};
use super::metrics::metric_selector;
use super::status::quantity;
use crate::shared::meta::{MetaExt, now};
use crate::shared::selector::printed;

/// The workload whose size is in question.
pub(super) struct Target {
    /// The size that is set, and the size that there is.
    pub(super) wanted: i32,
    pub(super) there: i32,
    pub(super) selector: String,
    pub(super) pods: Vec<Arc<Pod>>,
}

/// A size, what asks for it, and what the status says about it.
pub(super) struct Evaluated {
    pub(super) replicas: i32,
    pub(super) metric: String,
    pub(super) status: MetricStatus,
}

/// Why there is none: the reason and cause of event and condition, and the text of the error.
pub(super) struct Failed {
    pub(super) reason: &'static str,
    pub(super) cause: String,
    pub(super) error: String,
}

fn milli(quantity: Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity>) -> Option<i64> {
    Quantity::try_from(quantity?).ok().map(|q| q.milli_value())
}

fn average(value: i64) -> MetricValueStatus {
    MetricValueStatus { average_value: Some(quantity(value, "")), ..MetricValueStatus::default() }
}

fn total(value: i64) -> MetricValueStatus {
    MetricValueStatus { value: Some(quantity(value, "")), ..MetricValueStatus::default() }
}

impl Controller {
    /// Asks for the metric and computes.
    pub(super) async fn evaluate(
        &self,
        hpa: &HorizontalPodAutoscaler,
        spec: &MetricSpec,
        target: &Target,
    ) -> Result<Evaluated, Failed> {
        let namespace = hpa.ns_str();
        let calculator = self.calculator(hpa, target);
        let status = MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() };
        if let Some(source) = &spec.resource {
            let (name, aim) = (&source.name, &source.target);
            let value = self.of_resource(&calculator, namespace, target, (name, ""), aim).await;
            let (proposal, metric) = value.map_err(|cause| {
                let error = format!("failed to get {name} resource metric value: {cause}");
                Failed { reason: "FailedGetResourceMetric", cause, error }
            })?;
            let current = resource_status(&proposal, name);
            let resource = Some(ResourceMetricStatus { name: name.clone(), current });
            let status = MetricStatus { resource, ..status };
            return Ok(Evaluated { replicas: proposal.replicas, metric, status });
        }
        if let Some(source) = &spec.container_resource {
            let (name, container, aim) = (&source.name, &source.container, &source.target);
            let value = self.of_resource(&calculator, namespace, target, (name, container), aim).await;
            let (proposal, metric) = value.map_err(|cause| {
                let error = format!("failed to get {container} container metric value: {cause}");
                Failed { reason: "FailedGetContainerResourceMetric", cause, error }
            })?;
            let current = resource_status(&proposal, name);
            let of_container =
                ContainerResourceMetricStatus { name: name.clone(), container: container.clone(), current };
            let status = MetricStatus { container_resource: Some(of_container), ..status };
            return Ok(Evaluated { replicas: proposal.replicas, metric, status });
        }
        if let Some(source) = &spec.pods {
            let value = self.of_pods(&calculator, namespace, target, source).await.map_err(|cause| {
                let error = format!("failed to get pods metric value: {cause}");
                Failed { reason: "FailedGetPodsMetric", cause, error }
            })?;
            let pods = PodsMetricStatus { metric: source.metric.clone(), current: average(value.usage) };
            let status = MetricStatus { pods: Some(pods), ..status };
            let metric = format!("pods metric {}", source.metric.name);
            return Ok(Evaluated { replicas: value.replicas, metric, status });
        }
        if let Some(source) = &spec.object {
            let value = self.of_object(&calculator, namespace, target, source).await.map_err(|cause| {
                let error = format!("failed to get object metric value: {cause}");
                Failed { reason: "FailedGetObjectMetric", cause, error }
            })?;
            let (proposal, current, metric) = value;
            let object = ObjectMetricStatus {
                metric: source.metric.clone(),
                described_object: source.described_object.clone(),
                current,
            };
            let status = MetricStatus { object: Some(object), ..status };
            return Ok(Evaluated { replicas: proposal.replicas, metric, status });
        }
        if let Some(source) = &spec.external {
            let value = self.of_the_outside(&calculator, namespace, target, source).await.map_err(|cause| {
                let error = format!("failed to get {} external metric value: {cause}", source.metric.name);
                Failed { reason: "FailedGetExternalMetric", cause, error }
            })?;
            let (proposal, current) = value;
            let external = Some(ExternalMetricStatus { metric: source.metric.clone(), current });
            let status = MetricStatus { external, ..status };
            let selector = printed(source.metric.selector.as_ref());
            let metric = format!("external metric {}({selector})", source.metric.name);
            return Ok(Evaluated { replicas: proposal.replicas, metric, status });
        }
        let cause = format!("unknown metric source type {:?}", spec.type_);
        Err(Failed { reason: "InvalidMetricSourceType", error: cause.clone(), cause })
    }

    fn calculator<'a>(&self, hpa: &HorizontalPodAutoscaler, target: &'a Target) -> Calculator<'a> {
        Calculator {
            pods: &target.pods,
            current: target.wanted,
            tolerances: self.tolerances(hpa),
            cpu_initialization: self.settings.cpu_initialization,
            initial_readiness: self.settings.initial_readiness,
            now: now(),
        }
    }

    async fn of_resource(
        &self,
        calculator: &Calculator<'_>,
        namespace: &str,
        target: &Target,
        (resource, container): (&str, &str),
        aim: &MetricTarget,
    ) -> Result<(Proposal, String), String> {
        let samples = async {
            let samples = self.metrics.of_resource(resource, namespace, &target.selector, container).await;
            samples.map_err(|e| format!("unable to get metrics for resource {resource}: {e}"))
        };
        if let Some(value) = milli(aim.average_value.as_ref()) {
            let proposal = samples.await.and_then(|s| calculator.by_value(s, value, resource));
            let proposal = proposal.map_err(|e| format!("failed to get {resource} usage: {e}"))?;
            return Ok((proposal, format!("{resource} resource")));
        }
        let Some(percent) = aim.average_utilization else {
            let text = "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set";
            return Err(text.into());
        };
        let proposal = samples.await.and_then(|s| calculator.by_utilization(s, percent, resource, container));
        let proposal = proposal.map_err(|e| format!("failed to get {resource} utilization: {e}"))?;
        let of = if container.is_empty() { "resource" } else { "container resource" };
        Ok((proposal, format!("{resource} {of} utilization (percentage of request)")))
    }

    async fn of_pods(
        &self,
        calculator: &Calculator<'_>,
        namespace: &str,
        target: &Target,
        source: &PodsMetricSource,
    ) -> Result<Proposal, String> {
        let name = &source.metric.name;
        let selector = metric_selector(source.metric.selector.as_ref())?;
        let samples = self.metrics.of_pods(name, namespace, &target.selector, &selector).await;
        let samples = samples.map_err(|e| format!("unable to get metric {name}: {e}"))?;
        calculator.by_value(samples, milli(source.target.average_value.as_ref()).unwrap_or(0), "")
    }

    async fn of_object(
        &self,
        calculator: &Calculator<'_>,
        namespace: &str,
        target: &Target,
        source: &ObjectMetricSource,
    ) -> Result<(Proposal, MetricValueStatus, String), String> {
        let (name, object) = (&source.metric.name, &source.described_object);
        let selector = metric_selector(source.metric.selector.as_ref())?;
        let usage = async {
            let usage = self.metrics.of_object(&self.scaler, name, namespace, object, &selector).await;
            usage.map_err(|e| {
                // The order of the words is upstream's.
                format!("unable to get metric {name}: {} on {namespace} {}/{e}", object.kind, object.name)
            })
        };
        let aim = (source.target.type_.as_str(), &source.target);
        match aim {
            ("Value", aim) if aim.value.is_some() => {
                let proposal = calculator.by_total(usage.await?, milli(aim.value.as_ref()).unwrap_or(0))?;
                let metric = format!("{} metric {name}", object.kind);
                let current = total(proposal.usage);
                Ok((proposal, current, metric))
            }
            ("AverageValue", aim) if aim.average_value.is_some() => {
                let usage = usage.await.map_err(|e| format!("failed to get {name} object metric: {e}"))?;
                let proposal = calculator.by_share(usage, milli(aim.average_value.as_ref()).unwrap_or(0), target.there);
                let metric = format!("external metric {name}({})", printed(source.metric.selector.as_ref()));
                let current = average(proposal.usage);
                Ok((proposal, current, metric))
            }
            _ => Err("invalid object metric source: neither a value target nor an average value target was set".into()),
        }
    }

    async fn of_the_outside(
        &self,
        calculator: &Calculator<'_>,
        namespace: &str,
        target: &Target,
        source: &ExternalMetricSource,
    ) -> Result<(Proposal, MetricValueStatus), String> {
        let name = &source.metric.name;
        let usage = async {
            let selector = metric_selector(source.metric.selector.as_ref())?;
            let usage = self.metrics.of_the_outside(name, namespace, &selector).await;
            let shown = printed(source.metric.selector.as_ref());
            usage.map_err(|e| format!("unable to get external metric {namespace}/{name}/{shown}: {e}"))
        };
        if let Some(aim) = milli(source.target.average_value.as_ref()) {
            let usage = usage.await.map_err(|e: String| format!("failed to get {name} external metric: {e}"))?;
            let proposal = calculator.by_share(usage, aim, target.there);
            let current = average(proposal.usage);
            return Ok((proposal, current));
        }
        if let Some(aim) = milli(source.target.value.as_ref()) {
            let proposal = usage.await.and_then(|usage| calculator.by_total(usage, aim));
            let proposal = proposal.map_err(|e| format!("failed to get external metric {name}: {e}"))?;
            let current = total(proposal.usage);
            return Ok((proposal, current));
        }
        Err("invalid external metric source: neither a value target nor an average value target was set".into())
    }
}

fn resource_status(proposal: &Proposal, resource: &str) -> MetricValueStatus {
    MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(quantity(proposal.usage, resource)),
        value: None,
    }
}
