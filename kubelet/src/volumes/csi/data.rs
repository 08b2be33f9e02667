//! Names and places of CSI volumes, and `vol_data.json`, by which a restarted kubelet knows what it had mounted.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FILE: &str = "vol_data.json";

/// What `vol_data.json` says; fields that do not apply are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::volumes) struct VolumeData {
    #[serde(rename = "attachmentID", skip_serializing_if = "String::is_empty")]
    pub(in crate::volumes) attachment: String,
    #[serde(rename = "driverName")]
    pub(in crate::volumes) driver: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(in crate::volumes) node_name: String,
    #[serde(rename = "seLinuxMountContext", skip_serializing_if = "String::is_empty")]
    pub(in crate::volumes) selinux: String,
    #[serde(rename = "specVolID", skip_serializing_if = "String::is_empty")]
    pub(in crate::volumes) name: String,
    #[serde(rename = "volumeHandle")]
    pub(in crate::volumes) handle: String,
    #[serde(rename = "volumeLifecycleMode", skip_serializing_if = "String::is_empty")]
    pub(in crate::volumes) mode: String,
    /// What a later version may add.
    #[serde(flatten)]
    pub(in crate::volumes) rest: BTreeMap<String, String>,
}

impl VolumeData {
    pub(in crate::volumes) fn save(&self, directory: &Path) -> Result<(), String> {
        let path = directory.join(FILE);
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(directory)?;
            let mut text = serde_json::to_vec(self)?;
            text.push(b'\n');
            // Half a file after a crash would hide a mounted volume.
            let fresh = directory.join(format!(".{FILE}.new"));
            std::fs::write(&fresh, text)?;
            std::fs::rename(&fresh, &path)
        };
        write().map_err(|error| format!("failed to save volume data file {}: {error}", path.display()))
    }

    pub(in crate::volumes) fn load(directory: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(directory.join(FILE))?)?)
    }

    pub(super) fn remove(directory: &Path) -> io::Result<()> {
        match std::fs::remove_file(directory.join(FILE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn hash(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Handle of a volume that is written into a pod.
pub(super) fn inline_handle(uid: &str, name: &str) -> String {
    format!("csi-{}", hash(&format!("{uid}{name}")))
}

/// Name of the VolumeAttachment that brings a volume to a node.
pub(in crate::volumes) fn attachment(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hash(&format!("{handle}{driver}{node}")))
}

/// `<root>/plugins/kubernetes.io/csi`.
pub(in crate::volumes) fn plugin_dir(root: &Path) -> PathBuf {
    root.join("plugins/kubernetes.io/csi")
}

/// Where a volume is staged, once per node.
pub(in crate::volumes) fn staging(root: &Path, driver: &str, handle: &str) -> PathBuf {
    plugin_dir(root).join(driver).join(hash(handle)).join("globalmount")
}

/// Directories of block volumes, below `plugin_dir/volumeDevices`.
pub(super) struct BlockPlaces {
    pub(super) staging: PathBuf,
    pub(super) publish: PathBuf,
    pub(super) data: PathBuf,
    /// Where the device of each pod is bound.
    pub(super) devices: PathBuf,
}

pub(in crate::volumes) fn block_dir(root: &Path) -> PathBuf {
    plugin_dir(root).join("volumeDevices")
}

pub(super) fn block_places(root: &Path, name: &str) -> BlockPlaces {
    let base = block_dir(root);
    BlockPlaces {
        staging: base.join("staging").join(name),
        publish: base.join("publish").join(name),
        data: base.join(name).join("data"),
        devices: base.join(name).join("dev"),
    }
}

/// Where `vol_data.json` of a block volume lies.
pub(in crate::volumes) fn block_data(root: &Path, name: &str) -> PathBuf {
    block_places(root, name).data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams() {
        // sha256("abc"), as any tool prints it.
        assert_eq!(hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(attachment("a", "b", "c"), format!("csi-{}", hash("abc")));
        assert_eq!(inline_handle("ab", "c"), attachment("a", "b", "c"));
        let path = staging(Path::new("/k"), "d", "abc");
        assert_eq!(path, PathBuf::from(format!("/k/plugins/kubernetes.io/csi/d/{}/globalmount", hash("abc"))));
    }

    #[test]
    fn the_file_is_upstreams() {
        let directory = tempfile::tempdir().unwrap();
        let data = VolumeData { driver: "d".into(), handle: "h".into(), name: "pv".into(), ..VolumeData::default() };
        data.save(directory.path()).unwrap();
        let text = std::fs::read_to_string(directory.path().join("vol_data.json")).unwrap();
        assert_eq!(text, "{\"driverName\":\"d\",\"specVolID\":\"pv\",\"volumeHandle\":\"h\"}\n");
        assert_eq!(VolumeData::load(directory.path()).unwrap(), data);
        let upstream = r#"{"attachmentID":"csi-1","driverName":"d","nodeName":"n","specVolID":"pv","volumeHandle":"h","volumeLifecycleMode":"Persistent"}"#;
        std::fs::write(directory.path().join("vol_data.json"), upstream).unwrap();
        let read = VolumeData::load(directory.path()).unwrap();
        assert_eq!((read.attachment.as_str(), read.mode.as_str()), ("csi-1", "Persistent"));
        std::fs::write(directory.path().join("vol_data.json"), "{\"driv").unwrap();
        assert!(VolumeData::load(directory.path()).is_err());
    }
}
