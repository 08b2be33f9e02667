//! Parsers of bytes from outside, each as a function of any bytes that must not panic and keeps what it promises. The targets of
//! `fuzz/` call them, and a bounded property test below, so that every run of the tests covers them a little.

use std::path::Path;

use crate::pods::{dns, messages, spec, static_source};
use crate::server::fuzzing as server;
use crate::{cgroups, images, stats};

/// A parser, given any bytes.
pub type Target = fn(&[u8]);

/// All parsers by the names of their fuzz targets.
pub const TARGETS: &[(&str, Target)] = &[
    ("static_pod", static_pod),
    ("container_log", container_log),
    ("log_query", log_query),
    ("cgroup_files", cgroup_files),
    ("host_files", host_files),
    ("pull_secret", pull_secret),
];

/// A manifest of a static pod: what is accepted is a pod of this node that can be written again.
pub fn static_pod(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(pod) = static_source::decode(text, "/manifests/web.yaml", "n1") {
        assert!(spec::is_static(&pod) && spec::name(&pod).ends_with("-n1"));
        assert!(serde_json::to_vec(&pod).is_ok());
    }
}

/// A container's log file: never more comes out than was asked for.
pub fn container_log(bytes: &[u8]) {
    let limit = bytes.first().map_or(0, |byte| u64::from(*byte));
    for query in [String::new(), "timestamps=true".to_owned(), format!("limitBytes={}&timestamps=true", limit + 1)] {
        let shown = server::show_log(bytes, &query);
        assert!(!query.starts_with("limit") || shown.len() as u64 <= limit + 1);
    }
    let _ = messages::last_lines(&String::from_utf8_lossy(bytes));
}

/// Path and query of a request.
pub fn log_query(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (path, query) = text.split_once('?').unwrap_or((&text, ""));
    server::request(path, query);
}

/// `memory.stat`, `cpu.stat` and the table of mounts.
pub fn cgroup_files(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for key in ["usage_usec", "inactive_file", ""] {
        let _ = stats::field(&text, key);
    }
    cgroups::parse_mounts(&text);
}

/// `resolv.conf` of the host.
pub fn host_files(bytes: &[u8]) {
    let parsed = dns::parse_resolv_conf(&String::from_utf8_lossy(bytes));
    assert!(parsed.servers.iter().all(|server| !server.contains(char::is_whitespace)));
}

/// The payload of an image pull secret, of both kinds.
pub fn pull_secret(bytes: &[u8]) {
    images::parse_secret(bytes);
}

/// A directory's worth of seeds for each target: `(target, text)`.
pub const SEEDS: &[(&str, &str)] = &[
    (
        "static_pod",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers: [{name: c, image: 'a:1'}]\n",
    ),
    (
        "static_pod",
        "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"a\", \"uid\": \"u\"}, \"spec\": {\"containers\": []}}",
    ),
    (
        "container_log",
        "2026-01-01T00:00:01.5Z stdout F one\n2026-01-01T00:00:02.000000001Z stderr P tw\n2026-01-01T00:00:03+01:00 stderr F o\n",
    ),
    (
        "log_query",
        "/containerLogs/ns/p/c?follow=true&tailLines=3&sinceTime=2026-01-01T00:00:00Z&limitBytes=5&stream=Stderr",
    ),
    ("log_query", "/exec/ns/p/c?command=a%20b&command=+%zz&tty=1"),
    ("cgroup_files", "anon 1\ninactive_file 2\nusage_usec 18446744073709551615\n"),
    (
        "cgroup_files",
        "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
    ),
    ("host_files", "nameserver 1.1.1.1\nsearch a. b.\noptions ndots:5\n"),
    (
        "pull_secret",
        "{\"auths\": {\"https://index.docker.io/v1/\": {\"auth\": \"dTpw\"}, \"*.example\": {\"username\": \"u\"}}}",
    ),
];

/// Writes the seeds below a corpus directory, as cargo-fuzz wants them.
///
/// # Errors
/// When a file can't be written.
pub fn write_seeds(corpus: &Path) -> std::io::Result<()> {
    for (number, (target, text)) in SEEDS.iter().enumerate() {
        let directory = corpus.join(target);
        std::fs::create_dir_all(&directory)?;
        std::fs::write(directory.join(format!("seed-{number}")), text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) {
        for (_, target) in TARGETS {
            target(bytes);
        }
    }

    /// A seed with some bytes changed, taken away or put in.
    fn near_a_seed() -> impl Strategy<Value = Vec<u8>> {
        let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 0..8);
        (prop::sample::select(SEEDS), edits).prop_map(|((_, text), edits)| {
            let mut bytes = text.as_bytes().to_vec();
            for (index, byte, kind) in edits {
                let at = index.index(bytes.len() + 1).min(bytes.len());
                match kind {
                    0 if at < bytes.len() => bytes[at] = byte,
                    1 if at < bytes.len() => drop(bytes.remove(at)),
                    _ => bytes.insert(at, byte),
                }
            }
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            all(&bytes);
        }

        #[test]
        fn almost_right_bytes(bytes in near_a_seed()) {
            all(&bytes);
        }
    }

    #[test]
    fn seeds_and_what_was_found() {
        SEEDS.iter().for_each(|(_, text)| all(text.as_bytes()));
        // A time that can't be cut after its seconds.
        all("2026-01-01T00:00:0\u{e9}\u{e9} stdout F x\n".as_bytes());
    }

    #[test]
    fn seeds_are_written() {
        let directory = tempfile::tempdir().unwrap();
        write_seeds(directory.path()).unwrap();
        for (target, _) in TARGETS {
            assert!(std::fs::read_dir(directory.path().join(target)).unwrap().count() > 0, "{target} has no seed");
        }
    }
}
