//! ImagePolicyWebhook: asks a service whether a pod's images may run.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use common::{client::Webhook, config::duration::format_go_duration, wire::yaml};
use parking_lot::Mutex;
use rand::RngExt as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Attributes, Operation, Plugin};
use crate::{
    request::ApiResult,
    resources::value::{list_at, str_at, strings_at},
};

const ANNOTATIONS: &str = ".image-policy.k8s.io/";
const MOST_ANSWERS: usize = 1024;
/// How often a service that is overloaded or broken is asked.
const ATTEMPTS: u32 = 5;
const GROWTH: f64 = 1.5;
const JITTER: f64 = 0.2;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    image_policy: Configuration,
}

/// Durations are numbers: 0 means the default, -1 none at all.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Configuration {
    kube_config_file: PathBuf,
    #[serde(rename = "allowTTL")]
    allow_ttl: i64,
    #[serde(rename = "denyTTL")]
    deny_ttl: i64,
    retry_backoff: i64,
    default_allow: bool,
}

/// A duration out of the configuration, in units of milliseconds.
fn normalize(value: i64, unit: u64, min: Duration, max: Duration, default: Duration) -> Result<Duration, String> {
    let chosen = match value {
        -1 => return Ok(Duration::ZERO),
        0 => return Ok(default),
        value => u64::try_from(value).ok().map(|value| Duration::from_millis(value.saturating_mul(unit))),
    };
    chosen.filter(|chosen| (min..=max).contains(chosen)).ok_or_else(|| {
        let got = chosen.map_or_else(|| value.to_string(), format_go_duration);
        format!("valid value is between {} and {}, got {got}", format_go_duration(min), format_go_duration(max))
    })
}

pub(super) struct ImagePolicyWebhook {
    webhook: Webhook,
    allow_ttl: Duration,
    deny_ttl: Duration,
    backoff: Duration,
    default_allow: bool,
    answers: Mutex<HashMap<String, (Answer, Instant)>>,
}

/// The `status` of an `ImageReview`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Answer {
    allowed: bool,
    reason: String,
}

impl ImagePolicyWebhook {
    pub(super) fn new(text: Option<&str>) -> Result<Self, String> {
        let text = text.ok_or("no config specified")?;
        let file: File =
            serde_json::from_value(yaml::read(text.as_bytes())?.value).map_err(|error| error.to_string())?;
        let config = file.image_policy;
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let backoff =
            normalize(config.retry_backoff, 1, Duration::from_nanos(1), 5 * minute, Duration::from_millis(500))?;
        let ttl = |value, default| normalize(value, 1000, second, 30 * minute, default);
        let (allow_ttl, deny_ttl) = (ttl(config.allow_ttl, 5 * minute)?, ttl(config.deny_ttl, 30 * second)?);
        let webhook = Webhook::new(&config.kube_config_file, "kube-apiserver-admission").map_err(|e| e.to_string())?;
        let (default_allow, answers) = (config.default_allow, Mutex::default());
        Ok(Self { webhook, allow_ttl, deny_ttl, backoff, default_allow, answers })
    }

    /// The service's answer, or why there is none.
    async fn ask(&self, review: &Value) -> Result<Answer, String> {
        let key = review["spec"].to_string();
        let known = self.answers.lock().get(&key).filter(|(_, until)| *until > Instant::now()).map(|(a, _)| a.clone());
        if let Some(answer) = known {
            return Ok(answer);
        }
        let mut pause = self.backoff;
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                let jitter = rand::rng().random_range(0.0..JITTER);
                tokio::time::sleep(pause.mul_f64(1.0 + jitter)).await;
                pause = pause.mul_f64(GROWTH);
            }
            let (code, body) = self.webhook.post(review.to_string()).await.map_err(|error| error.to_string())?;
            match code {
                200..=299 => {
                    let told: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
                    let answer: Answer =
                        serde_json::from_value(told["status"].clone()).map_err(|error| error.to_string())?;
                    self.remember(key, &answer);
                    return Ok(answer);
                }
                code => last = format!("Error contacting webhook: {code}"),
            }
            if !matches!(code, 429 | 500 | 504) {
                break;
            }
        }
        Err(last)
    }

    fn remember(&self, key: String, answer: &Answer) {
        let ttl = if answer.allowed { self.allow_ttl } else { self.deny_ttl };
        let mut answers = self.answers.lock();
        if answers.len() >= MOST_ANSWERS {
            let first = answers.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| key.clone());
            first.map(|key| answers.remove(&key));
        }
        answers.insert(key, (answer.clone(), Instant::now() + ttl));
    }
}

