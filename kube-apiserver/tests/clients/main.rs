//! Upstream's clients against the server: kube-rs, kubectl, the official Python client and client-go. All but the first are
//! what `hack/install-tools.sh` brings; where one is not there its tests are skipped and say so, but not in CI.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod kube_rs;
mod kubectl;
mod programs;
#[path = "../api_server/support.rs"]
#[allow(dead_code, reason = "these tests need a part of it")]
mod support;

use std::path::{Path, PathBuf};

/// A program that `hack/install-tools.sh` brought.
fn tool(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../_output/tools").join(name);
    if !path.exists() {
        assert!(std::env::var_os("CI").is_none(), "no {name} in _output/tools, and CI skips nothing");
        eprintln!("skipped: no {name} in _output/tools");
    }
    path.exists().then_some(path)
}
