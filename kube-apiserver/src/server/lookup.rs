//! What authentication looks up, answered from the watch caches, and what it finds noteworthy.

use async_trait::async_trait;
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Change, Mutation, Registry, Stored};
use crate::{
    authn::{service_account::Lookup, usage::TokenUse},
    bootstrap::ensure,
    request::ApiResult,
};

/// On Secrets that hold tokens: the day of the last use.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";

/// Looks objects up in the registry.
pub struct CacheLookup<'a> {
    registry: &'a Registry,
    notes: Mutex<Notes>,
}

/// What is to be said about the credentials of a request.
#[derive(Default)]
pub struct Notes {
    /// To the audit log.
    pub annotations: Vec<(&'static str, String)>,
    /// To the client.
    pub warnings: Vec<String>,
}

impl<'a> CacheLookup<'a> {
    /// For one request.
    #[must_use]
    pub fn new(registry: &'a Registry) -> Self {
        Self { registry, notes: Mutex::default() }
    }

    /// What was noteworthy.
    #[must_use]
    pub fn into_notes(self) -> Notes {
        self.notes.into_inner()
    }

    async fn label(&self, namespace: &str, secret: &str, today: Date) -> ApiResult<()> {
        let store = self.registry.core("secrets")?;
        let mut change = LastUsed(today.to_string());
        ensure::modify(store, namespace, secret, &mut change).await.map(|_| ())
    }
}

#[async_trait]
impl Lookup for CacheLookup<'_> {
    async fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let store = self.registry.core(resource).ok()?;
        // What the cache does not know yet may just have been made.
        if let Ok(Some(found)) = store.glance(namespace, name).await {
            return Some(found.object);
        }
        store.find(namespace, name).await.ok().flatten().map(|s| s.object)
    }

    async fn used(&self, token: TokenUse<'_>) {
        token.count();
        {
            let mut notes = self.notes.lock();
            notes.annotations.extend(token.annotation());
            notes.warnings.extend(token.warning().map(str::to_owned));
        }
        let today = TimeZone::UTC.to_datetime(Timestamp::now()).date();
        let Some((namespace, secret)) = token.to_label(today) else { return };
        if let Err(error) = self.label(namespace, secret, today).await {
            tracing::error!(namespace, secret, %error, "Failed to label legacy service account token with last-used date");
        }
    }
}

/// Notes the day.
struct LastUsed(String);

#[async_trait]
impl Mutation for LastUsed {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let mut object = current.object.clone();
        if object["metadata"]["labels"][LAST_USED] == self.0.as_str() {
            return Ok(Change::Keep(object));
        }
        if !object["metadata"]["labels"].is_object() {
            object["metadata"]["labels"] = json!({});
        }
        object["metadata"]["labels"][LAST_USED] = self.0.as_str().into();
        Ok(Change::Put(object))
    }
}
