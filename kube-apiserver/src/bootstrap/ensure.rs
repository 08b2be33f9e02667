//! Creates objects that must exist, unless they do.

use serde_json::Value;

use crate::{
    request::ApiResult,
    resources::{Ctx, User, metadata},
    server::ApiServer,
};

/// Creates `object` when it is missing; says whether it was.
///
/// # Errors
/// The store is unavailable, or the object breaks a rule.
pub async fn ensure(server: &ApiServer, group: &str, resource: &str, object: Value) -> ApiResult<bool> {
    let store = server.registry.of(group, resource)?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
    if store.find(&namespace, &name).await?.is_some() {
        return Ok(false);
    }
    match store.create(&namespace, &name, complete(server, group, resource, &namespace, object)).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Defaults and system fields, as a create through the API would give.
pub fn complete(server: &ApiServer, group: &str, resource: &str, namespace: &str, mut object: Value) -> Value {
    let user = User { name: "system:apiserver".to_owned(), ..User::default() };
    let context = Ctx { namespace, user: &user, now: jiff::Timestamp::now() };
    metadata::fill_system_fields(&mut object, context.now);
    if let Ok(store) = server.registry.of(group, resource) {
        store.strategy.default(&mut object);
        store.strategy.prepare_create(&mut object, &context);
    }
    object
}
