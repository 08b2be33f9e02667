//! Drivers of claims' devices: who is registered, and the two calls.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::RwLock;

use super::wire::{Claim, ClaimsRequest, NodePrepareResourcesResponse, NodeUnprepareResourcesResponse};
use crate::plugins::{Handler, Plugin};
use crate::rpc::Socket;

/// How long a driver may take.
const PATIENCE: Duration = Duration::from_secs(45);

/// A version of the protocol: its name in registrations, and its methods.
struct Version {
    service: &'static str,
    prepare: &'static str,
    unprepare: &'static str,
}

/// The best first.
const VERSIONS: [Version; 2] = [
    Version {
        service: "v1.DRAPlugin",
        prepare: "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",
        unprepare: "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",
    },
    Version {
        service: "v1beta1.DRAPlugin",
        prepare: "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodePrepareResources",
        unprepare: "/k8s.io.kubelet.pkg.apis.dra.v1beta1.DRAPlugin/NodeUnprepareResources",
    },
];

#[derive(Clone)]
struct Instance {
    endpoint: PathBuf,
    socket: Socket,
    version: &'static Version,
}

/// Instances by driver; with a rolling update there are two for a while, and the newest is asked.
#[derive(Default)]
pub(crate) struct Drivers(RwLock<HashMap<String, Vec<Instance>>>);

fn choose(versions: &[String]) -> Result<&'static Version, String> {
    // Before 1.32 drivers told the protocol's number instead of its name.
    let speaks = |version: &&Version| {
        versions
            .iter()
            .any(|told| told == version.service || (told.starts_with("1.") && version.service.starts_with("v1beta1")))
    };
    VERSIONS.iter().find(speaks).ok_or_else(|| {
        let known: Vec<&str> = VERSIONS.iter().map(|version| version.service).collect();
        format!("none of the versions {versions:?} is supported, want one of {known:?}")
    })
}

#[async_trait]
impl Handler for Drivers {
    async fn validate(&self, plugin: &Plugin) -> Result<(), String> {
        if plugin.name.is_empty() {
            return Err("DRA driver name is empty".into());
        }
        choose(&plugin.versions).map(drop)
    }

    async fn register(&self, plugin: &Plugin) -> Result<(), String> {
        let version = choose(&plugin.versions)?;
        let socket = Socket::new(&plugin.endpoint);
        let mut drivers = self.0.write();
        let instances = drivers.entry(plugin.name.clone()).or_default();
        instances.retain(|instance| instance.endpoint != plugin.endpoint);
        instances.push(Instance { endpoint: plugin.endpoint.clone(), socket, version });
        Ok(())
    }

    async fn deregister(&self, plugin: &Plugin) {
        let mut drivers = self.0.write();
        if let Some(instances) = drivers.get_mut(&plugin.name) {
            instances.retain(|instance| instance.endpoint != plugin.endpoint);
        }
        drivers.retain(|_, instances| !instances.is_empty());
    }
}

impl Drivers {
    fn newest(&self, driver: &str) -> Result<Instance, String> {
        let newest = self.0.read().get(driver).and_then(|instances| instances.last().cloned());
        newest.ok_or_else(|| format!("DRA driver {driver} is not registered"))
    }

    pub(super) async fn prepare(
        &self,
        driver: &str,
        claims: Vec<Claim>,
    ) -> Result<NodePrepareResourcesResponse, String> {
        let instance = self.newest(driver)?;
        let answer = instance.socket.call(instance.version.prepare, ClaimsRequest { claims }, PATIENCE).await;
        answer.map_err(|error| format!("NodePrepareResources: {error}"))
    }

    pub(super) async fn unprepare(
        &self,
        driver: &str,
        claims: Vec<Claim>,
    ) -> Result<NodeUnprepareResourcesResponse, String> {
        let instance = self.newest(driver)?;
        let answer = instance.socket.call(instance.version.unprepare, ClaimsRequest { claims }, PATIENCE).await;
        answer.map_err(|error| format!("NodeUnprepareResources: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken() {
        for (told, want) in [
            (&["v1beta1.DRAPlugin", "v1.DRAPlugin"][..], Some("v1.DRAPlugin")),
            (&["v1beta1.DRAPlugin"], Some("v1beta1.DRAPlugin")),
            (&["v2.DRAPlugin"], None),
            (&[], None),
        ] {
            let told: Vec<String> = told.iter().map(|version| (*version).to_owned()).collect();
            assert_eq!(choose(&told).ok().map(|version| version.service), want, "{told:?}");
        }
    }
}
