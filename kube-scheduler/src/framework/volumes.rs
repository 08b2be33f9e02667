//! What scheduling needs to know of a pod's volumes: claims, disks that few may share, drivers.

use k8s_openapi::api::core::v1::{PodSpec, Volume};
use serde::Serialize;

/// A claim that a pod mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Claim {
    /// By its name.
    Named(String),
    /// Made from the pod for a generic ephemeral volume of this name.
    Generated(String),
}

/// A disk of which pods on one node may conflict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Disk {
    /// A GCE persistent disk.
    Gce(String, bool),
    /// An EBS volume.
    Ebs(String),
    /// An iSCSI target, and whether it is only read.
    Iscsi(String, bool),
    /// A Ceph image: monitors, pool, image, and whether it is only read.
    Rbd(Vec<String>, String, String, bool),
}

impl Disk {
    fn of(volume: &Volume) -> Option<Self> {
        if let Some(disk) = &volume.gce_persistent_disk {
            return Some(Self::Gce(disk.pd_name.clone(), disk.read_only == Some(true)));
        }
        if let Some(disk) = &volume.aws_elastic_block_store {
            return Some(Self::Ebs(disk.volume_id.clone()));
        }
        if let Some(disk) = &volume.iscsi {
            return Some(Self::Iscsi(disk.iqn.clone(), disk.read_only == Some(true)));
        }
        volume.rbd.as_ref().map(|disk| {
            let pool = disk.pool.clone().unwrap_or_default();
            Self::Rbd(disk.monitors.clone(), pool, disk.image.clone(), disk.read_only == Some(true))
        })
    }

    /// Whether two pods with these disks cannot share a node.
    pub fn conflicts(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Gce(a, a_read), Self::Gce(b, b_read)) | (Self::Iscsi(a, a_read), Self::Iscsi(b, b_read)) => {
                a == b && !(*a_read && *b_read)
            }
            (Self::Ebs(a), Self::Ebs(b)) => a == b,
            (Self::Rbd(monitors, pool, image, read), Self::Rbd(others, other_pool, other_image, other_read)) => {
                monitors.iter().any(|monitor| others.contains(monitor))
                    && (pool, image) == (other_pool, other_image)
                    && !(*read && *other_read)
            }
            _ => false,
        }
    }
}

/// A volume on a node as its driver counts it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DriverVolume {
    /// CSI driver.
    pub driver: String,
    /// Unique per driver.
    pub handle: String,
    /// Whether it was declared in the words of a former in-tree plugin: counted only where a CSINode exists.
    pub migrated: bool,
}

impl DriverVolume {
    fn migrated(driver: &str, handle: String) -> Self {
        Self { driver: driver.to_owned(), handle, migrated: true }
    }

    /// An EBS volume, named `vol-...` or `aws://<zone>/vol-...`.
    pub fn ebs(id: &str) -> Self {
        Self::migrated("ebs.csi.aws.com", id.rsplit('/').next().unwrap_or(id).to_owned())
    }

    /// A GCE disk in a zone, or of no known zone.
    pub fn gce(disk: &str, zone: Option<&str>) -> Self {
        let zone = zone.unwrap_or("UNSPECIFIED");
        Self::migrated("pd.csi.storage.gke.io", format!("projects/UNSPECIFIED/zones/{zone}/disks/{disk}"))
    }

    /// An Azure disk.
    pub fn azure(uri: &str) -> Self {
        Self::migrated("disk.csi.azure.com", uri.to_owned())
    }

    /// A Cinder volume.
    pub fn cinder(id: &str) -> Self {
        Self::migrated("cinder.csi.openstack.org", id.to_owned())
    }

    /// A Portworx volume.
    pub fn portworx(id: &str) -> Self {
        Self::migrated("pxd.portworx.com", id.to_owned())
    }

    fn inline(volume: &Volume) -> Option<Self> {
        if let Some(disk) = &volume.aws_elastic_block_store {
            return Some(Self::ebs(&disk.volume_id));
        }
        if let Some(disk) = &volume.gce_persistent_disk {
            return Some(Self::gce(&disk.pd_name, None));
        }
        if let Some(disk) = &volume.azure_disk {
            return Some(Self::azure(&disk.disk_uri));
        }
        if let Some(disk) = &volume.cinder {
            return Some(Self::cinder(&disk.volume_id));
        }
        volume.portworx_volume.as_ref().map(|disk| Self::portworx(&disk.volume_id))
    }
}

