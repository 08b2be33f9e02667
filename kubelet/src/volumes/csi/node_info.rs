//! What the cluster learns about the node's drivers: the CSINode object, the node's id annotation and topology labels.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::{CSINode, CSINodeDriver, VolumeNodeResources};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::shared::Kubelet;
use crate::wire::csi::NodeInfo;

const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
const MIGRATED: &str = "storage.alpha.kubernetes.io/migrated-plugins";
/// Former in-tree plugins: all of them are CSI drivers now, whether one is there or not.
const MIGRATED_PLUGINS: &str = "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,kubernetes.io/azure-file,kubernetes.io/cinder,kubernetes.io/gce-pd,kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume";
const ATTEMPTS: u32 = 6;
const RETRY: Duration = Duration::from_millis(50);

/// Makes sure of the CSINode until it is there; the node is not ready before.
pub(crate) async fn initialize(kubelet: std::sync::Arc<Kubelet>) {
    let mut pause = RETRY;
    loop {
        match change_csi_node(&kubelet, |_| false).await {
            Ok(()) => {
                kubelet.volumes.set_node_problem(None);
                return;
            }
            Err(error) => {
                // Until the node itself is registered this is how it has to be.
                tracing::debug!(error, "no CSINode yet, will retry");
                kubelet.volumes.set_node_problem(Some(format!("failed to initialize CSINode: {error}")));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

/// Shows a driver. `with_node`: also on the Node object, which changes only when the driver registers.
pub(super) async fn install(kubelet: &Kubelet, driver: &str, info: &NodeInfo, with_node: bool) -> Result<(), String> {
    if info.node_id.is_empty() {
        return Err("error adding CSI driver node info: driverNodeID must not be empty".into());
    }
    let topology: BTreeMap<String, String> =
        info.accessible_topology.iter().flat_map(|topology| topology.segments.clone()).collect();
    if with_node {
        change_node(kubelet, |node| add_to_node(node, driver, &info.node_id, &topology))
            .await
            .map_err(|error| format!("error updating Node object with CSI driver node info: {error}"))?;
    }
    let entry = entry(driver, info, &topology);
    change_csi_node(kubelet, |drivers| put(drivers, &entry))
        .await
        .map_err(|error| format!("error updating CSINode object with CSI driver node info: {error}"))
}

/// Hides a driver.
pub(super) async fn uninstall(kubelet: &Kubelet, driver: &str) -> Result<(), String> {
    change_csi_node(kubelet, |drivers| {
        let before = drivers.len();
        drivers.retain(|have| have.name != driver);
        drivers.len() != before
    })
    .await?;
    change_node(kubelet, |node| remove_from_node(node, driver)).await
}

fn entry(driver: &str, info: &NodeInfo, topology: &BTreeMap<String, String>) -> CSINodeDriver {
    let count = i32::try_from(info.max_volumes_per_node).unwrap_or(i32::MAX);
    CSINodeDriver {
        name: driver.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: Some(topology.keys().cloned().collect()),
        allocatable: (info.max_volumes_per_node > 0).then_some(VolumeNodeResources { count: Some(count) }),
    }
}

/// Puts the driver's entry last, as upstream; answers whether that changes anything.
fn put(drivers: &mut Vec<CSINodeDriver>, entry: &CSINodeDriver) -> bool {
    let keys = |driver: &CSINodeDriver| {
        let mut keys = driver.topology_keys.clone().unwrap_or_default();
        keys.sort();
        keys
    };
    let same = |have: &CSINodeDriver| {
        have.node_id == entry.node_id && have.allocatable == entry.allocatable && keys(have) == keys(entry)
    };
    if drivers.iter().any(|have| have.name == entry.name && same(have)) {
        return false;
    }
    drivers.retain(|have| have.name != entry.name);
    drivers.push(entry.clone());
    true
}

fn node_ids(node: &Node) -> Result<BTreeMap<String, String>, String> {
    let text = node.metadata.annotations.as_ref().and_then(|annotations| annotations.get(NODE_IDS));
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(BTreeMap::new()) };
    serde_json::from_str(text)
        .map_err(|error| format!("failed to parse node's {NODE_IDS:?} annotation value ({text:?}) err={error}"))
}

/// The patch of the node's metadata; `None` when nothing is to change.
fn add_to_node(
    node: &Node,
    driver: &str,
    id: &str,
    topology: &BTreeMap<String, String>,
) -> Result<Option<Value>, String> {
    let mut ids = node_ids(node)?;
    let labels = node.metadata.labels.clone().unwrap_or_default();
    for (key, value) in topology {
        if let Some(have) = labels.get(key).filter(|have| *have != value) {
            return Err(format!(
                "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{have:?}"
            ));
        }
    }
    let known = ids.insert(driver.to_owned(), id.to_owned()).as_deref() == Some(id);
    if known && topology.keys().all(|key| labels.contains_key(key)) {
        return Ok(None);
    }
    Ok(Some(json!({"annotations": {NODE_IDS: json!(ids).to_string()}, "labels": topology})))
}

fn remove_from_node(node: &Node, driver: &str) -> Result<Option<Value>, String> {
    let mut ids = node_ids(node)?;
    if ids.remove(driver).is_none() {
        return Ok(None);
    }
    let value = if ids.is_empty() { Value::Null } else { Value::String(json!(ids).to_string()) };
    Ok(Some(json!({"annotations": {NODE_IDS: value}})))
}

async fn change_node(
    kubelet: &Kubelet,
    change: impl Fn(&Node) -> Result<Option<Value>, String> + Send + Sync,
) -> Result<(), String> {
    let mut attempts = Attempts::default();
    while let Err(error) = try_change_node(kubelet, &change).await {
        attempts.failed(error).await?;
    }
    Ok(())
}

async fn try_change_node(
    kubelet: &Kubelet,
    change: &(impl Fn(&Node) -> Result<Option<Value>, String> + Send + Sync),
) -> Result<(), String> {
    let client = kubelet.client.clone().ok_or("error getting kube client")?;
    let api: kube::Api<Node> = kube::Api::all(client);
    let node = api.get(&kubelet.config.node_name).await.map_err(|error| error.to_string())?;
    let Some(mut metadata) = change(&node)? else { return Ok(()) };
    metadata["resourceVersion"] = json!(node.metadata.resource_version);
    let patch = Patch::Merge(json!({"metadata": metadata}));
    let params = PatchParams::default();
    let patched = api.patch_status(&kubelet.config.node_name, &params, &patch).await;
    patched.map(|_| ()).map_err(|error| error.to_string())
}

/// Changes the list of drivers of the CSINode, which is made when there is none.
async fn change_csi_node(
    kubelet: &Kubelet,
    change: impl Fn(&mut Vec<CSINodeDriver>) -> bool + Send + Sync,
) -> Result<(), String> {
    let mut attempts = Attempts::default();
    while let Err(error) = try_change_csi_node(kubelet, &change).await {
        attempts.failed(error).await?;
    }
    Ok(())
}

async fn try_change_csi_node(
    kubelet: &Kubelet,
    change: &(impl Fn(&mut Vec<CSINodeDriver>) -> bool + Send + Sync),
) -> Result<(), String> {
    let client = kubelet.client.clone().ok_or("error getting CSI client")?;
    let name = &kubelet.config.node_name;
    let nodes: kube::Api<Node> = kube::Api::all(client.clone());
    let uid = nodes.get(name).await.map_err(|error| error.to_string())?.metadata.uid.unwrap_or_default();
    let api: kube::Api<CSINode> = kube::Api::all(client);
    match api.get_opt(name).await.map_err(|error| error.to_string())? {
        None => {
            let mut fresh = fresh(name, &uid);
            change(&mut fresh.spec.drivers);
            api.create(&PostParams::default(), &fresh).await.map(|_| ()).map_err(|error| error.to_string())
        }
        Some(old) if !owned(&old, name, &uid) => {
            api.delete(name, &DeleteParams::default()).await.map_err(|error| error.to_string())?;
            Err(format!("CSINode {name:?} was owned by different node (newNodeID={uid:?}), deleted it"))
        }
        Some(mut old) => {
            let annotations = old.metadata.annotations.get_or_insert_default();
            let migrated = annotations.insert(MIGRATED.into(), MIGRATED_PLUGINS.into());
            if !change(&mut old.spec.drivers) && migrated.as_deref() == Some(MIGRATED_PLUGINS) {
                return Ok(());
            }
            api.replace(name, &PostParams::default(), &old).await.map(|_| ()).map_err(|error| error.to_string())
        }
    }
}

fn fresh(name: &str, uid: &str) -> CSINode {
    let mut node = CSINode::default();
    node.metadata.name = Some(name.to_owned());
    node.metadata.annotations = Some(BTreeMap::from([(MIGRATED.to_owned(), MIGRATED_PLUGINS.to_owned())]));
    node.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    }]);
    node
}