/// What the service is asked about the images of these containers.
fn review(pod: &Value, namespace: &str, lists: &[&str]) -> Value {
    let containers = lists.iter().flat_map(|list| list_at(pod, &format!("spec.{list}")));
    let images: Vec<Value> = containers.map(|container| json!({"image": str_at(container, "image")})).collect();
    let annotations: BTreeMap<&str, &str> =
        strings_at(pod, "metadata.annotations").filter(|(key, _)| key.contains(ANNOTATIONS)).collect();
    let mut spec = json!({"containers": images, "namespace": namespace});
    if !annotations.is_empty() {
        spec["annotations"] = json!(annotations);
    }
    json!({"kind": "ImageReview", "apiVersion": "imagepolicy.k8s.io/v1alpha1", "metadata": {}, "spec": spec, "status": {"allowed": false}})
}

#[async_trait]
impl Plugin for ImagePolicyWebhook {
    fn name(&self) -> &'static str {
        "ImagePolicyWebhook"
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let lists: &[&str] = match request.subresource {
            "" => &["containers", "initContainers"],
            "ephemeralcontainers" => &["ephemeralContainers"],
            _ => return Ok(()),
        };
        let about_pods = request.group.is_empty() && request.resource == "pods";
        let Some(pod) = object.filter(|_| about_pods && request.operation != Operation::Delete) else { return Ok(()) };
        match self.ask(&review(pod, request.namespace, lists)).await {
            Ok(answer) if answer.allowed => Ok(()),
            Ok(answer) if answer.reason.is_empty() => {
                Err(request.forbidden("one or more images rejected by webhook backend"))
            }
            Ok(answer) => {
                let why = format!("image policy webhook backend denied one or more images: {}", answer.reason);
                Err(request.forbidden(why))
            }
            Err(error) if self.default_allow => {
                tracing::info!(%error, "image policy webhook failed, the pod is allowed");
                Ok(())
            }
            Err(error) => Err(request.forbidden(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_checked() {
        let minute = Duration::from_secs(60);
        let ttl = |value| normalize(value, 1000, Duration::from_secs(1), 30 * minute, 5 * minute);
        assert_eq!((ttl(0), ttl(-1), ttl(7)), (Ok(5 * minute), Ok(Duration::ZERO), Ok(Duration::from_secs(7))));
        assert_eq!(ttl(1801).unwrap_err(), "valid value is between 1s and 30m0s, got 30m1s");
        assert_eq!(ImagePolicyWebhook::new(None).map(|_| ()).unwrap_err(), "no config specified");
    }

    #[test]
    fn reviews_name_images_and_own_annotations() {
        let pod = json!({"metadata": {"annotations": {"a.image-policy.k8s.io/b": "c", "x": "y"}},
            "spec": {"containers": [{"image": "a"}], "initContainers": [{"image": "b"}]}});
        let spec = review(&pod, "ns", &["containers", "initContainers"])["spec"].clone();
        let annotations = json!({"a.image-policy.k8s.io/b": "c"});
        let images = json!([{"image": "a"}, {"image": "b"}]);
        assert_eq!(spec, json!({"containers": images, "namespace": "ns", "annotations": annotations}));
    }
}
