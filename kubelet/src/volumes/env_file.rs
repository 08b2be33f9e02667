//! Environment variables from a file in a volume (`fileKeyRef`): lines of `NAME='value'`, a value may span lines.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// Longer files are refused.
const MAX_FILE: u64 = 1 << 20;

/// The value of `key` in a file; nothing when it is not there. Links lead nowhere outside the volume.
pub(super) fn read(root: &Path, path: &str, key: &str) -> Result<Option<String>, String> {
    let couldnt = |error: String| {
        tracing::warn!(path, error, "Failed to parse env file");
        "couldn't parse env file".to_owned()
    };
    let text = contents(root, path).map_err(|error| couldnt(error.to_string()))?;
    parse(&text, key).map_err(couldnt)
}

fn contents(root: &Path, path: &str) -> std::io::Result<String> {
    let root = File::open(root)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let file = File::from(openat2(&root, path, how)?);
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    match u64::try_from(text.len()) {
        Ok(length) if length <= MAX_FILE => Ok(text),
        _ => Err(std::io::Error::other("the file is too large")),
    }
}

/// Upstream's syntax and its errors. The file is read only as far as the key.
fn parse(text: &str, key: &str) -> Result<Option<String>, String> {
    let blank = [' ', '\t'];
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    while let Some((number, line)) = lines.next() {
        let wrong = |what: &str| Err(format!("invalid environment variable format at line {number}: {what}"));
        let line = line.trim_start_matches(blank);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { return wrong("missing '='") };
        if name.trim_end_matches(blank).is_empty() {
            return wrong("empty variable name");
        }
        if name.ends_with(blank) {
            return wrong("whitespace before '=' is not allowed");
        }
        if value.starts_with(blank) {
            if name == key {
                return Ok(None);
            }
            continue;
        }
        let Some(rest) = value.strip_prefix('\'') else { return wrong("value must be enclosed in single quotes") };
        let (mut found, mut rest) = (String::new(), rest);
        let after = loop {
            if let Some((last, after)) = rest.split_once('\'') {
                found.push_str(last);
                break after.trim_start_matches(blank);
            }
            found.push_str(rest);
            found.push('\n');
            let Some((_, next)) = lines.next() else {
                return Err(format!(
                    "invalid environment variable format starting at line {number}: unclosed single quote"
                ));
            };
            rest = next;
        };
        if !after.is_empty() && !after.starts_with('#') {
            return wrong("unexpected content after closing quote");
        }
        if name == key {
            return Ok(Some(found).filter(|found| !found.is_empty()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_upstream_reads_them() {
        let good = "# comment\n\n  A='1'\nB='two\nlines' # more\nC= '3'\nD=''\n";
        for (key, want) in [("A", Some("1")), ("B", Some("two\nlines")), ("C", None), ("D", None), ("E", None)] {
            assert_eq!(parse(good, key), Ok(want.map(str::to_owned)), "{key}");
        }
        for (text, want) in [
            ("A", "missing '='"),
            ("='1'", "empty variable name"),
            ("A ='1'", "whitespace before '=' is not allowed"),
            ("A=1", "value must be enclosed in single quotes"),
            ("A='1' x", "unexpected content after closing quote"),
            ("A='1\n", "unclosed single quote"),
        ] {
            assert!(parse(text, "Z").unwrap_err().ends_with(want), "{text}");
        }
    }

    #[test]
    fn links_stay_inside_the_volume() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("outside"), "A='no'").unwrap();
        let root = directory.path().join("volume");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join("inside"), "A='yes'").unwrap();
        std::os::unix::fs::symlink("/inside", root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../outside", root.join("up")).unwrap();
        assert_eq!(read(&root, "absolute", "A"), Ok(Some("yes".into())));
        assert!(read(&root, "up", "A").is_err());
        assert!(read(&root, "../outside", "A").is_err());
        assert!(read(&root, ".", "A").is_err());
    }
}
