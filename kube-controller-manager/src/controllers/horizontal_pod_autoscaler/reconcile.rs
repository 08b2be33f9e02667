//! One look at an autoscaler: read the scale, evaluate the metrics, set the scale, say so.

use std::time::Instant;

use common::informer::object_key;
use common::meta::LabelSelector;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, HorizontalPodAutoscalerStatus, MetricStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, PostParams};

use super::Controller;
use super::evaluate::{Failed, Target};
use super::limits::Request;
use super::monitor;
use super::status::{self, ABLE, ACTIVE, AT_ZERO, LIMITED};
use crate::events::reference;
use crate::shared::apierr;
use crate::shared::discovery::Served;
use crate::shared::meta::{MetaExt, now};

/// What the metrics ask for together.
struct Wish {
    replicas: i32,
    metric: String,
    /// Of metrics that could not be had.
    error: Option<String>,
}

/// What to do about the scale.
struct Decision {
    replicas: i32,
    reason: String,
    error: Option<String>,
}

impl Controller {
    fn warn(&self, hpa: &HorizontalPodAutoscaler, reason: &str, message: impl Into<String>) {
        self.events.warning(&reference(hpa), reason, message.into());
    }

    pub(super) async fn reconcile(&self, key: &str, hpa: &HorizontalPodAutoscaler) -> Result<(), String> {
        let spec = &hpa.spec;
        let mut status = hpa.status.clone().unwrap_or_default();
        let started = Instant::now();
        let result = self.look(key, hpa, spec, &mut status).await;
        monitor::reconciled(hpa.status.as_ref(), &status, result.is_ok(), started.elapsed());
        monitor::desired((hpa.ns_str(), hpa.name_str()), &status);
        if hpa.status.as_ref() != Some(&status) {
            self.write_status(hpa, status).await?;
        }
        result
    }

    async fn write_status(
        &self,
        hpa: &HorizontalPodAutoscaler,
        status: HorizontalPodAutoscalerStatus,
    ) -> Result<(), String> {
        let api: Api<HorizontalPodAutoscaler> = Api::namespaced(self.client.clone(), hpa.ns_str());
        let mut object = hpa.clone();
        object.status = Some(status);
        let written = api.replace_status(hpa.name_str(), &PostParams::default(), &object).await;
        written.map(|_| ()).map_err(|error| {
            let message = apierr::message(&error);
            self.warn(hpa, "FailedUpdateStatus", message.clone());
            format!("failed to update status for {}: {message}", hpa.name_str())
        })
    }

