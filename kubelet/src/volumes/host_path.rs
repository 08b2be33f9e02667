//! hostPath: checks (and makes) what the volume's type promises.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::HostPathVolumeSource;

/// Checks the path against its type.
pub(super) fn check(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    if source.path.split('/').any(|part| part == "..") {
        return Err(format!("hostPath {:?} must not contain '..'", source.path));
    }
    let kind = source.type_.as_deref().unwrap_or_default();
    match kind {
        "" => return Ok(()),
        "DirectoryOrCreate" if !path.exists() => {
            std::fs::create_dir_all(path).map_err(|error| format!("making {}: {error}", source.path))?;
            return std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
                .map_err(|error| format!("chmod {}: {error}", source.path));
        }
        "FileOrCreate" if !path.exists() => {
            return std::fs::write(path, b"")
                .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)))
                .map_err(|error| format!("making {}: {error}", source.path));
        }
        _ => {}
    }
    let found = std::fs::metadata(path).map(|metadata| metadata.file_type());
    let (good, name) = match kind {
        "Directory" | "DirectoryOrCreate" => (found.is_ok_and(|t| t.is_dir()), "directory"),
        "File" | "FileOrCreate" => (found.is_ok_and(|t| t.is_file()), "file"),
        "Socket" => (found.is_ok_and(|t| t.is_socket()), "socket file"),
        "CharDevice" => (found.is_ok_and(|t| t.is_char_device()), "character device"),
        "BlockDevice" => (found.is_ok_and(|t| t.is_block_device()), "block device"),
        other => return Err(format!("hostPath type check failed: unknown type {other:?}")),
    };
    if good { Ok(()) } else { Err(format!("hostPath type check failed: {} is not a {name}", source.path)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str, kind: &str| {
            let path = directory.path().join(name).to_string_lossy().into_owned();
            check(&HostPathVolumeSource { path, type_: Some(kind.into()) })
        };
        assert!(at("d", "Directory").is_err());
        assert!(at("d", "DirectoryOrCreate").is_ok());
        assert!(at("d", "Directory").is_ok());
        assert!(at("d", "File").expect_err("is a directory").ends_with("is not a file"));
        assert!(at("f", "FileOrCreate").is_ok() && at("f", "File").is_ok());
        assert!(at("none", "").is_ok());
    }
}
