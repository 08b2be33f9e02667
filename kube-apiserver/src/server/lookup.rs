//! What authentication looks up, answered from the watch caches.

use async_trait::async_trait;
use serde_json::Value;

use super::Registry;
use crate::authn::service_account::Lookup;

/// Looks objects up in the registry.
pub struct CacheLookup<'a>(pub &'a Registry);

#[async_trait]
impl Lookup for CacheLookup<'_> {
    async fn object(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let store = self.0.core(resource).ok()?;
        // What the cache does not know yet may just have been made.
        if let Ok(Some(found)) = store.glance(namespace, name).await {
            return Some(found.object);
        }
        store.find(namespace, name).await.ok().flatten().map(|s| s.object)
    }
}
