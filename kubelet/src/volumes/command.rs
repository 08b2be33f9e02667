//! Programs of the host that know more about file systems than the kubelet has to.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// Output beyond this is cut off.
const MAX_OUTPUT: usize = 16 * 1024;

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// -1 when a signal ended it.
    pub(super) code: i32,
    /// What it said, on either way.
    pub(super) output: String,
}

/// Runs a program to its end, or kills it when it takes too long.
pub(super) async fn run(program: &str, arguments: &[&str], patience: Duration) -> Result<Outcome, String> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C");
    let ended = tokio::time::timeout(patience, command.output())
        .await
        .map_err(|_| format!("{program} did not end within {patience:?}"))?
        .map_err(|error| format!("running {program}: {error}"))?;
    let mut output = String::from_utf8_lossy(&ended.stdout).into_owned();
    output.push_str(&String::from_utf8_lossy(&ended.stderr));
    let mut end = output.len().min(MAX_OUTPUT);
    while !output.is_char_boundary(end) {
        end -= 1;
    }
    output.truncate(end);
    Ok(Outcome { code: ended.status.code().unwrap_or(-1), output })
}

/// `mount`; an error reads as upstream's.
pub(super) async fn mount(
    source: &str,
    target: &Path,
    fs_type: &str,
    options: &[String],
    patience: Duration,
) -> Result<(), String> {
    let target = target.to_string_lossy();
    let options = options.join(",");
    let mut arguments = vec!["-t", fs_type];
    if !options.is_empty() {
        arguments.extend(["-o", &options]);
    }
    arguments.extend([source, &target]);
    let outcome = run("mount", &arguments, patience).await?;
    if outcome.code == 0 {
        return Ok(());
    }
    let Outcome { code, output } = outcome;
    let arguments = arguments.join(" ");
    Err(format!(
        "mount failed: exit status {code}\nMounting command: mount\nMounting arguments: {arguments}\nOutput: {output}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn programs_are_run_and_killed() {
        let patience = Duration::from_secs(60);
        let outcome = run("sh", &["-c", "echo a; echo b >&2; exit 3"], patience).await.unwrap();
        assert_eq!(outcome, Outcome { code: 3, output: "a\nb\n".into() });
        assert!(run("no-such-program", &[], patience).await.unwrap_err().starts_with("running no-such-program"));
        assert!(run("sleep", &["600"], Duration::from_millis(10)).await.unwrap_err().contains("did not end"));
    }

    #[tokio::test]
    async fn a_failed_mount_says_what_was_tried() {
        let target = Path::new("/no/such/place");
        let error = mount("h:/e", target, "nosuchfs", &["ro".into()], Duration::from_secs(60)).await.unwrap_err();
        assert!(error.contains("Mounting arguments: -t nosuchfs -o ro h:/e /no/such/place\n"), "{error}");
    }
}
