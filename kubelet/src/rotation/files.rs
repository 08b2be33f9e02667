//! What becomes of the files of one log: `0.log` is written, `0.log.<time>` was, `0.log.<time>.gz` was before that.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

const COMPRESSED: &str = ".gz";
const TEMPORARY: &str = ".tmp";

/// What to do with the rotated files of a log.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) remove: Vec<String>,
    pub(super) compress: Vec<String>,
}

/// Makes room for one more: of `max_files` two are the written and the next rotated one. Left-overs of an interrupted rotation go.
/// Pure.
pub(super) fn plan(mut files: Vec<String>, max_files: usize) -> Plan {
    files.sort();
    let is_left_over = |file: &String| {
        file.ends_with(TEMPORARY) || (!file.ends_with(COMPRESSED) && files.contains(&format!("{file}{COMPRESSED}")))
    };
    let (mut remove, mut keep): (Vec<String>, Vec<String>) = files.iter().cloned().partition(is_left_over);
    let excess = keep.len().saturating_sub(max_files.saturating_sub(2));
    remove.extend(keep.drain(..excess));
    let compress = keep.into_iter().filter(|file| !file.ends_with(COMPRESSED)).collect();
    Plan { remove, compress }
}

/// Names of a log's rotated files.
pub(crate) fn rotated(log: &Path) -> Vec<String> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(&prefix)).collect()
}

/// Carries a plan out and moves the log to `<log>.<time>`; answers where.
pub(super) fn rotate(log: &Path, max_files: usize, now: jiff::Timestamp) -> io::Result<PathBuf> {
    let Plan { remove, compress } = plan(rotated(log), max_files);
    for name in remove {
        fs::remove_file(log.with_file_name(name))?;
    }
    for name in compress {
        self::compress(&log.with_file_name(name))?;
    }
    let time = now.strftime("%Y%m%d-%H%M%S");
    let target = appended(log, &format!(".{time}"));
    fs::rename(log, &target)?;
    Ok(target)
}

fn appended(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}

/// A compressed file appears whole or not at all.
fn compress(path: &Path) -> io::Result<()> {
    let mut source = File::open(path)?;
    let temporary = appended(path, TEMPORARY);
    let mode = source.metadata()?.mode();
    let target = OpenOptions::new().write(true).create(true).truncate(true).mode(mode & 0o7777).open(&temporary)?;
    let mut encoder = GzEncoder::new(target, Compression::default());
    io::copy(&mut source, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::rename(&temporary, appended(path, COMPRESSED))?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn plans() {
        for (files, max, remove, compress) in [
            (&[][..], 5, &[][..], &[][..]),
            (&["0.log.3"], 5, &[], &["0.log.3"]),
            (&["0.log.3", "0.log.1.gz", "0.log.2.gz"], 5, &[], &["0.log.3"]),
            (&["0.log.4", "0.log.1.gz", "0.log.2.gz", "0.log.3.gz"], 5, &["0.log.1.gz"], &["0.log.4"]),
            (&["0.log.1", "0.log.1.gz", "0.log.2.tmp"], 5, &["0.log.1", "0.log.2.tmp"], &[]),
            (&["0.log.1", "0.log.2.gz"], 2, &["0.log.1", "0.log.2.gz"], &[]),
        ] {
            let want = Plan { remove: names(remove), compress: names(compress) };
            assert_eq!(plan(names(files), max), want, "{files:?}");
        }
    }

    #[test]
    fn a_log_moves_on() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("0.log");
        let other = directory.path().join("10.log.x");
        fs::write(&other, "another container's").unwrap();
        let mut now = jiff::Timestamp::UNIX_EPOCH;
        for round in ["one", "two", "three", "four"] {
            fs::write(&log, round).unwrap();
            rotate(&log, 4, now).unwrap();
            now += std::time::Duration::from_secs(1);
        }
        let mut left = rotated(&log);
        left.sort();
        assert_eq!(left, ["0.log.19700101-000001.gz", "0.log.19700101-000002.gz", "0.log.19700101-000003"]);
        let mut text = String::new();
        let compressed = File::open(log.with_file_name(&left[1])).unwrap();
        flate2::read::GzDecoder::new(compressed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "three");
        assert_eq!(fs::read_to_string(log.with_file_name(&left[2])).unwrap(), "four");
        assert!(other.exists() && !log.exists());
    }
}
