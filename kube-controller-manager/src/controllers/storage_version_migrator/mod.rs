//! `storage-version-migrator-controller`: a StorageVersionMigration has every object of its resource stored in the present version.
//! One migration of a resource runs at a time, the oldest first.

mod crds;
mod objects;
mod plan;

use std::sync::Arc;

use common::informer::{Event, Informer, WorkQueue, object_key, run_workers};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::storagemigration::v1beta1::StorageVersionMigration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::GroupResource;
use kube::api::PostParams;
use kube::{Api, Client};

use self::objects::Trouble;
use self::plan::{FAILED, RUNNING, SUCCEEDED, Step};
use crate::context::{Context, Task};
use crate::shared::discovery::{self, Served};
use crate::shared::meta::{MetaExt, now};

const NAME: &str = "storage-version-migrator-controller";
/// Index of migrations by `group/resource`.
const BY_RESOURCE: &str = "resource";
/// A custom resource may be served only a little after its definition.
const PATIENCE: SignedDuration = SignedDuration::from_mins(1);
const VERBS: [&str; 3] = ["update", "patch", "list"];

/// Why a run has to be repeated.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("resource does not exist in our rest mapper, requeuing to attempt again")]
    NotServedYet,
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// Sets up the controller.
///
/// # Errors
/// The garbage collector is off, as upstream's.
pub(crate) fn start(ctx: &Context) -> anyhow::Result<Task> {
    anyhow::ensure!(ctx.options.enable_garbage_collector, "storage version migrator requires garbage collector");
    let migrator = Arc::new(Migrator {
        client: ctx.client("storage-version-migrator-controller"),
        migrations: ctx.factory.informer(),
        queue: WorkQueue::new(NAME),
    });
    migrator.migrations.add_index(BY_RESOURCE, |migration| vec![resource_key(migration)]);
    let m = migrator.clone();
    migrator.migrations.on_event(move |event: &Event<StorageVersionMigration>| {
        // The end of one may be the beginning of another.
        for migration in m.migrations.by_index(BY_RESOURCE, &resource_key(event.object())) {
            m.queue.add(object_key(&*migration));
        }
    });
    let shutdown = ctx.shutdown.clone();
    Ok(Box::pin(async move {
        let queue = migrator.queue.clone();
        run_workers(NAME, queue, 1, shutdown, move |name: String| {
            let migrator = migrator.clone();
            async move { migrator.sync(&name).await }
        })
        .await;
    }))
}

/// What is migrated.
fn resource_of(migration: &StorageVersionMigration) -> GroupResource {
    migration.spec.as_ref().map(|spec| spec.resource.clone()).unwrap_or_default()
}

fn resource_key(migration: &StorageVersionMigration) -> String {
    let resource = resource_of(migration);
    format!("{}/{}", resource.group, resource.resource)
}

struct Migrator {
    client: Client,
    migrations: Arc<Informer<StorageVersionMigration>>,
    queue: Arc<WorkQueue<String>>,
}

impl Migrator {
    async fn sync(&self, name: &str) -> Result<(), SyncError> {
        let Some(cached) = self.migrations.get("", name) else { return Ok(()) };
        let same = self.migrations.by_index(BY_RESOURCE, &resource_key(&cached));
        let mut migration = (*cached).clone();
        let resource = resource_of(&migration);
        match plan::step(&cached, &same) {
            Step::Nothing => return Ok(()),
            Step::Begin => {
                crds::begin(&self.client, &resource, name).await?;
                plan::note(&mut migration, RUNNING, "MigrationRunning", "The migration is running", now());
            }
            Step::CleanUp => {
                crds::finish(&self.client, &resource, plan::is(&cached, SUCCEEDED)).await?;
                plan::end(&mut migration, now());
            }
            Step::Checkpoint => match self.served(&cached).await? {
                Ok(served) => {
                    let version = objects::newest_version(&self.client, &served).await?;
                    migration.status.get_or_insert_default().resource_version = Some(version);
                }
                Err(why) => fail(&mut migration, &why),
            },
            Step::Migrate => self.migrate(&mut migration).await?,
        }
        let api: Api<StorageVersionMigration> = Api::all(self.client.clone());
        api.replace_status(name, &PostParams::default(), &migration).await?;
        Ok(())
    }

    async fn migrate(&self, migration: &mut StorageVersionMigration) -> Result<(), SyncError> {
        let unhandled = |why: String| format!("migration encountered unhandled error: {why}");
        let served = match self.served(migration).await? {
            Ok(served) => served,
            Err(why) => {
                fail(migration, &unhandled(why));
                return Ok(());
            }
        };
        let Some(checkpoint) = plan::checkpoint(migration).and_then(|version| version.parse().ok()) else {
            fail(migration, &unhandled("resource version is not well formed".to_owned()));
            return Ok(());
        };
        match objects::migrate(&self.client, &served, checkpoint).await {
            Ok(()) => plan::note(migration, SUCCEEDED, "StorageVersionMigrationSucceeded", "", now()),
            Err(Trouble::Fatal(why)) => fail(migration, &unhandled(why)),
            Err(Trouble::Later(error)) => return Err(error.into()),
        }
        Ok(())
    }

    /// The resource as the server serves it, or why its objects cannot be migrated.
    async fn served(&self, migration: &StorageVersionMigration) -> Result<Result<Served, String>, SyncError> {
        let wanted = resource_of(migration);
        let all = discovery::discover(&self.client).await?;
        let found = all.resources.into_iter().find(|r| r.group == wanted.group && r.plural == wanted.resource);
        match found {
            Some(served) if VERBS.iter().all(|verb| served.has(verb)) => Ok(Ok(served)),
            Some(served) => Ok(Err(format!(
                "resource \"{}, Resource={}\" does not support discovery operations: {VERBS:?}",
                served.api_version(),
                served.plural
            ))),
            None if migration.created().is_some_and(|at| Timestamp::now().duration_since(at) < PATIENCE) => {
                Err(SyncError::NotServedYet)
            }
            None => Ok(Err("resource does not exist in discovery".to_owned())),
        }
    }
}

fn fail(migration: &mut StorageVersionMigration, why: &str) {
    plan::note(migration, FAILED, "StorageVersionMigrationFailed", why, now());
}
