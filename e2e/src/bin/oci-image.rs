//! Writes an OCI image archive from programs of this machine, without a container daemon: `hack/build-images.sh` uses it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use e2e::image::{Image, is_static, write};

/// Writes an OCI image archive that `ctr images import`, skopeo and podman read.
#[derive(Debug, Parser)]
#[command(name = "oci-image")]
struct Cli {
    /// The image's full reference, e.g. corten.dev/kubelet:v1.36.
    #[arg(long)]
    reference: String,
    /// A statically linked program and its absolute path in the image: SRC=/path.
    #[arg(long = "file", value_name = "SRC=/PATH", value_parser = parse_file)]
    files: Vec<(PathBuf, String)>,
    /// A dynamically linked program and its absolute path in the image; the libraries that it needs come along.
    #[arg(long = "dynamic", value_name = "SRC=/PATH", value_parser = parse_file)]
    dynamic: Vec<(PathBuf, String)>,
    /// A file that is no program (a table, a certificate) and its absolute path in the image.
    #[arg(long = "data", value_name = "SRC=/PATH", value_parser = parse_file)]
    data: Vec<(PathBuf, String)>,
    /// A word of the entry point; repeat for more.
    #[arg(long, allow_hyphen_values = true)]
    entrypoint: Vec<String>,
    /// A word of the default arguments; repeat for more.
    #[arg(long, allow_hyphen_values = true)]
    cmd: Vec<String>,
    /// Numeric user and group, e.g. 65532:65532; root when absent.
    #[arg(long, default_value = "")]
    user: String,
    /// The archive to write.
    #[arg(long, value_name = "ARCHIVE")]
    output: PathBuf,
}

fn parse_file(text: &str) -> Result<(PathBuf, String), String> {
    match text.rsplit_once('=') {
        Some((source, target)) if !source.is_empty() && target.starts_with('/') && target.len() > 1 => {
            Ok((source.into(), target.to_owned()))
        }
        _ => Err("want SOURCE=/absolute/path/in/the/image".to_owned()),
    }
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    if cli.files.is_empty() && cli.dynamic.is_empty() {
        bail!("an image without a program is of no use: give --file SRC=/path or --dynamic SRC=/path");
    }
    for (program, _) in &cli.files {
        if !is_static(program)? {
            bail!("{} is not statically linked (hack/build.sh builds static programs)", program.display());
        }
    }
    let mut files = cli.files;
    let mut libraries = BTreeSet::new();
    for (program, target) in cli.dynamic {
        libraries.extend(needed(&program)?);
        files.push((program, target));
    }
    // The loader looks for libraries where the machine has them.
    files.extend(libraries.into_iter().map(|path| (PathBuf::from(&path), path)));
    files.extend(cli.data);
    let image = Image {
        reference: cli.reference,
        files,
        links: Vec::new(),
        entrypoint: cli.entrypoint,
        command: cli.cmd,
        user: cli.user,
    };
    write(&image, &cli.output)
}

/// The loader and libraries of a dynamic program, as absolute paths.
fn needed(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().context("running ldd")?;
    if !output.status.success() {
        bail!("ldd {}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    paths(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("libraries of {}", program.display()))
}

/// Reads what ldd prints: `libc.so.6 => /lib/libc.so.6 (0x...)`, `/lib64/ld-linux.so.2 (0x...)`, and the kernel's own.
fn paths(text: &str) -> Result<Vec<String>> {
    let mut paths = Vec::new();
    for line in text.lines() {
        if line.contains("not found") {
            bail!("{} is missing on this machine", line.trim());
        }
        paths.extend(line.split_whitespace().find(|word| word.starts_with('/')).map(str::to_owned));
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_need_an_absolute_target() {
        assert_eq!(parse_file("a=b=/bin/c").unwrap(), ("a=b".into(), "/bin/c".into()));
        for wrong in ["a", "a=b", "=/b", "a=/"] {
            assert!(parse_file(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let text =
            "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld-linux-x86-64.so.2 (0x3)\n";
        assert_eq!(paths(text).unwrap(), ["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(paths("\tlibx.so => not found\n").is_err());
    }
}