    async fn look(
        &self,
        key: &str,
        hpa: &HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        status: &mut HorizontalPodAutoscalerStatus,
    ) -> Result<(), String> {
        let target = &spec.scale_target_ref;
        let named = format!("{}/{}/{}", target.kind, hpa.ns_str(), target.name);
        let (resource, scale) = match self.scale_of(hpa, spec).await {
            Ok(found) => found,
            Err(error) => {
                self.warn(hpa, "FailedGetScale", error.clone());
                let message = format!("the HPA controller was unable to get the target's current scale: {error}");
                status::set(status, ABLE, false, "FailedGetScale", message, now());
                return Err(format!("failed to query scale subresource for {named}: {error}"));
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        status::set(status, ABLE, true, "SucceededGetScale", message, now());
        let current = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        self.memories.lock().entry(key.to_owned()).or_default().begin(current, now());
        let mut metrics = None;
        let decision = self.decide(key, hpa, spec, &scale, (status, &mut metrics)).await;
        status.current_replicas = Some(current);
        status.current_metrics = metrics;
        let decision = decision.map_err(|error| {
            self.warn(hpa, "FailedComputeMetricsReplicas", error.clone());
            format!("failed to compute desired number of replicas based on listed metrics for {named}: {error}")
        })?;
        if decision.replicas == current {
            status.desired_replicas = current;
            return decision.error.map_or(Ok(()), Err);
        }
        let (wanted, reason) = (decision.replicas, &decision.reason);
        if let Err(error) = self.scaler.set(&resource, scale, (hpa.ns_str(), &target.name), wanted).await {
            let error = apierr::message(&error);
            self.warn(hpa, "FailedRescale", format!("New size: {wanted}; reason: {reason}; error: {error}"));
            let message = format!("the HPA controller was unable to update the target scale: {error}");
            status::set(status, ABLE, false, "FailedUpdateScale", message, now());
            return Err(format!("failed to rescale {named}: {error}"));
        }
        let message = format!("the HPA controller was able to update the target scale to {wanted}");
        status::set(status, ABLE, true, "SucceededRescale", message, now());
        let message = format!("New size: {wanted}; reason: {reason}");
        self.events.normal(&reference(hpa), "SuccessfulRescale", message);
        let request = self.request(spec, current, wanted);
        self.memories.lock().entry(key.to_owned()).or_default().scaled(&request, wanted);
        status::remove(status, AT_ZERO);
        status.desired_replicas = wanted;
        status.last_scale_time = Some(Time(now()));
        decision.error.map_or(Ok(()), Err)
    }

    async fn scale_of(
        &self,
        hpa: &HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
    ) -> Result<(Served, Scale), String> {
        let target = &spec.scale_target_ref;
        let version = target.api_version.as_deref().unwrap_or("");
        if version.matches('/').count() > 1 {
            return Err(format!("unexpected GroupVersion string: {version}"));
        }
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let resource = self.scaler.resource(group, &target.kind).await.map_err(|e| apierr::message(&e))?;
        let missing = || format!("no matches for kind {:?} in group {group:?}", target.kind);
        let resource = resource.ok_or_else(missing)?;
        let scale = self.scaler.get(&resource, hpa.ns_str(), &target.name).await.map_err(|e| apierr::message(&e))?;
        Ok((resource, scale))
    }

    fn request<'a>(&self, spec: &'a HorizontalPodAutoscalerSpec, current: i32, desired: i32) -> Request<'a> {
        Request {
            current,
            desired,
            min: spec.min_replicas.unwrap_or(1),
            max: spec.max_replicas,
            behavior: spec.behavior.as_ref(),
            window: self.settings.downscale_window,
            now: now(),
        }
    }

