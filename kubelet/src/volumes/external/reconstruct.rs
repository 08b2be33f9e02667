//! After a restart: what the disk says is mounted. It is taken over, not mounted again from nothing, and taken down when
//! no pod wants it.

use std::path::{Path, PathBuf};

use super::{External, Kind};
use crate::config::Config;
use crate::shared::Kubelet;
use crate::volumes::csi::{self, data};

/// Something that was found.
struct Found {
    volume: External,
    attachable: bool,
    uid: Option<String>,
}

/// Puts on the books what the disk has. Called before any pod is looked at.
pub(crate) fn reconstruct(kubelet: &Kubelet) {
    let mut found = Vec::new();
    for pod in entries(&kubelet.config.root_dir.join("pods")) {
        let uid = name_of(&pod);
        of_pod(&kubelet.config, &uid, &mut found);
    }
    staged(&kubelet.config.root_dir, &mut found);
    if !found.is_empty() {
        tracing::info!(volumes = found.len(), "found volumes of an earlier run");
    }
    let mut book = kubelet.volumes.book.lock();
    for Found { volume, attachable, uid } in found {
        book.found(volume, attachable, uid.as_deref());
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn external(unique: String, name: String, kind: Kind, block: bool) -> External {
    External {
        unique,
        name,
        kind,
        block,
        read_only: false,
        mount_options: Vec::new(),
        access_modes: Vec::new(),
        claim: None,
    }
}

fn of_pod(config: &Config, uid: &str, found: &mut Vec<Found>) {
    let directory = config.pod_dir(uid);
    let of = |part: &str, plugin: &str| entries(&directory.join(part).join(format!("kubernetes.io~{plugin}")));
    let mut add = |volume: External, attachable: bool| {
        found.push(Found { volume, attachable, uid: Some(uid.to_owned()) });
    };
    for path in of("volumes", "csi") {
        match data::VolumeData::load(&path) {
            Ok(facts) => {
                let attachable = facts.mode != "Ephemeral";
                add(from_data(facts, uid, &name_of(&path), false), attachable);
            }
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot read what is mounted here; its data file is missing or broken");
            }
        }
    }
    for path in of("volumeDevices", "csi") {
        let name = name_of(&path);
        match data::VolumeData::load(&data::block_data(&config.root_dir, &name)) {
            Ok(facts) => add(from_data(facts, uid, &name, true), true),
            Err(error) => tracing::error!(path = %path.display(), %error, "cannot read which device this is"),
        }
    }
    for (part, block) in [("volumes", false), ("volumeDevices", true)] {
        for path in of(part, "local-volume") {
            let name = name_of(&path);
            let kind = Kind::Local { path: PathBuf::new(), fs_type: String::new() };
            add(external(format!("kubernetes.io/local-volume/{name}"), name, kind, block), false);
        }
    }
    for path in of("volumes", "nfs") {
        let name = name_of(&path);
        add(external(format!("kubernetes.io/nfs/{uid}-{name}"), name, Kind::Nfs(String::new()), false), false);
    }
}

fn from_data(facts: data::VolumeData, uid: &str, name: &str, block: bool) -> External {
    let ephemeral = facts.mode == "Ephemeral";
    let name = if facts.name.is_empty() { name.to_owned() } else { facts.name };
    let unique = match ephemeral {
        true => format!("kubernetes.io/csi/{uid}-{name}"),
        false => format!("kubernetes.io/csi/{}^{}", facts.driver, facts.handle),
    };
    let source = csi::Volume { driver: facts.driver, handle: facts.handle, ephemeral, ..csi::Volume::default() };
    external(unique, name, Kind::Csi(Box::new(source)), block)
}

/// Volumes that are staged, whether a pod has them or not.
fn staged(root: &Path, found: &mut Vec<Found>) {
    let plugin = data::plugin_dir(root);
    let blocks = data::block_dir(root);
    for driver in entries(&plugin).into_iter().filter(|path| *path != blocks) {
        for directory in entries(&driver) {
            let Ok(facts) = data::VolumeData::load(&directory) else { continue };
            found.push(Found { volume: from_data(facts, "", "", false), attachable: true, uid: None });
        }
    }
    for directory in entries(&blocks) {
        let name = name_of(&directory);
        let Ok(facts) = data::VolumeData::load(&directory.join("data")) else { continue };
        found.push(Found { volume: from_data(facts, "", &name, true), attachable: true, uid: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_files_name_volumes() {
        let facts = data::VolumeData { driver: "d".into(), handle: "h".into(), ..Default::default() };
        assert_eq!(from_data(facts.clone(), "u", "pv", false).unique, "kubernetes.io/csi/d^h");
        let inline = data::VolumeData { mode: "Ephemeral".into(), name: "v".into(), ..facts };
        assert_eq!(from_data(inline, "u", "x", false).unique, "kubernetes.io/csi/u-v");
    }

    #[test]
    fn staged_volumes_are_found() {
        let root = tempfile::tempdir().unwrap();
        let facts = |handle: &str| data::VolumeData { driver: "d".into(), handle: handle.into(), ..Default::default() };
        facts("h").save(data::staging(root.path(), "d", "h").parent().unwrap()).unwrap();
        facts("b").save(&data::block_data(root.path(), "pv-b")).unwrap();
        std::fs::create_dir_all(data::staging(root.path(), "d", "broken")).unwrap();
        let mut found = Vec::new();
        staged(root.path(), &mut found);
        let mut names: Vec<_> = found.iter().map(|found| (found.volume.unique.clone(), found.volume.block)).collect();
        names.sort();
        assert_eq!(names, [("kubernetes.io/csi/d^b".into(), true), ("kubernetes.io/csi/d^h".into(), false)]);
    }
}
