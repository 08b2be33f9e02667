//! Registered drivers: told by their sockets, shown in the CSINode object.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::node_info;
use crate::plugins::{Handler, Plugin};
use crate::rpc::Socket;
use crate::shared::Kubelet;

/// How often it is looked whether drivers' limits have to be asked anew.
const ALLOCATABLE_LOOK: Duration = Duration::from_secs(1);

struct Driver {
    client: Client,
    version: Vec<u64>,
}

/// Drivers by name.
#[derive(Default)]
pub(crate) struct Drivers {
    registered: RwLock<HashMap<String, Driver>>,
    /// Drivers that are asked for their limits now.
    asking: Mutex<HashSet<String>>,
}

impl Drivers {
    /// A driver to call.
    pub(crate) fn get(&self, name: &str) -> Result<Client, String> {
        let registered = self.registered.read();
        let driver = registered.get(name);
        driver
            .map(|driver| driver.client.clone())
            .ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    fn names(&self) -> Vec<String> {
        self.registered.read().keys().cloned().collect()
    }
}

/// `1.2.3` in numbers.
fn parse(version: &str) -> Option<Vec<u64>> {
    let version = version.strip_prefix('v').unwrap_or(version);
    let end = version.find(|letter: char| !(letter.is_ascii_digit() || letter == '.')).unwrap_or(version.len());
    let mut numbers = version[..end].split('.').map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>()?;
    numbers.resize(numbers.len().max(3), 0);
    Some(numbers)
}

/// The newest version that both sides speak.
fn highest(name: &str, versions: &[String]) -> Result<Vec<u64>, String> {
    if versions.is_empty() {
        return Err(format!(
            "kubernetes.io/csi: ValidatePlugin for CSI driver {name:?} failed. Plugin returned an empty list for supported versions"
        ));
    }
    let usable = versions.iter().filter_map(|version| parse(version)).filter(|version| version[0] == 1);
    usable.max().ok_or_else(|| {
        format!(
            "kubernetes.io/csi: ValidatePlugin for CSI driver {name:?} failed. None of the versions specified {versions:?} are supported"
        )
    })
}

/// Takes drivers that register.
pub(crate) struct Registration(pub(crate) Weak<Kubelet>);

impl Registration {
    fn kubelet(&self) -> Result<Arc<Kubelet>, String> {
        self.0.upgrade().ok_or_else(|| "the kubelet is shutting down".to_owned())
    }
}

#[async_trait]
impl Handler for Registration {
    async fn validate(&self, plugin: &Plugin) -> Result<(), String> {
        let kubelet = self.kubelet()?;
        let version = highest(&plugin.name, &plugin.versions)?;
        match kubelet.volumes.drivers.registered.read().get(&plugin.name) {
            Some(have) if have.version >= version => Err(format!(
                "kubernetes.io/csi: ValidatePlugin for CSI driver {:?} failed. Another driver with the same name is already registered with a higher supported version: {:?}",
                plugin.name,
                have.version.iter().map(u64::to_string).collect::<Vec<_>>().join(".")
            )),
            _ => Ok(()),
        }
    }

    async fn register(&self, plugin: &Plugin) -> Result<(), String> {
        let kubelet = self.kubelet()?;
        let socket = Socket::new(&plugin.endpoint);
        let client = Client { name: plugin.name.clone(), socket };
        let info = client.info().await.map_err(|error| error.to_string())?;
        let version = highest(&plugin.name, &plugin.versions)?;
        node_info::install(&kubelet, &plugin.name, &info, true).await?;
        kubelet.volumes.drivers.registered.write().insert(plugin.name.clone(), Driver { client, version });
        // Pods may wait for it.
        kubelet.volumes.retry_driver(&kubelet, &plugin.name);
        Ok(())
    }

    async fn deregister(&self, plugin: &Plugin) {
        let Ok(kubelet) = self.kubelet() else { return };
        kubelet.volumes.drivers.registered.write().remove(&plugin.name);
        if let Err(error) = node_info::uninstall(&kubelet, &plugin.name).await {
            tracing::error!(driver = plugin.name, error, "Error uninstalling CSI driver");
        }
    }
}

/// Asks a driver anew how many volumes fit, and tells it.
pub(crate) async fn refresh_limit(kubelet: &Kubelet, driver: &str) -> Result<(), String> {
    let client = kubelet.volumes.drivers.get(driver)?;
    let info = client.info().await.map_err(|error| error.to_string())?;
    node_info::install(kubelet, driver, &info, false).await
}

/// Keeps the limits of drivers current whose CSIDriver asks for it (`nodeAllocatableUpdatePeriodSeconds`).
pub(crate) async fn watch_allocatable(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    let mut asked: HashMap<String, tokio::time::Instant> = HashMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(ALLOCATABLE_LOOK) => {}
            () = shutdown.cancelled() => return,
        }
        let names = kubelet.volumes.drivers.names();
        asked.retain(|name, _| names.contains(name));
        for name in names {
            let Ok(policy) = kubelet.volumes.policy(&kubelet, &name).await else { continue };
            let Some(period) = policy.allocatable_period else { continue };
            let last = *asked.entry(name.clone()).or_insert_with(tokio::time::Instant::now);
            // A driver that hangs is not asked twice, and keeps no other from being asked.
            if last.elapsed() < period || !kubelet.volumes.drivers.asking.lock().insert(name.clone()) {
                continue;
            }
            asked.insert(name.clone(), tokio::time::Instant::now());
            let kubelet = kubelet.clone();
            tokio::spawn(async move {
                if let Err(error) = refresh_limit(&kubelet, &name).await {
                    tracing::warn!(driver = name, error, "cannot update the number of volumes that fit");
                }
                kubelet.volumes.drivers.asking.lock().remove(&name);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_counts() {
        let of = |versions: &[&str]| {
            highest("d", &versions.iter().map(|version| (*version).to_owned()).collect::<Vec<_>>()).ok()
        };
        assert_eq!(of(&["1.0.0", "v1.2", "2.0.0"]), Some(vec![1, 2, 0]));
        assert_eq!(of(&["1.0.0-rc1"]), Some(vec![1, 0, 0]));
        assert_eq!(of(&["0.3.0"]), None);
        assert_eq!(of(&["x", ""]), None);
        assert_eq!(of(&[]), None);
    }
}
