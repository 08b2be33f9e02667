//! OCI image archives from static binaries, without a daemon: one layer, one configuration, one manifest in a tar file.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use crate::daemons::beside_this_program;

/// What an image holds.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// Full reference, e.g. `registry.k8s.io/pause:3.10.2`.
    pub reference: String,
    /// Files from this machine: where they are, and the absolute path that they get.
    pub files: Vec<(PathBuf, String)>,
    /// Symbolic links: absolute path and target.
    pub links: Vec<(String, String)>,
    /// The program that a container starts.
    pub entrypoint: Vec<String>,
    /// Its default arguments.
    pub command: Vec<String>,
    /// Numeric user, e.g. `65535:65535`; empty for root.
    pub user: String,
}

/// Directories that every image has, and their modes.
const DIRECTORIES: [(&str, u32); 8] = [
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nnonroot:x:65532:65532:nonroot:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nnobody:x:65534:\nnonroot:x:65532:\n";

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn add(tar: &mut Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, mode, content.len() as u64);
    tar.append_data(&mut header, path.trim_start_matches('/'), content).with_context(|| format!("adding {path}"))
}

fn layer(image: &Image) -> Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for (name, mode) in DIRECTORIES {
        tar.append_data(&mut header(EntryType::Directory, mode, 0), format!("{name}/"), std::io::empty())?;
    }
    add(&mut tar, "etc/passwd", 0o644, PASSWD.as_bytes())?;
    add(&mut tar, "etc/group", 0o644, GROUP.as_bytes())?;
    for (source, target) in &image.files {
        let content = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
        add(&mut tar, target, 0o755, &content)?;
    }
    for (path, target) in &image.links {
        tar.append_link(&mut header(EntryType::Symlink, 0o777, 0), path.trim_start_matches('/'), target)?;
    }
    Ok(tar.into_inner()?)
}

fn sha256(content: &[u8]) -> String {
    digest(&SHA256, content).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A blob's place in the archive, and its descriptor.
fn blob(tar: &mut Builder<Vec<u8>>, media_type: &str, content: &[u8]) -> Result<Value> {
    let digest = sha256(content);
    add(tar, &format!("blobs/sha256/{digest}"), 0o644, content)?;
    Ok(json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": content.len()}))
}

/// Writes the image as an OCI layout in a tar file, which `ctr images import`, skopeo and podman read. Equal input makes
/// equal bytes.
///
/// # Errors
/// When a file can't be read or the archive can't be written.
pub fn write(image: &Image, archive: &Path) -> Result<()> {
    let layer = layer(image)?;
    let mut tar = Builder::new(Vec::new());
    let layer_descriptor = blob(&mut tar, "application/vnd.oci.image.layer.v1.tar", &layer)?;
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {
            "User": image.user, "Entrypoint": image.entrypoint, "Cmd": image.command, "WorkingDir": "/",
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))]},
    });
    let config_descriptor = blob(&mut tar, "application/vnd.oci.image.config.v1+json", &serde_json::to_vec(&config)?)?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_descriptor, "layers": [layer_descriptor],
    });
    let mut descriptor = blob(&mut tar, "application/vnd.oci.image.manifest.v1+json", &serde_json::to_vec(&manifest)?)?;
    let tag = image.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    descriptor["annotations"] =
        json!({"io.containerd.image.name": image.reference, "org.opencontainers.image.ref.name": tag});
    let index =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [descriptor]});
    add(&mut tar, "index.json", 0o644, &serde_json::to_vec(&index)?)?;
    add(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    if let Some(parent) = archive.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file = File::create(archive).with_context(|| format!("creating {}", archive.display()))?;
    file.write_all(&tar.into_inner()?).with_context(|| format!("writing {}", archive.display()))
}

/// Whether a program needs no dynamic loader: its ELF program headers name no interpreter.
pub fn is_static(program: &Path) -> Result<bool> {
    let bytes = fs::read(program).with_context(|| format!("reading {}", program.display()))?;
    if bytes.get(..5) != Some(b"\x7fELF\x02".as_slice()) {
        bail!("{} is not a 64-bit ELF program", program.display());
    }
    let number = |at: usize, length: usize| -> Option<usize> {
        let mut word = [0; 8];
        word[..length].copy_from_slice(bytes.get(at..at + length)?);
        usize::try_from(u64::from_le_bytes(word)).ok()
    };
    let (start, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let (Some(start), Some(size), Some(count)) = (start, size, count) else {
        bail!("{} is cut off", program.display())
    };
    const INTERPRETER: usize = 3;
    Ok(!(0..count).any(|i| number(start + i * size, 4) == Some(INTERPRETER)))
}

/// busybox with a link for each of its programs.
fn busybox(program: &Path) -> Result<Image> {
    let list = crate::process::run(&[&program.display().to_string(), "--list"])?;
    let links =
        list.lines().filter(|name| *name != "busybox").map(|name| (format!("bin/{name}"), "busybox".to_owned()));
    Ok(Image {
        reference: "docker.io/library/busybox:1.36".into(),
        files: vec![(program.to_owned(), "bin/busybox".into())],
        links: links.collect(),
        command: vec!["sh".into()],
        ..Image::default()
    })
}

/// The images that the local cluster needs, written below `dir`: pause, busybox and, when asked for, cluster DNS.
pub(crate) fn standard(dir: &Path, dns: bool) -> Result<Vec<PathBuf>> {
    let programs = beside_this_program();
    let mut images = vec![
        Image {
            reference: "registry.k8s.io/pause:3.10.2".into(),
            files: vec![(programs.join("pause"), "pause".into())],
            entrypoint: vec!["/pause".into()],
            user: "65535:65535".into(),
            ..Image::default()
        },
        busybox(Path::new("/bin/busybox"))?,
    ];
    if dns {
        images.push(Image {
            reference: "corten.dev/cluster-dns:v1.36".into(),
            files: vec![(programs.join("cluster-dns"), "cluster-dns".into())],
            entrypoint: vec!["/cluster-dns".into()],
            ..Image::default()
        });
    }
    let mut archives = Vec::new();
    for image in images {
        for (program, _) in &image.files {
            if !is_static(program)? {
                bail!(
                    "{} is not statically linked, and an image holds nothing else: see hack/build.sh",
                    program.display()
                );
            }
        }
        let name = image.reference.rsplit('/').next().unwrap_or_default().replace(':', "-");
        let archive = dir.join(format!("{name}.tar"));
        write(&image, &archive)?;
        archives.push(archive);
    }
    Ok(archives)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_images_make_equal_archives() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        fs::write(&program, "x").unwrap();
        let image = Image {
            reference: "example.com/a:1".into(),
            files: vec![(program, "/bin/a".into())],
            links: vec![("/bin/b".into(), "a".into())],
            ..Image::default()
        };
        let (one, two) = (dir.path().join("one.tar"), dir.path().join("two.tar"));
        write(&image, &one).unwrap();
        write(&image, &two).unwrap();
        assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
        let mut archive = tar::Archive::new(File::open(&one).unwrap());
        let names: Vec<String> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().display().to_string()).collect();
        assert!(names.contains(&"index.json".to_owned()) && names.contains(&"oci-layout".to_owned()), "{names:?}");
        assert_eq!(names.iter().filter(|name| name.starts_with("blobs/sha256/")).count(), 3);
    }

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        assert!(!is_static(Path::new("/bin/ls")).unwrap());
        assert!(is_static(Path::new(file!())).is_err());
    }
}
