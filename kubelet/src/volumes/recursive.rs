//! Recursive read-only mounts: whether what is mounted below a read-only mount is read-only, too.

use k8s_openapi::api::core::v1::VolumeMount;

/// Whether the mount is to be so; `supported` by the pod's runtime handler.
pub(crate) fn resolve(mount: &VolumeMount, supported: bool) -> Result<bool, String> {
    let name = &mount.name;
    let mode = match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => return Ok(false),
        Some(mode) => mode,
    };
    if mount.read_only != Some(true) {
        return Err(format!("volume {name:?} requested recursive read-only mode, but it is not read-only"));
    }
    if let Some(propagation) = mount.mount_propagation.as_deref().filter(|propagation| *propagation != "None") {
        return Err(format!(
            "volume {name:?} requested recursive read-only mode, but it is not compatible with propagation {propagation:?}"
        ));
    }
    match mode {
        "IfPossible" => Ok(supported),
        "Enabled" if supported => Ok(true),
        "Enabled" => {
            Err(format!("volume {name:?} requested recursive read-only mode, but it is not supported by the runtime"))
        }
        other => Err(format!("unknown recursive read-only mode {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let mount = |read_only: bool, mode: &str, propagation: Option<&str>| VolumeMount {
            name: "v".into(),
            read_only: Some(read_only),
            recursive_read_only: Some(mode.into()),
            mount_propagation: propagation.map(str::to_owned),
            ..VolumeMount::default()
        };
        for (mode, supported, want) in [
            ("Disabled", true, Ok(false)),
            ("IfPossible", true, Ok(true)),
            ("IfPossible", false, Ok(false)),
            ("Enabled", true, Ok(true)),
        ] {
            assert_eq!(resolve(&mount(true, mode, Some("None")), supported), want, "{mode}");
        }
        assert!(resolve(&mount(true, "Enabled", None), false).unwrap_err().ends_with("not supported by the runtime"));
        assert!(resolve(&mount(false, "IfPossible", None), true).unwrap_err().ends_with("not read-only"));
        let with = mount(true, "IfPossible", Some("HostToContainer"));
        assert!(resolve(&with, true).unwrap_err().ends_with("propagation \"HostToContainer\""));
    }
}
