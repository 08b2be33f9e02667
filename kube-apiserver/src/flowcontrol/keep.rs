//! Keeps the objects that every cluster has, follows all of them, and says of every FlowSchema whether its priority
//! level exists.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::future::try_join_all;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

use super::{FlowControl, defaults};
use crate::{
    bootstrap::ensure,
    endpoints::{Target, ownership},
    request::{ApiError, ApiResult, options::WriteOptions},
    resources::{Ctx, User},
    server::{ApiServer, Change, Mutation, ResourceStore, Stored},
    storage::cache::{ListQuery, ResourceVersion, Selection, WatchFrom, WatchQuery},
};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const LEVELS: &str = "prioritylevelconfigurations";
const SCHEMAS: &str = "flowschemas";
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";
/// How often the objects are looked after, and seats moved.
const KEEP: Duration = Duration::from_secs(60);
const ADJUST: Duration = Duration::from_secs(10);
/// Servers that disagree about a status must not fight forever.
const MOST_UPDATES_A_MINUTE: usize = 6;

/// Makes sure of the objects once; goes on doing so in the background.
///
/// # Errors
/// The store is unavailable.
pub async fn produce(server: Arc<ApiServer>) -> ApiResult<()> {
    ensure_all(&server).await?;
    tokio::spawn(async move {
        while server.shutdown.run_until_cancelled(tokio::time::sleep(KEEP)).await.is_some() {
            if let Err(error) = ensure_all(&server).await {
                tracing::warn!(%error, "cannot keep the objects of priority and fairness, trying again later");
            }
        }
    });
    Ok(())
}

async fn ensure_all(server: &ApiServer) -> ApiResult<()> {
    for (resource, mandatory, objects) in [
        (LEVELS, false, defaults::suggested_levels()),
        (SCHEMAS, false, defaults::suggested_schemas()),
        (LEVELS, true, defaults::mandatory_levels()),
        (SCHEMAS, true, defaults::mandatory_schemas()),
    ] {
        try_join_all(objects.into_iter().map(|object| ensure_one(server, resource, mandatory, object))).await?;
    }
    for (resource, wanted) in [
        (SCHEMAS, [defaults::mandatory_schemas(), defaults::suggested_schemas()].concat()),
        (LEVELS, [defaults::mandatory_levels(), defaults::suggested_levels()].concat()),
    ] {
        remove_others(server, resource, &wanted).await?;
    }
    Ok(())
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn auto_update(object: &Value) -> Option<bool> {
    common::config::parse_go_bool(object["metadata"]["annotations"][defaults::AUTO_UPDATE].as_str()?).ok()
}

async fn ensure_one(server: &ApiServer, resource: &str, mandatory: bool, object: Value) -> ApiResult<()> {
    if ensure::ensure_as(PRODUCER, server, GROUP, resource, object.clone()).await? {
        return Ok(());
    }
    let store = server.registry.of(GROUP, resource)?;
    let wanted = ensure::complete_as(PRODUCER, server, GROUP, resource, "", object);
    // Nothing is written, nor asked of the store, while the cache shows the object as it should be.
    let Some(current) = store.glance("", name(&wanted)).await? else { return Ok(()) };
    if revised(&current.object, &wanted, mandatory).is_none() {
        return Ok(());
    }
    let mut revision = Revision { store, wanted: &wanted, mandatory };
    match ensure::modify_as(PRODUCER, store, "", name(&wanted), &mut revision).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

/// The object as it should be; `None` when it is.
fn revised(current: &Value, wanted: &Value, mandatory: bool) -> Option<Value> {
    let untouched = || current["metadata"]["generation"] == 1;
    let update = mandatory || auto_update(current).unwrap_or_else(untouched);
    let mut object = current.clone();
    if auto_update(current) != Some(update) {
        object["metadata"]["annotations"][defaults::AUTO_UPDATE] = update.to_string().into();
    }
    if update {
        object["spec"] = wanted["spec"].clone();
    }
    (object != *current).then_some(object)
}

struct Revision<'a> {
    store: &'a ResourceStore,
    wanted: &'a Value,
    mandatory: bool,
}

#[async_trait]
impl Mutation for Revision<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let Some(mut object) = revised(&current.object, self.wanted, self.mandatory) else {
            return Ok(Change::Keep(current.object.clone()));
        };
        let user = User::default();
        let context = Ctx { namespace: "", user: &user, now: Timestamp::now() };
        self.store.strategy.prepare_update(&mut object, &current.object, None, &context);
        Ok(Change::Put(object))
    }
}

