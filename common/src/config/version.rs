//! The version of Kubernetes that the daemons implement.

use k8s_openapi::apimachinery::pkg::version::Info;

/// The version as `--version`, `/version` and node status report it.
pub const GIT_VERSION: &str = "v1.36.1";
/// Major part of [`GIT_VERSION`].
pub const MAJOR: &str = "1";
/// Minor part of [`GIT_VERSION`].
pub const MINOR: &str = "36";

/// What `/version` answers.
pub fn info() -> Info {
    Info {
        build_date: "1970-01-01T00:00:00Z".into(),
        compiler: "rustc".into(),
        emulation_major: Some(MAJOR.into()),
        emulation_minor: Some(MINOR.into()),
        git_commit: "unknown".into(),
        git_tree_state: "clean".into(),
        git_version: GIT_VERSION.into(),
        go_version: "none".into(),
        major: MAJOR.into(),
        min_compatibility_major: Some(MAJOR.into()),
        min_compatibility_minor: Some("35".into()),
        minor: MINOR.into(),
        platform: platform(),
    }
}

/// `linux/amd64` in Go's words.
pub fn platform() -> String {
    format!("{}/{}", std::env::consts::OS, go_arch())
}

/// The architecture in Go's words (`amd64`, `arm64`).
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// `kube-scheduler/v1.36.1 (linux/amd64) corten`: how a daemon introduces itself to servers.
pub fn user_agent(component: &str) -> String {
    format!("{component}/{GIT_VERSION} ({}) corten", platform())
}
