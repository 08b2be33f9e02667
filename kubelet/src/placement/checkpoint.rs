//! Files of upstream's checkpoints: JSON with a checksum over Go's printed form of the same values.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// FNV-1a of a text: what the checkpoint's `checksum` holds.
pub(crate) fn checksum(text: &str) -> u64 {
    u64::from(text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)))
}

/// Go's print of a map whose keys and values are given, in the order of the keys.
pub(crate) fn go_map<K: std::fmt::Display>(entries: impl Iterator<Item = (K, String)>) -> String {
    let entries: Vec<String> = entries.map(|(key, value)| format!("{key}:{value}")).collect();
    format!("map[{}]", entries.join(" "))
}

/// Reads a checkpoint; `None` when there is none.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    serde_json::from_slice(&bytes).map(Some).with_context(|| {
        format!(
            "could not restore state from checkpoint: {} is corrupted, please drain this node and delete the checkpoint file before restarting Kubelet",
            path.display()
        )
    })
}

/// Replaces a checkpoint at once.
pub(crate) fn save<T: Serialize>(path: &Path, checkpoint: &T) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        serde_json::to_writer(&file, checkpoint)?;
        file.sync_data()?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("could not save checkpoint {}", path.display()))
}