/// Objects that an earlier version of this server kept, and that nobody has changed, go.
async fn remove_others(server: &ApiServer, resource: &str, wanted: &[Value]) -> ApiResult<()> {
    struct Removal;
    #[async_trait]
    impl Mutation for Removal {
        async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
            let ours = auto_update(&current.object) == Some(true);
            Ok(if ours { Change::Delete } else { Change::Keep(current.object.clone()) })
        }
    }
    let store = server.registry.of(GROUP, resource)?;
    for object in list(store).await? {
        if auto_update(&object) == Some(true) && !wanted.iter().any(|kept| name(kept) == name(&object)) {
            match store.modify("", name(&object), &mut Removal).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

async fn list(store: &ResourceStore) -> ApiResult<Vec<Value>> {
    let query = ListQuery { version: ResourceVersion::Any, ..ListQuery::default() };
    let page = store.cache.list(query).await.map_err(|error| store.cache_error(error))?;
    page.items.iter().map(|item| serde_json::from_slice(item.bytes()).map_err(ApiError::internal)).collect()
}

/// Follows the objects once they have been read; moves seats.
///
/// # Errors
/// The store is unavailable.
pub async fn consume(server: Arc<ApiServer>) -> ApiResult<()> {
    let Some(control) = server.flow_control.clone() else { return Ok(()) };
    let mut statuses = Statuses::default();
    statuses.digest(&server, &control).await?;
    let changed = Arc::new(Notify::new());
    for resource in [LEVELS, SCHEMAS] {
        tokio::spawn(follow(Arc::clone(&server), resource, Arc::clone(&changed)));
    }
    tokio::spawn(async move {
        let mut adjust = tokio::time::interval(ADJUST);
        loop {
            tokio::select! {
                () = server.shutdown.cancelled() => return,
                _ = adjust.tick() => {
                    control.adjust();
                    if !statuses.late {
                        continue;
                    }
                }
                () = changed.notified() => {}
            }
            if let Err(error) = statuses.digest(&server, &control).await {
                tracing::warn!(%error, "cannot follow the objects of priority and fairness, trying again later");
                statuses.late = true;
            }
        }
    });
    Ok(())
}

/// Tells of every change of a resource.
async fn follow(server: Arc<ApiServer>, resource: &'static str, changed: Arc<Notify>) {
    let pause = || server.shutdown.run_until_cancelled(tokio::time::sleep(Duration::from_millis(200)));
    loop {
        if let Ok(store) = server.registry.of(GROUP, resource) {
            let query =
                WatchQuery { selection: Selection::default(), from: WatchFrom::InitialEvents(None), bookmarks: false };
            if let Ok(mut watcher) = store.cache.watch(query).await {
                while let Some(Some(Ok(_))) = server.shutdown.run_until_cancelled(watcher.next()).await {
                    changed.notify_one();
                }
            }
        }
        if pause().await.is_none() {
            return;
        }
    }
}

/// Writes the statuses of FlowSchemas.
#[derive(Default)]
struct Statuses {
    /// When each schema was written.
    written: HashMap<String, Vec<Instant>>,
    /// Something is to be tried again.
    late: bool,
}

impl Statuses {
    async fn digest(&mut self, server: &ApiServer, control: &FlowControl) -> ApiResult<()> {
        self.late = false;
        let levels = list(server.registry.of(GROUP, LEVELS)?).await?;
        let store = server.registry.of(GROUP, SCHEMAS)?;
        let schemas = list(store).await?;
        let known = control.configure(&levels, &schemas);
        for schema in &schemas {
            let Some(condition) = dangling(schema, &known) else { continue };
            if !self.may_write(name(schema)) {
                self.late = true;
                continue;
            }
            let mut status = Status { store, condition };
            match store.modify("", name(schema), &mut status).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn may_write(&mut self, name: &str) -> bool {
        let now = Instant::now();
        self.written.retain(|_, times| {
            times.retain(|at| now.duration_since(*at) < Duration::from_secs(60));
            !times.is_empty()
        });
        let times = self.written.entry(name.to_owned()).or_default();
        let may = times.len() < MOST_UPDATES_A_MINUTE;
        if may {
            times.push(now);
        }
        may
    }
}

/// The condition that a FlowSchema should have; `None` when it has it.
fn dangling(schema: &Value, known: &BTreeSet<String>) -> Option<Value> {
    let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
    let start = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    let (status, reason, message) = if known.contains(level) {
        ("False", "Found", format!("{start} and it exists"))
    } else {
        ("True", "NotFound", format!("{start} but there is no such object"))
    };
    let mut conditions = schema["status"]["conditions"].as_array().into_iter().flatten();
    let current = conditions.rfind(|condition| condition["type"] == "Dangling");
    let is = |member: &str, value: &str| current.is_some_and(|condition| condition[member] == value);
    if is("status", status) && is("reason", reason) && is("message", &message) {
        return None;
    }
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    Some(json!({"type": "Dangling", "status": status, "reason": reason, "message": message, "lastTransitionTime": now}))
}

/// Applies a condition as upstream does: by server-side apply through the status subresource.
struct Status<'a> {
    store: &'a ResourceStore,
    condition: Value,
}

#[async_trait]
impl Mutation for Status<'_> {
    async fn attempt(&mut self, current: &Stored) -> ApiResult<Change> {
        let resource = self.store.resource;
        let config = json!({
            "kind": resource.kind,
            "apiVersion": resource.api_version(),
            "metadata": {"name": name(&current.object)},
            "status": {"conditions": [self.condition]},
        });
        let target = Target { resource, sub: resource.subresource("status"), store: self.store };
        let options = WriteOptions { field_manager: CONSUMER.to_owned(), force: Some(true), ..WriteOptions::default() };
        let subject = ownership::Subject::Resource(target);
        Ok(Change::Put(ownership::apply(subject, &options, &current.object, &config)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mandatory_objects_are_stomped_and_suggested_ones_only_as_people_allow() {
        let wanted = json!({"spec": {"a": 1}});
        let object = |annotation: Value, generation: i64, spec: i64| json!({"metadata": {"annotations": annotation, "generation": generation}, "spec": {"a": spec}});
        let says = |value: &str| json!({defaults::AUTO_UPDATE: value});
        for (current, mandatory, want) in [
            (object(says("true"), 1, 1), false, None),
            (object(says("true"), 3, 2), false, Some(object(says("true"), 3, 1))),
            (object(says("false"), 3, 2), false, None),
            (object(says("false"), 3, 2), true, Some(object(says("true"), 3, 1))),
            (object(json!({}), 1, 2), false, Some(object(says("true"), 1, 1))),
            (object(json!({}), 2, 2), false, Some(object(says("false"), 2, 2))),
            (object(says("maybe"), 2, 2), false, Some(object(says("false"), 2, 2))),
        ] {
            assert_eq!(revised(&current, &wanted, mandatory), want, "{current}");
        }
    }

    #[test]
    fn references_dangle_until_their_level_exists() {
        let mut schema = json!({"spec": {"priorityLevelConfiguration": {"name": "l"}}});
        let found = dangling(&schema, &BTreeSet::from(["l".to_owned()])).unwrap();
        assert_eq!(
            found["message"],
            "This FlowSchema references the PriorityLevelConfiguration object named \"l\" and it exists"
        );
        schema["status"] = json!({"conditions": [found]});
        assert_eq!(dangling(&schema, &BTreeSet::from(["l".to_owned()])), None);
        assert_eq!(dangling(&schema, &BTreeSet::new()).unwrap()["status"], "True");
    }
}
