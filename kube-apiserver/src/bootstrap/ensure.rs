//! Creates objects that must exist, unless they do.

use async_trait::async_trait;
use serde_json::Value;

use crate::{
    endpoints::{Target, ownership},
    request::ApiResult,
    resources::{Ctx, User, metadata},
    server::{ApiServer, Change, Mutation, Outcome, ResourceStore, Stored},
};

/// Who owns what the server writes of its own accord.
const MANAGER: &str = "kube-apiserver";

fn target(store: &ResourceStore) -> Target<'_> {
    Target { resource: store.resource, sub: None, store }
}

/// Creates `object` when it is missing; says whether it was.
///
/// # Errors
/// The store is unavailable, or the object breaks a rule.
pub async fn ensure(server: &ApiServer, group: &str, resource: &str, object: Value) -> ApiResult<bool> {
    ensure_as(MANAGER, server, group, resource, object).await
}

/// As [`ensure`], for another owner of the fields.
///
/// # Errors
/// As there.
pub async fn ensure_as(
    manager: &str,
    server: &ApiServer,
    group: &str,
    resource: &str,
    object: Value,
) -> ApiResult<bool> {
    let store = server.registry.of(group, resource)?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
    if store.find(&namespace, &name).await?.is_some() {
        return Ok(false);
    }
    let mut object = complete_as(manager, server, group, resource, &namespace, object);
    match store.create(&namespace, &name, &mut object).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Defaults and system fields, as a create through the API would give.
pub fn complete(server: &ApiServer, group: &str, resource: &str, namespace: &str, object: Value) -> Value {
    complete_as(MANAGER, server, group, resource, namespace, object)
}

/// As [`complete`], for another owner of the fields.
pub fn complete_as(
    manager: &str,
    server: &ApiServer,
    group: &str,
    resource: &str,
    namespace: &str,
    mut object: Value,
) -> Value {
    let user = User { name: "system:apiserver".to_owned(), ..User::default() };
    let context = Ctx { namespace, user: &user, now: jiff::Timestamp::now() };
    metadata::fill_system_fields(&mut object, context.now);
    if let Ok(store) = server.registry.of(group, resource) {
        store.strategy.default(&mut object);
        ownership::follow_stored(target(store), manager, &ownership::nothing(), &mut object);
        store.strategy.prepare_create(&mut object, &context);
    }
    object
}

/// Changes an object as the server itself, which comes to own what it changes.
///
/// # Errors
/// 404, what the mutation answers, or the store is unavailable.
pub async fn modify(
    store: &ResourceStore,
    namespace: &str,
    name: &str,
    mutation: &mut dyn Mutation,
) -> ApiResult<Outcome> {
    modify_as(MANAGER, store, namespace, name, mutation).await
}

/// As [`modify`], for another owner of the fields.
///
/// # Errors
/// As there.
pub async fn modify_as(
    manager: &str,
    store: &ResourceStore,
    namespace: &str,
    name: &str,
    mutation: &mut dyn Mutation,
) -> ApiResult<Outcome> {
    store.modify(namespace, name, &mut Followed { manager, mutation, target: target(store) }).await
}

struct Followed<'a> {
    manager: &'a str,
    mutation: &'a mut dyn Mutation,
    target: Target<'a>,
}

#[async_trait]
impl Mutation for Followed<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        Ok(match self.mutation.attempt(current).await? {
            Change::Put(mut object) => {
                ownership::follow_stored(self.target, self.manager, &current.object, &mut object);
                Change::Put(object)
            }
            other => other,
        })
    }
}