    async fn decide(
        &self,
        key: &str,
        hpa: &HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        scale: &Scale,
        (status, metrics): (&mut HorizontalPodAutoscalerStatus, &mut Option<Vec<MetricStatus>>),
    ) -> Result<Decision, String> {
        let current = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        let (min, max) = (spec.min_replicas.unwrap_or(1), spec.max_replicas);
        let fixed = |replicas: i32, reason: &str| Decision { replicas, reason: reason.to_owned(), error: None };
        if current == 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            status::set(status, ACTIVE, false, "ScalingDisabled", message, now());
            status::remove(status, AT_ZERO);
            return Ok(fixed(0, ""));
        }
        if current > max {
            return Ok(fixed(max, "Current number of replicas above Spec.MaxReplicas"));
        }
        if current < min {
            return Ok(fixed(min, "Current number of replicas below Spec.MinReplicas"));
        }
        let wish = self.wish(key, hpa, spec, scale, (status, metrics)).await?;
        let reason = match wish.replicas.max(0) {
            more if more > current => format!("{} above target", wish.metric),
            less if less < current => "All metrics below target".to_owned(),
            _ => String::new(),
        };
        let request = self.request(spec, current, wish.replicas.max(0));
        let normal = self.memories.lock().entry(key.to_owned()).or_default().normalize(request);
        status::set(status, ABLE, true, normal.able.0, normal.able.1, now());
        let (limited, (why, message)) = normal.limited;
        status::set(status, LIMITED, limited, why, message, now());
        Ok(Decision { replicas: normal.replicas, reason, error: wish.error })
    }

    /// The largest size that a metric asks for. Metrics that cannot be had keep it from shrinking.
    async fn wish(
        &self,
        key: &str,
        hpa: &HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
        scale: &Scale,
        (status, metrics): (&mut HorizontalPodAutoscalerStatus, &mut Option<Vec<MetricStatus>>),
    ) -> Result<Wish, String> {
        let target = self.target(key, hpa, scale, status)?;
        let specs = spec.metrics.as_deref().unwrap_or(&[]);
        let (mut best, mut first, mut invalid) = (None::<(i32, String)>, None::<Failed>, 0);
        let mut statuses = Vec::with_capacity(specs.len());
        for metric in specs {
            match self.evaluate(hpa, metric, &target).await {
                Ok(found) => {
                    if best.as_ref().is_none_or(|(most, _)| *most == 0 || found.replicas > *most) {
                        best = Some((found.replicas, found.metric));
                    }
                    statuses.push(found.status);
                }
                Err(failed) => {
                    self.warn(hpa, failed.reason, failed.cause.clone());
                    statuses.push(MetricStatus::default());
                    invalid += 1;
                    first.get_or_insert(failed);
                }
            }
        }
        *metrics = Some(statuses);
        let (replicas, metric) = best.unwrap_or_default();
        let error = first.as_ref().map(|f| {
            format!("invalid metrics ({invalid} invalid out of {}), first error is: {}", specs.len(), f.error)
        });
        if let (Some(failed), Some(error)) = (&first, &error)
            && (invalid >= specs.len() || replicas < target.wanted)
        {
            let message = format!("the HPA was unable to compute the replica count: {}", failed.cause);
            status::set(status, ACTIVE, false, failed.reason, message, now());
            return Err(error.clone());
        }
        let message = format!("the HPA was able to successfully calculate a replica count from {metric}");
        status::set(status, ACTIVE, true, "ValidMetricFound", message, now());
        Ok(Wish { replicas, metric, error })
    }

    /// The target and its pods, unless another autoscaler sizes some of them too.
    fn target(
        &self,
        key: &str,
        hpa: &HorizontalPodAutoscaler,
        scale: &Scale,
        status: &mut HorizontalPodAutoscalerStatus,
    ) -> Result<Target, String> {
        let of_scale = scale.status.as_ref();
        let text = of_scale.and_then(|s| s.selector.clone()).unwrap_or_default();
        if text.is_empty() {
            let error = "selector is required";
            self.warn(hpa, "SelectorRequired", error);
            let message = "the HPA target's scale is missing a selector";
            status::set(status, ACTIVE, false, "InvalidSelector", message, now());
            return Err(error.into());
        }
        let refuse = |status: &mut HorizontalPodAutoscalerStatus, reason: &str, error: String| {
            self.warn(hpa, reason, error.clone());
            status::set(status, ACTIVE, false, reason, error.clone(), now());
            error
        };
        let selector = match LabelSelector::parse(&text) {
            Ok(selector) => selector,
            Err(error) => {
                let error = format!("couldn't convert selector into a corresponding internal selector object: {error}");
                return Err(refuse(status, "InvalidSelector", error));
            }
        };
        let mut pods = self.pods.list_namespace(hpa.ns_str());
        pods.retain(|p| selector.matches_opt(p.metadata.labels.as_ref()));
        let sharers = {
            let mut selectors = self.selectors.lock();
            selectors.insert(key.to_owned(), selector);
            let prefix = format!("{}/", hpa.ns_str());
            let selects = |s: &LabelSelector| pods.iter().any(|p| s.matches_opt(p.metadata.labels.as_ref()));
            let mut sharers: Vec<String> = selectors
                .iter()
                .filter(|(other, s)| other.starts_with(&prefix) && selects(s))
                .map(|(other, _)| format!("{{{} {}}}", other.trim_start_matches(&prefix), hpa.ns_str()))
                .collect();
            sharers.sort();
            sharers
        };
        debug_assert_eq!(key, object_key(hpa));
        if sharers.len() > 1 {
            let error = format!("pods by selector {text} are controlled by multiple HPAs: [{}]", sharers.join(" "));
            return Err(refuse(status, "AmbiguousSelector", error));
        }
        let wanted = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        Ok(Target { wanted, there: of_scale.map_or(0, |s| s.replicas), selector: text, pods })
    }
}
