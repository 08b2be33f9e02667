//! Which claims are prepared for which pods, in upstream's checkpoint `dra_manager_state`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::bail;
use serde::{Deserialize, Serialize};

use super::wire::Claim;
use crate::placement::checkpoint;

/// A device as its driver described it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Device {
    pub(super) pool_name: String,
    pub(super) device_name: String,
    #[serde(rename = "ShareID")]
    pub(super) share_id: Option<String>,
    pub(super) request_names: Option<Vec<String>>,
    #[serde(rename = "CDIDeviceIDs")]
    pub(super) cdi_ids: Option<Vec<String>>,
}

impl Device {
    /// Whether it was allocated for the request, or for one of its alternatives (`request/alternative`).
    fn serves(&self, request: &str) -> bool {
        let main = |name: &String| name.split('/').next().unwrap_or_default() == request;
        request.is_empty() || self.request_names.as_ref().is_none_or(|names| names.is_empty() || names.iter().any(main))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Driver {
    pub(super) devices: Option<Vec<Device>>,
}

/// A claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Info {
    #[serde(rename = "ClaimUID")]
    pub(super) uid: String,
    #[serde(rename = "ClaimName")]
    pub(super) name: String,
    pub(super) namespace: String,
    /// A Go set: keys with empty values.
    #[serde(rename = "PodUIDs", with = "go_set")]
    pub(super) pods: BTreeSet<String>,
    #[serde(rename = "DriverState")]
    pub(super) drivers: BTreeMap<String, Driver>,
    /// Drivers have been asked since this kubelet started. They are asked again after a restart, which changes nothing.
    #[serde(skip)]
    pub(super) prepared: bool,
}

mod go_set {
    use std::collections::{BTreeMap, BTreeSet};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Empty {}

    pub(super) fn serialize<S: Serializer>(set: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(set.iter().map(|key| (key, Empty {})))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
        let map: Option<BTreeMap<String, Empty>> = Option::deserialize(deserializer)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

impl Info {
    pub(super) fn claim(&self) -> Claim {
        Claim { namespace: self.namespace.clone(), uid: self.uid.clone(), name: self.name.clone() }
    }

    /// Devices that serve a request, with their drivers; an empty request is the whole claim.
    pub(super) fn devices(&self, request: &str) -> impl Iterator<Item = (&String, &Device)> {
        let all =
            self.drivers.iter().flat_map(|(name, driver)| driver.devices.iter().flatten().map(move |d| (name, d)));
        all.filter(move |(_, device)| device.serves(request))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: String,
    checksum: u32,
}

#[derive(Serialize, Deserialize)]
struct Data {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
    #[serde(rename = "ClaimInfoStateList")]
    claims: Option<Vec<Info>>,
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// Claims by namespace and name.
pub(super) type Infos = BTreeMap<(String, String), Info>;

/// What the last kubelet left.
pub(super) fn load(path: &Path) -> anyhow::Result<Infos> {
    let Some(file) = checkpoint::load::<File>(path)? else { return Ok(Infos::new()) };
    if crc32(file.data.as_bytes()) != file.checksum {
        bail!("could not restore claims from {}: checkpoint is corrupted", path.display());
    }
    let data: Data = serde_json::from_str(&file.data)?;
    let claims = data.claims.into_iter().flatten();
    Ok(claims.map(|info| ((info.namespace.clone(), info.name.clone()), info)).collect())
}

/// Replaces the checkpoint.
pub(super) fn save(path: &Path, claims: &Infos) -> anyhow::Result<()> {
    let data = Data {
        kind: "DRACheckpoint".into(),
        api_version: "checkpoint.dra.kubelet.k8s.io/v1".into(),
        claims: Some(claims.values().cloned().collect()),
    };
    let data = serde_json::to_string(&data)?;
    checkpoint::save(path, &File { checksum: crc32(data.as_bytes()), data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_known_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dra_manager_state");
        assert!(load(&path).unwrap().is_empty());
        let device = |name: &str, requests: &[&str]| Device {
            pool_name: "p".into(),
            device_name: name.into(),
            share_id: None,
            request_names: Some(requests.iter().map(|name| (*name).to_owned()).collect()),
            cdi_ids: Some(vec![format!("example.com/device={name}")]),
        };
        let driver = Driver { devices: Some(vec![device("a", &["one"]), device("b", &["two/big"]), device("c", &[])]) };
        let info = Info {
            uid: "u".into(),
            name: "c".into(),
            namespace: "ns".into(),
            pods: ["pod".to_owned()].into(),
            drivers: [("example.com".to_owned(), driver)].into(),
            prepared: false,
        };
        let names = |request: &str| -> Vec<String> {
            info.devices(request).map(|(_, device)| device.device_name.clone()).collect()
        };
        assert_eq!(names(""), ["a", "b", "c"]);
        assert_eq!(names("one"), ["a", "c"]);
        assert_eq!(names("two"), ["b", "c"]);
        let claims = Infos::from([(("ns".to_owned(), "c".to_owned()), info.clone())]);
        save(&path, &claims).unwrap();
        assert_eq!(load(&path).unwrap(), claims);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#"\"PodUIDs\":{\"pod\":{}}"#), "{text}");
        std::fs::write(&path, text.replace("example.com", "example.org")).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("corrupted"));
    }
}