/// The CSI driver that took over a former in-tree provisioner.
pub fn successor(provisioner: &str) -> Option<&'static str> {
    Some(match provisioner {
        "kubernetes.io/aws-ebs" => "ebs.csi.aws.com",
        "kubernetes.io/gce-pd" => "pd.csi.storage.gke.io",
        "kubernetes.io/azure-disk" => "disk.csi.azure.com",
        "kubernetes.io/cinder" => "cinder.csi.openstack.org",
        "kubernetes.io/portworx-volume" => "pxd.portworx.com",
        _ => return None,
    })
}

/// A pod's volumes, as far as its template knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Volumes {
    /// Claims, in the order of spec.volumes.
    pub claims: Vec<Claim>,
    /// Disks that few may share.
    pub disks: Vec<Disk>,
    /// Volumes of former in-tree plugins without a claim.
    pub inline: Vec<DriverVolume>,
    /// Drivers of inline CSI volumes.
    pub inline_drivers: Vec<String>,
}

impl Volumes {
    /// Of a pod's spec.
    pub fn of(spec: &PodSpec) -> Self {
        let volumes = || spec.volumes.iter().flatten();
        let claim = |volume: &Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(claim), _) => Some(Claim::Named(claim.claim_name.clone())),
            (None, Some(_)) => Some(Claim::Generated(volume.name.clone())),
            (None, None) => None,
        };
        Self {
            claims: volumes().filter_map(claim).collect(),
            disks: volumes().filter_map(Disk::of).collect(),
            inline: volumes().filter_map(DriverVolume::inline).collect(),
            inline_drivers: volumes().filter_map(|volume| Some(volume.csi.as_ref()?.driver.clone())).collect(),
        }
    }

    /// Whether a volume matters to any decision (many are the pod's own token, under a name of its own).
    pub fn matters(volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some()
            || volume.ephemeral.is_some()
            || volume.csi.is_some()
            || volume.image.is_some()
            || Disk::of(volume).is_some()
            || DriverVolume::inline(volume).is_some()
    }

    /// Claims that are named in the spec.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.claims.iter().filter_map(|claim| match claim {
            Claim::Named(name) => Some(name.as_str()),
            Claim::Generated(_) => None,
        })
    }

    /// Whether a volume of the pod may be one that a CSI driver attaches.
    pub fn attachable(&self) -> bool {
        !self.claims.is_empty() || !self.inline.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volumes(list: Value) -> Volumes {
        Volumes::of(&serde_json::from_value(json!({"containers": [], "volumes": list})).unwrap())
    }

    #[test]
    fn claims_disks_and_drivers_are_read() {
        let read = volumes(json!([
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "ephemeral": {}},
            {"name": "c", "awsElasticBlockStore": {"volumeID": "aws://zone/vol-1"}},
            {"name": "d", "csi": {"driver": "d.example"}},
        ]));
        assert_eq!(read.claims, [Claim::Named("data".into()), Claim::Generated("b".into())]);
        assert_eq!(read.inline[0].handle, "vol-1");
        assert_eq!(read.inline_drivers, ["d.example"]);
        assert_eq!(read.named().collect::<Vec<_>>(), ["data"]);
    }

    #[test]
    fn disks_conflict_as_documented() {
        let rbd = |monitors: &[&str], read: bool| json!([{"name": "v", "rbd": {"monitors": monitors, "pool": "p", "image": "i", "readOnly": read}}]);
        let gce = |read: bool| json!([{"name": "v", "gcePersistentDisk": {"pdName": "d", "readOnly": read}}]);
        let iscsi = |iqn: &str| json!([{"name": "v", "iscsi": {"iqn": iqn, "lun": 0, "targetPortal": "x"}}]);
        let ebs = json!([{"name": "v", "awsElasticBlockStore": {"volumeID": "1", "readOnly": true}}]);
        for (a, b, expected) in [
            (gce(false), gce(true), true),
            (gce(true), gce(true), false),
            (ebs.clone(), ebs.clone(), true),
            (iscsi("a"), iscsi("a"), true),
            (iscsi("a"), iscsi("b"), false),
            (rbd(&["m1", "m2"], false), rbd(&["m2"], true), true),
            (rbd(&["m1"], false), rbd(&["m2"], false), false),
            (rbd(&["m1"], true), rbd(&["m1"], true), false),
            (gce(false), ebs, false),
        ] {
            assert_eq!(volumes(a.clone()).disks[0].conflicts(&volumes(b.clone()).disks[0]), expected, "{a} {b}");
        }
    }
}
