//! EventRateLimit: how many events the server takes, by where they come from.

use std::{collections::HashMap, time::Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;

use super::{Attributes, Operation, Plugin, configuration::versioned, joined};
use crate::{
    request::{ApiError, ApiResult},
    resources::{
        field::{ErrorList, Path},
        value::str_at,
    },
};

const VERSION: &str = "eventratelimit.admission.k8s.io/v1alpha1";
const TYPES: [&str; 4] = ["Server", "Namespace", "User", "SourceAndObject"];
const DEFAULT_CACHE: usize = 4096;

#[derive(Default, Deserialize)]
struct Configuration {
    #[serde(default)]
    limits: Vec<Limit>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Limit {
    r#type: String,
    qps: i32,
    burst: i32,
    cache_size: i32,
}

impl Configuration {
    fn validate(&self) -> Result<(), String> {
        let (mut errs, root) = (ErrorList::new(), Path::root("limits"));
        if self.limits.is_empty() {
            errs.invalid(&root, Value::Null, "must not be empty");
        }
        for (i, limit) in self.limits.iter().enumerate() {
            let path = root.index(i);
            if !TYPES.contains(&limit.r#type.as_str()) {
                errs.not_supported(&path.child("type"), limit.r#type.as_str(), &TYPES);
            }
            for (field, value) in [("burst", limit.burst), ("qps", limit.qps)] {
                if value <= 0 {
                    errs.invalid(&path.child(field), value, "must be positive");
                }
            }
            if limit.r#type != "Server" && limit.cache_size < 0 {
                errs.invalid(&path.child("cacheSize"), limit.cache_size, "must not be negative");
            }
        }
        if errs.is_empty() { Ok(()) } else { Err(errs.message()) }
    }
}

pub(super) struct EventRateLimit(Vec<Enforcer>);

impl EventRateLimit {
    pub(super) fn new(text: Option<&str>) -> Result<Self, String> {
        let configuration = match text {
            Some(text) => versioned(text, &[VERSION], "Configuration")?,
            None => Configuration::default(),
        };
        configuration.validate()?;
        Ok(Self(configuration.limits.into_iter().map(Enforcer::new).collect()))
    }
}

/// One limit with a bucket for each key, the most recently used ones.
struct Enforcer {
    limit: Limit,
    buckets: Mutex<HashMap<String, Bucket>>,
}

/// Tokens, as of an instant.
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Enforcer {
    fn new(limit: Limit) -> Self {
        Self { limit, buckets: Mutex::default() }
    }

    fn size(&self) -> usize {
        match usize::try_from(self.limit.cache_size) {
            _ if self.limit.r#type == "Server" => 1,
            Ok(0) | Err(_) => DEFAULT_CACHE,
            Ok(size) => size,
        }
    }

    fn key(&self, request: &Attributes<'_>, event: &Value) -> String {
        match self.limit.r#type.as_str() {
            "Namespace" => request.namespace.to_owned(),
            "User" => request.call.user.name.clone(),
            "SourceAndObject" => source_and_object(event),
            _ => String::new(),
        }
    }

    fn accept(&self, key: &str, now: Instant) -> Result<(), String> {
        let mut buckets = self.buckets.lock();
        if !buckets.contains_key(key) && buckets.len() >= self.size() {
            let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.at).map(|(key, _)| key.clone());
            oldest.map(|key| buckets.remove(&key));
        }
        let burst = f64::from(self.limit.burst);
        let bucket = buckets.entry(key.to_owned()).or_insert(Bucket { tokens: burst, at: now });
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * f64::from(self.limit.qps)).min(burst);
        bucket.at = now;
        if bucket.tokens < 1.0 {
            return Err(format!("limit reached on type {} for key {key}", self.limit.r#type));
        }
        bucket.tokens -= 1.0;
        Ok(())
    }
}

fn source_and_object(event: &Value) -> String {
    let fields = ["kind", "namespace", "name", "uid", "apiVersion"].map(|f| format!("involvedObject.{f}"));
    let parts = ["source.component".to_owned(), "source.host".to_owned()].into_iter().chain(fields);
    parts.map(|field| str_at(event, &field).to_owned()).collect()
}

#[async_trait]
impl Plugin for EventRateLimit {
    fn name(&self) -> &'static str {
        "EventRateLimit"
    }

    async fn validate(&self, request: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let counted = request.kind == "Event" && !request.dry_run && request.operation != Operation::Delete;
        let Some(event) = object.filter(|_| counted) else { return Ok(()) };
        let now = Instant::now();
        let refusals = self.0.iter().filter_map(|limit| limit.accept(&limit.key(request, event), now).err());
        let refusals: Vec<String> = refusals.collect();
        if refusals.is_empty() {
            return Ok(());
        }
        Err(ApiError::new(429, "TooManyRequests", format!("Too many requests: {}", joined(refusals)), None))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn head(limits: &str) -> String {
        format!("apiVersion: {VERSION}\nkind: Configuration\nlimits: {limits}\n")
    }

    #[test]
    fn configurations_are_checked() {
        let refused = |limits: &str| EventRateLimit::new(Some(&head(limits))).map(|_| ()).unwrap_err();
        assert_eq!(
            EventRateLimit::new(None).map(|_| ()).unwrap_err(),
            "limits: Invalid value: null: must not be empty"
        );
        assert_eq!(
            refused("[{type: x, qps: 0, burst: 1}]"),
            "[limits[0].type: Unsupported value: \"x\": supported values: \"Server\", \"Namespace\", \"User\", \"SourceAndObject\", limits[0].qps: Invalid value: 0: must be positive]"
        );
        assert!(EventRateLimit::new(Some(&head("[{type: User, qps: 1, burst: 2, cacheSize: 3}]"))).is_ok());
    }

    #[test]
    fn buckets_fill_with_time_and_the_oldest_go() {
        let limit = Enforcer::new(Limit { r#type: "Namespace".into(), qps: 1, burst: 2, cache_size: 2 });
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        assert!(limit.accept("a", start).is_ok() && limit.accept("a", start).is_ok());
        assert_eq!(limit.accept("a", start).unwrap_err(), "limit reached on type Namespace for key a");
        assert!(limit.accept("a", later(1)).is_ok());
        assert!(limit.accept("a", later(1)).is_err());
        assert!(limit.accept("b", later(2)).is_ok() && limit.accept("c", later(3)).is_ok());
        assert_eq!(limit.buckets.lock().len(), 2, "a is gone");
        assert!(limit.accept("a", later(3)).is_ok() && limit.accept("a", later(3)).is_ok());
    }
}