fn owned(node: &CSINode, name: &str, uid: &str) -> bool {
    let owners = node.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.kind == "Node" && owner.name == name && owner.uid == uid)
}

/// Attempts at an object that others write, too.
#[derive(Default)]
struct Attempts(u32);

impl Attempts {
    /// Waits before the next one; the last error when there is none.
    async fn failed(&mut self, error: String) -> Result<(), String> {
        self.0 += 1;
        if self.0 >= ATTEMPTS {
            return Err(format!("timed out waiting for the condition; caused by: {error}"));
        }
        tokio::time::sleep(RETRY * (1 << self.0)).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: &str, max: i64, topology: &[(&str, &str)]) -> (NodeInfo, BTreeMap<String, String>) {
        let info = NodeInfo { node_id: id.into(), max_volumes_per_node: max, accessible_topology: None };
        (info, topology.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
    }

    #[test]
    fn an_entry_changes_only_when_it_must() {
        let mut drivers = Vec::new();
        let (first, topology) = info("id", 3, &[("zone", "a"), ("rack", "b")]);
        let first = entry("d", &first, &topology);
        assert_eq!(first.topology_keys.as_deref(), Some(&["rack".to_owned(), "zone".to_owned()][..]));
        assert!(put(&mut drivers, &first));
        drivers[0].topology_keys.as_mut().unwrap().reverse();
        assert!(!put(&mut drivers, &first), "the order of keys says nothing");
        let (second, topology) = info("id", 0, &[("zone", "a"), ("rack", "b")]);
        let second = entry("d", &second, &topology);
        assert_eq!(second.allocatable, None);
        assert!(put(&mut drivers, &second));
        assert_eq!(drivers, [second]);
    }

    #[test]
    fn the_node_carries_ids_and_topology() {
        let mut node = Node::default();
        let topology = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let patch = add_to_node(&node, "d", "7", &topology).unwrap().unwrap();
        assert_eq!(patch["annotations"][NODE_IDS], "{\"d\":\"7\"}");
        assert_eq!(patch["labels"]["zone"], "a");
        node.metadata.annotations = Some(BTreeMap::from([(NODE_IDS.to_owned(), "{\"d\":\"7\"}".to_owned())]));
        node.metadata.labels = Some(topology.clone());
        assert_eq!(add_to_node(&node, "d", "7", &topology), Ok(None));
        let other = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
        assert!(add_to_node(&node, "d", "7", &other).unwrap_err().starts_with("detected topology value collision"));
        assert_eq!(remove_from_node(&node, "e"), Ok(None));
        assert_eq!(remove_from_node(&node, "d").unwrap().unwrap()["annotations"][NODE_IDS], Value::Null);
    }
}
