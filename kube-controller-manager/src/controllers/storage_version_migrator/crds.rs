//! What a CustomResourceDefinition says of a migration of its objects: condition StorageMigrating, and at the end only the version
//! that is stored by now.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::GroupResource;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::{Value, json};

use crate::shared::meta::{MetaExt, now};

const MANAGER: &str = "migration-runner-controller";
const MIGRATING: &str = "StorageMigrating";

fn condition(crd: &CustomResourceDefinition, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": MIGRATING, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": now().to_string(), "observedGeneration": crd.generation()})
}

/// The status at the end.
fn finished(crd: &CustomResourceDefinition, succeeded: bool) -> Value {
    let conditions = crd.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let observed = conditions.filter(|c| c.type_ == MIGRATING).find_map(|c| c.observed_generation);
    // A change of the definition meanwhile may have made objects of yet another version.
    let unchanged = observed == Some(crd.generation());
    let (reason, message) = match (succeeded, unchanged) {
        (true, true) => ("MigrationSucceeded", "The migration has succeeded and the stored versions have been updated"),
        (true, false) => (
            "MigrationSucceeded",
            "The migration has succeeded but the stored versions have not been updated due to a generation mismatch",
        ),
        (false, _) => ("MigrationFailed", "The migration has failed"),
    };
    let mut status = json!({"conditions": [condition(crd, "False", reason, message)]});
    if succeeded && unchanged {
        let stored = crd.spec.versions.iter().filter(|version| version.storage).map(|version| version.name.as_str());
        status["storedVersions"] = stored.collect();
    }
    status
}

async fn write(
    client: &Client,
    resource: &GroupResource,
    status: impl Fn(&CustomResourceDefinition) -> Value,
) -> Result<(), Error> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = format!("{}.{}", resource.resource, resource.group);
    let Some(crd) = api.get_opt(&name).await? else { return Ok(()) };
    let patch = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": name, "resourceVersion": crd.version_str()}, "status": status(&crd)});
    api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await.map(|_| ())
}

/// A migration begins; nothing for resources that are built in.
pub(super) async fn begin(client: &Client, resource: &GroupResource, migration: &str) -> Result<(), Error> {
    let message = format!("Migration {migration} is running");
    let running =
        |crd: &CustomResourceDefinition| json!({"conditions": [condition(crd, "True", "MigrationRunning", &message)]});
    write(client, resource, running).await
}

/// A migration is at its end.
pub(super) async fn finish(client: &Client, resource: &GroupResource, succeeded: bool) -> Result<(), Error> {
    write(client, resource, |crd| finished(crd, succeeded)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_versions_are_dropped_only_when_nothing_changed() {
        let crd = |observed: i64| -> CustomResourceDefinition {
            serde_json::from_value(json!({"metadata": {"name": "r.g", "generation": 2}, "spec": {"group": "g", "scope": "Cluster",
                "names": {"kind": "R", "plural": "r"}, "versions": [{"name": "v1", "served": true, "storage": false},
                {"name": "v2", "served": true, "storage": true}]}, "status": {"conditions": [{"type": MIGRATING, "status": "True",
                "observedGeneration": observed}]}}))
            .unwrap()
        };
        assert_eq!(finished(&crd(2), true)["storedVersions"], json!(["v2"]));
        assert_eq!(finished(&crd(1), true)["storedVersions"], Value::Null);
        let failed = finished(&crd(2), false);
        assert_eq!(
            (&failed["storedVersions"], &failed["conditions"][0]["reason"]),
            (&Value::Null, &json!("MigrationFailed"))
        );
    }
}
