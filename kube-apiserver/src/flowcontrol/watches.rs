//! Counts watches, to know how many are told of a write.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::request::{Query, RequestInfo};

/// The watches of this server. Cheap to clone.
#[derive(Clone, Default)]
pub struct Watches(Arc<Mutex<HashMap<Kind, HashMap<Scope, usize>>>>);

type Kind = (String, String);
/// Namespace and name, either may be empty.
type Scope = (String, String);

/// A watch that is counted until this is dropped.
pub struct Watching {
    watches: Watches,
    kind: Kind,
    scope: Scope,
}

impl Watches {
    /// Counts a watch; `None` for one that an index tells of few objects only, such as a node's of its pods.
    #[must_use]
    pub fn register(&self, info: &RequestInfo, query: &Query) -> Option<Watching> {
        if info.resource == "pods" && query.get("fieldSelector").is_some_and(selects_node) {
            return None;
        }
        let kind = (info.group.clone(), info.resource.clone());
        let scope = (info.namespace.clone(), info.name.clone());
        *self.0.lock().entry(kind.clone()).or_default().entry(scope.clone()).or_default() += 1;
        Some(Watching { watches: self.clone(), kind, scope })
    }

    /// How many watches a write concerns: of all objects, of the namespace, of the object.
    #[must_use]
    pub fn told_of(&self, info: &RequestInfo) -> usize {
        let watches = self.0.lock();
        let Some(scopes) = watches.get(&(info.group.clone(), info.resource.clone())) else { return 0 };
        let count = |namespace: &str, name: &str| {
            scopes.get(&(namespace.to_owned(), name.to_owned())).copied().unwrap_or_default()
        };
        let mut sum = count("", "");
        if !info.namespace.is_empty() {
            sum += count(&info.namespace, "");
        }
        if !info.name.is_empty() {
            sum += count(&info.namespace, &info.name);
        }
        sum
    }
}

fn selects_node(selector: &str) -> bool {
    let wanted = |term: &str| {
        let value = term.strip_prefix("spec.nodeName==").or_else(|| term.strip_prefix("spec.nodeName="))?;
        Some(!value.is_empty())
    };
    selector.split(',').find_map(wanted).unwrap_or(false)
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut watches = self.watches.0.lock();
        let Some(scopes) = watches.get_mut(&self.kind) else { return };
        if let Some(count) = scopes.get_mut(&self.scope) {
            *count -= 1;
            if *count == 0 {
                scopes.remove(&self.scope);
            }
        }
        if scopes.is_empty() {
            watches.remove(&self.kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: &str, url: &str) -> (RequestInfo, Query) {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let query = Query::parse(query);
        (RequestInfo::parse(method, path, &query).unwrap(), query)
    }

    #[test]
    fn writes_know_their_watchers() {
        let watches = Watches::default();
        let held: Vec<_> = [
            "/api/v1/pods?watch=1",
            "/api/v1/namespaces/a/pods?watch=1",
            "/api/v1/namespaces/a/pods?watch=1&fieldSelector=metadata.name%3Dx",
            "/api/v1/namespaces/b/pods?watch=1",
            "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn1",
            "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3D",
        ]
        .map(|url| info("GET", url))
        .iter()
        .map(|(info, query)| watches.register(info, query))
        .collect();
        let told = |method: &str, url: &str| watches.told_of(&info(method, url).0);
        assert_eq!(told("DELETE", "/api/v1/namespaces/a/pods/x"), 4);
        assert_eq!(told("POST", "/api/v1/namespaces/a/pods"), 3);
        assert_eq!(told("PUT", "/api/v1/namespaces/c/pods/x"), 2);
        assert_eq!(told("PUT", "/api/v1/nodes/x"), 0);
        drop(held);
        assert!(watches.0.lock().is_empty());
    }
}
