//! Auditing: who did what, recorded as a policy says, in files and on servers.
//!
//! A request that is to be recorded has a [`Trail`], which the parts of the server add to and which is recorded at the
//! stages of the request. Requests that no rule wants cost one look at the rules.

mod backend;
mod event;
pub mod flags;
mod log;
mod metrics;
mod policy;
mod webhook;

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::HeaderMap;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

pub use self::policy::{Level, Stage};
use self::{
    backend::Backend,
    event::{Event, ObjectRef, ResponseStatus},
    policy::{Policy, Verdict},
};
use crate::{authn::User, authz::Attributes, request::RequestInfo};

/// Of requests that take longer it is recorded where the time went.
const SLOW: Duration = Duration::from_millis(500);
/// The longest program name that is recorded.
const MAX_AGENT: usize = 1024;

/// Auditing of one server.
pub struct Auditor {
    policy: Policy,
    backends: Vec<Backend>,
}

/// What is known of a request before anything is done for it.
pub struct Arrival<'a> {
    /// What it asks.
    pub info: &'a RequestInfo,
    /// Who asks; nobody if that could not be found out.
    pub user: &'a User,
    /// Its header.
    pub headers: &'a HeaderMap,
    /// Path and query.
    pub uri: String,
    /// From where.
    pub address: IpAddr,
    /// Its id.
    pub audit_id: &'a str,
    /// When it came.
    pub received: Timestamp,
}

/// A request that is recorded.
pub struct Trail {
    auditor: Arc<Auditor>,
    verdict: Verdict,
    event: Mutex<Event>,
    /// How long parts of the server took.
    latencies: Mutex<Vec<(&'static str, Duration)>>,
}

impl Auditor {
    /// The trail of a request, if it is to be recorded.
    #[must_use]
    pub fn begin(self: &Arc<Self>, arrival: &Arrival<'_>) -> Option<Arc<Trail>> {
        let attributes = Attributes::of(arrival.user, arrival.info);
        let verdict = self.policy.evaluate(&attributes);
        metrics::level(verdict.map_or(Level::None, |verdict| verdict.level));
        let verdict = verdict?.clone();
        let event = Mutex::new(arrival.event(verdict.level));
        Some(Arc::new(Trail { auditor: Arc::clone(self), verdict, event, latencies: Mutex::default() }))
    }

    /// Sends what is buffered.
    pub async fn close(&self) {
        for backend in &self.backends {
            backend.close().await;
        }
    }
}

impl Arrival<'_> {
    fn event(&self, level: Level) -> Event {
        let info = self.info;
        let agent = self.headers.get(http::header::USER_AGENT).map(|v| String::from_utf8_lossy(v.as_bytes()));
        let mut agent = agent.unwrap_or_default().into_owned();
        if agent.len() > MAX_AGENT {
            agent.truncate(agent.floor_char_boundary(MAX_AGENT));
            agent.push_str("...TRUNCATED");
        }
        let object_ref = || ObjectRef {
            resource: info.resource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            api_group: info.group.clone(),
            api_version: info.version.clone(),
            subresource: info.subresource.clone(),
            ..ObjectRef::default()
        };
        Event {
            level,
            audit_id: self.audit_id.to_owned(),
            stage: Stage::ResponseStarted,
            request_uri: self.uri.clone(),
            verb: info.verb.clone(),
            user: self.user.into(),
            impersonated_user: None,
            source_ips: source_ips(self.headers, self.address),
            user_agent: agent,
            object_ref: info.is_resource.then(object_ref),
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: self.received,
            stage_timestamp: self.received,
            annotations: Default::default(),
        }
    }
}

/// Where a request comes from: what proxies say, then the other end of the connection.
fn source_ips(headers: &HeaderMap, address: IpAddr) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let parse = |text: &str| text.trim().parse::<IpAddr>().ok().map(|ip| ip.to_canonical().to_string());
    let mut ips: Vec<String> = text("x-forwarded-for").split(',').filter_map(parse).collect();
    if let Some(real) = parse(text("x-real-ip")).filter(|real| !ips.contains(real)) {
        ips.push(real);
    }
    let own = address.to_canonical().to_string();
    if ips.last() != Some(&own) {
        ips.push(own);
    }
    ips
}

impl Trail {
    /// How much is recorded.
    #[must_use]
    pub fn level(&self) -> Level {
        self.verdict.level
    }

    /// Records that a stage is reached; false when the request must not go on.
    pub async fn reach(&self, stage: Stage) -> bool {
        if self.verdict.omit_stages.contains(&stage) {
            return true;
        }
        let event = {
            let mut event = self.event.lock();
            event.stage = stage;
            if stage != Stage::RequestReceived {
                event.stage_timestamp = Timestamp::now();
            }
            event.clone()
        };
        metrics::event();
        let mut recorded = true;
        for backend in &self.auditor.backends {
            recorded &= backend.record(&event).await;
        }
        if stage == Stage::RequestReceived && !recorded {
            metrics::rejected();
            return false;
        }
        true
    }

