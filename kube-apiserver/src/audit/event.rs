//! What is recorded of a request, as `audit.k8s.io/v1` writes it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::policy::{Level, Stage};
use crate::resources;

/// One event.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// How much is recorded.
    pub level: Level,
    /// The request's id.
    #[serde(rename = "auditID")]
    pub audit_id: String,
    /// When this was recorded.
    pub stage: Stage,
    /// Path and query.
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    /// API verb, or HTTP method.
    pub verb: String,
    /// Who.
    pub user: User,
    /// As whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_user: Option<User>,
    /// From where, by way of whom.
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<String>,
    /// With what.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    /// Upon what.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<ObjectRef>,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_status: Option<ResponseStatus>,
    /// The body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_object: Option<Value>,
    /// The answer's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_object: Option<Value>,
    /// When the request came.
    #[serde(serialize_with = "micro")]
    pub request_received_timestamp: Timestamp,
    /// When this stage was reached.
    #[serde(serialize_with = "micro")]
    pub stage_timestamp: Timestamp,
    /// What parts of the server found noteworthy.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn micro<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&time.strftime("%Y-%m-%dT%H:%M:%S%.6fZ"))
}

/// A user.
#[derive(Debug, Clone, Default, Serialize)]
pub struct User {
    /// Name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// More.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl From<&resources::User> for User {
    fn from(user: &resources::User) -> Self {
        Self {
            username: user.name.clone(),
            uid: user.uid.clone(),
            groups: user.groups.clone(),
            extra: user.extra.clone(),
        }
    }
}

/// The object that a request is about.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Plural.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// Namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    /// Version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    /// Of the object, as the client knew it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Subresource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

/// How a request ended: what of a Status is bounded.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ResponseStatus {
    metadata: serde_json::Map<String, Value>,
    /// Success or Failure, if the answer is a Status.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For programs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// More.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub details: Value,
    /// HTTP's.
    pub code: u16,
}

impl ResponseStatus {
    /// What a Status says; its code is HTTP's.
    #[must_use]
    pub fn of(status: &Value, code: u16) -> Self {
        let text = |member: &str| status[member].as_str().unwrap_or_default().to_owned();
        Self {
            metadata: serde_json::Map::new(),
            status: text("status"),
            message: text("message"),
            reason: text("reason"),
            details: status["details"].clone(),
            code,
        }
    }
}

impl Event {
    /// `--audit-log-format=legacy`: one line of text.
    #[must_use]
    pub fn legacy(&self) -> String {
        let list = |items: &[String]| items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(",");
        let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
        let groups = |user: &User| list(&user.groups);
        let (user, asuser) = (&self.user, self.impersonated_user.as_ref());
        let namespace = self.object_ref.as_ref().map_or("", |object| &object.namespace);
        let response = self.response_status.as_ref().map_or("<deferred>".to_owned(), |status| status.code.to_string());
        format!(
            "{} AUDIT: id={:?} stage={:?} ip={:?} method={:?} user={:?} groups={:?} as={:?} asgroups={:?} user-agent={:?} namespace={:?} uri={:?} response=\"{response}\"",
            self.request_received_timestamp,
            self.audit_id,
            format!("{:?}", self.stage),
            self.source_ips.first().map_or("<unknown>", String::as_str),
            self.verb,
            or(&user.username, "<none>"),
            or(&groups(user), "<none>"),
            asuser.map_or("<self>", |user| &user.username),
            asuser.map_or_else(|| "<lookup>".to_owned(), groups),
            self.user_agent,
            or(namespace, "<none>"),
            self.request_uri,
        )
    }
}
