//! Which container has which devices, in upstream's checkpoint `kubelet_internal_checkpoint`.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::state::{Gifts, Given};
use super::wire::ContainerAllocateResponse;
use crate::placement::checkpoint::{self, checksum, go_map};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: Data,
    checksum: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Option<Vec<Entry>>,
    registered_devices: BTreeMap<String, Vec<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    container_name: String,
    resource_name: String,
    /// By NUMA node; -1 = none.
    #[serde(rename = "DeviceIDs")]
    devices: BTreeMap<i64, Vec<String>>,
    #[serde(rename = "AllocResp")]
    answer: String,
}

fn list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

impl Data {
    fn sum(&self) -> u64 {
        let entry = |entry: &Entry| {
            let bytes = BASE64_STANDARD.decode(&entry.answer).unwrap_or_default();
            let bytes: Vec<String> = bytes.iter().map(ToString::to_string).collect();
            format!(
                "{{PodUID:(string){} ContainerName:(string){} ResourceName:(string){} DeviceIDs:(checkpoint.DevicesPerNUMA){} AllocResp:([]uint8){}}}",
                entry.pod_uid,
                entry.container_name,
                entry.resource_name,
                go_map(entry.devices.iter().map(|(node, ids)| (node, list(ids)))),
                list(&bytes)
            )
        };
        let entries = match &self.pod_device_entries {
            None => "<nil>".to_owned(),
            Some(entries) => list(&entries.iter().map(entry).collect::<Vec<_>>()),
        };
        let registered = go_map(self.registered_devices.iter().map(|(name, ids)| (name, list(ids))));
        checksum(&format!(
            "(checkpoint.checkpointData){{PodDeviceEntries:([]checkpoint.PodDevicesEntry){entries} RegisteredDevices:(map[string][]string){registered}}}"
        ))
    }
}

/// Writes what was given, and which resources have plugins with which healthy devices.
pub(super) fn save(path: &Path, gifts: &Gifts, registered: BTreeMap<String, Vec<String>>) -> anyhow::Result<()> {
    let entries: Vec<Entry> = gifts
        .iter()
        .map(|((pod, container, resource), given)| Entry {
            pod_uid: pod.clone(),
            container_name: container.clone(),
            resource_name: resource.clone(),
            devices: given.devices.clone(),
            answer: BASE64_STANDARD.encode(given.answer.encode_to_vec()),
        })
        .collect();
    let data = Data { pod_device_entries: (!entries.is_empty()).then_some(entries), registered_devices: registered };
    checkpoint::save(path, &File { checksum: data.sum(), data })
}

/// What the last kubelet left: what it had given, and the names of resources that had plugins. A broken file is told and left behind.
pub(super) fn load(path: &Path) -> (Gifts, Vec<String>) {
    let read = checkpoint::load::<File>(path).and_then(|file| match file {
        Some(file) if file.checksum != file.data.sum() => Err(anyhow::anyhow!("checkpoint is corrupted")),
        other => Ok(other),
    });
    let data = match read {
        Ok(Some(file)) => file.data,
        Ok(None) => return Default::default(),
        Err(error) => {
            tracing::error!(path = %path.display(), error = %format!("{error:#}"), "cannot use the checkpoint of devices");
            return Default::default();
        }
    };
    let entries = data.pod_device_entries.into_iter().flatten();
    let gifts = entries.filter_map(|entry| {
        let bytes = BASE64_STANDARD.decode(&entry.answer).ok()?;
        let answer = ContainerAllocateResponse::decode(bytes.as_slice()).ok()?;
        Some(((entry.pod_uid, entry.container_name, entry.resource_name), Given { devices: entry.devices, answer }))
    });
    (gifts.collect(), data.registered_devices.into_keys().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_is_known_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubelet_internal_checkpoint");
        assert_eq!(load(&path), Default::default());
        let answer = ContainerAllocateResponse {
            envs: [("A".to_owned(), "b".to_owned())].into(),
            ..ContainerAllocateResponse::default()
        };
        let given = Given { devices: [(-1, vec!["d1".to_owned()]), (0, vec!["d2".to_owned()])].into(), answer };
        let gifts: Gifts = [(("u".to_owned(), "c".to_owned(), "example.com/x".to_owned()), given)].into();
        save(&path, &gifts, [("example.com/x".to_owned(), vec!["d1".to_owned()])].into()).unwrap();
        assert_eq!(load(&path), (gifts, vec!["example.com/x".to_owned()]));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("d2", "d3")).unwrap();
        assert_eq!(load(&path), Default::default());
    }
}