    /// Notes something; what was noted first counts.
    pub fn annotate(&self, key: &str, value: &str) {
        let mut event = self.event.lock();
        match event.annotations.get(key) {
            Some(there) if there != value => {
                tracing::warn!(key, value, there, "an audit annotation has been set already");
            }
            Some(_) => {}
            None => drop(event.annotations.insert(key.to_owned(), value.to_owned())),
        }
    }

    /// Notes how long a part of the server took.
    pub fn took(&self, part: &'static str, time: Duration) {
        if !time.is_zero() {
            self.latencies.lock().push((part, time));
        }
    }

    /// Of a request that took long, says where the time went.
    pub fn took_long(&self) {
        let received = self.event.lock().request_received_timestamp;
        let total = Duration::try_from(Timestamp::now().duration_since(received)).unwrap_or_default();
        let parts = std::mem::take(&mut *self.latencies.lock());
        if total <= SLOW || parts.is_empty() {
            return;
        }
        for (part, time) in parts.into_iter().chain([("total", total)]) {
            self.annotate(
                &format!("apiserver.latency.k8s.io/{part}"),
                &common::config::duration::format_go_duration(time),
            );
        }
    }

    /// Notes as whom the request is served.
    pub fn impersonates(&self, user: &User) {
        self.event.lock().impersonated_user = Some(user.into());
    }

    /// Notes the object that the client sends.
    pub fn request_object(&self, object: &Value) {
        let mut event = self.event.lock();
        let text = |member: &str| object["metadata"][member].as_str().unwrap_or_default();
        if let Some(reference) = &mut event.object_ref {
            for (field, value) in [
                (&mut reference.namespace, text("namespace")),
                (&mut reference.name, text("name")),
                (&mut reference.uid, text("uid")),
                (&mut reference.resource_version, text("resourceVersion")),
            ] {
                if field.is_empty() {
                    value.clone_into(field);
                }
            }
        }
        if self.level() >= Level::Request {
            event.request_object = Some(self.shown(object.clone()));
        }
    }

    /// Notes the patch that the client sends.
    pub fn request_patch(&self, patch: &[u8]) {
        if self.level() >= Level::Request {
            // Apply configurations are YAML.
            let json = serde_json::from_slice(patch).ok();
            let value = json.or_else(|| common::wire::yaml::read(patch).ok().map(|document| document.value));
            self.event.lock().request_object = value;
        }
    }

    /// Notes the answer: its code, and its body if it is known and an object.
    pub fn response(&self, code: u16, body: Option<Value>) {
        let mut event = self.event.lock();
        let status = body.as_ref().filter(|body| body["kind"] == "Status" && body["apiVersion"] == "v1");
        event.response_status = Some(ResponseStatus::of(status.unwrap_or(&Value::Null), code));
        if self.level() >= Level::RequestResponse {
            event.response_object = body.map(|body| self.shown(body));
        }
    }

    /// Notes that the handler panicked.
    pub fn panicked(&self, why: &str) {
        let status = serde_json::json!({
            "status": "Failure", "reason": "InternalError", "message": format!("APIServer panic'd: {why}"),
        });
        self.event.lock().response_status = Some(ResponseStatus::of(&status, 500));
    }

    fn shown(&self, mut object: Value) -> Value {
        if self.verdict.omit_managed_fields {
            forget_managers(&mut object);
            for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
                forget_managers(item);
            }
            for row in object.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten() {
                row.get_mut("object").into_iter().for_each(forget_managers);
            }
        }
        object
    }
}

fn forget_managers(object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
}

/// Records the end of a request that lasts, when this is dropped.
pub struct UntilEnd(pub Arc<Trail>);

impl Drop for UntilEnd {
    fn drop(&mut self) {
        let trail = Arc::clone(&self.0);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { trail.reach(Stage::ResponseComplete).await });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_those_that_proxies_tell_and_the_connection() {
        let own: IpAddr = "10.0.0.9".parse().unwrap();
        let of = |forwarded: &str, real: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", forwarded.parse().unwrap());
            headers.insert("x-real-ip", real.parse().unwrap());
            source_ips(&headers, own)
        };
        assert_eq!(of("", ""), ["10.0.0.9"]);
        assert_eq!(of("1.2.3.4, nonsense,5.6.7.8", "1.2.3.4"), ["1.2.3.4", "5.6.7.8", "10.0.0.9"]);
        assert_eq!(of("10.0.0.9", "7.7.7.7"), ["10.0.0.9", "7.7.7.7", "10.0.0.9"]);
        assert_eq!(of("10.0.0.9", ""), ["10.0.0.9"]);
    }
}
