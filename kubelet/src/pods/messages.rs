//! Termination messages: what an ended container wrote to its message file, or the tail of its log.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::runtime::{ContainerState, ContainerView, PodRuntime};

const MAX_MESSAGE: u64 = 4096;
const MAX_LOG_BYTES: usize = 2048;
const MAX_LOG_LINES: usize = 80;

/// Messages of ended containers, read once each.
#[derive(Default)]
pub(super) struct Messages(HashMap<String, String>);

impl Messages {
    pub(super) fn by_id(&self) -> &HashMap<String, String> {
        &self.0
    }

    /// Reads what is new; `ended` is told the id of each container found to have ended.
    pub(super) async fn collect(&mut self, runtime: &PodRuntime, ended: impl Fn(&str)) {
        self.0.retain(|id, _| runtime.containers.iter().any(|view| view.id == *id));
        for view in &runtime.containers {
            if view.state != ContainerState::Exited || self.0.contains_key(&view.id) {
                continue;
            }
            ended(&view.id);
            let view = view.clone();
            let id = view.id.clone();
            let message = tokio::task::spawn_blocking(move || read(&view)).await.unwrap_or_default();
            self.0.insert(id, message);
        }
    }
}

fn read(view: &ContainerView) -> String {
    let mut message = String::new();
    if let Some(path) = &view.termination_log
        && let Ok(file) = std::fs::File::open(path)
    {
        let mut bytes = Vec::new();
        if file.take(MAX_MESSAGE).read_to_end(&mut bytes).is_ok() {
            message = String::from_utf8_lossy(&bytes).into_owned();
        }
    }
    let fallback = view.annotations.termination_message_policy == "FallbackToLogsOnError" && view.exit_code != 0;
    if message.is_empty() && fallback {
        message = tail(Path::new(&view.log_path)).unwrap_or_default();
    }
    match (view.message.as_str(), message.is_empty()) {
        (own, true) => own.to_owned(),
        ("", false) => message,
        (own, false) => format!("{own}: {message}"),
    }
}

/// The last lines of a CRI log, without the CRI's prefix.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(64 * 1024)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(last_lines(&String::from_utf8_lossy(&bytes)))
}

pub(crate) fn last_lines(log: &str) -> String {
    let mut text = String::new();
    let lines: Vec<&str> = log.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(MAX_LOG_LINES)) {
        let mut fields = line.splitn(4, ' ');
        let (Some(_), Some(_), Some(tag), Some(content)) = (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        text.push_str(content);
        if tag.starts_with('F') {
            text.push('\n');
        }
    }
    let mut start = text.len().saturating_sub(MAX_LOG_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.split_off(start)
}

#[cfg(test)]
mod tests {
    #[test]
    fn log_tails_lose_their_prefix() {
        let log =
            "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00Z stderr P tw\n2026-01-01T00:00:00Z stderr F o\n";
        assert_eq!(super::last_lines(log), "one\ntwo\n");
    }
}
