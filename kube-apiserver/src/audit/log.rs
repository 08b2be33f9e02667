//! `--audit-log-path`: a file that is rotated by size; old ones are numbered by time, compressed and removed.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::event::Event;

const MEGABYTE: u64 = 1024 * 1024;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `audit.k8s.io/v1` objects.
    Json,
    /// Lines for people.
    Legacy,
}

/// When a file is full, and what becomes of it then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Megabytes of a file; 0 for no rotation.
    pub max_size: u64,
    /// Days that an old one is kept; 0 for ever.
    pub max_age: u64,
    /// Old ones that are kept; 0 for all.
    pub max_backups: usize,
    /// Old ones are compressed.
    pub compress: bool,
}

/// A log of events.
pub struct Log {
    format: Format,
    out: Mutex<Out>,
}

enum Out {
    Stdout,
    File { path: PathBuf, file: File, size: u64, rotation: Rotation },
}

impl Log {
    /// Opens a log; `-` is standard output.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(path: &str, format: Format, rotation: Rotation) -> io::Result<Self> {
        let out = if path == "-" {
            Out::Stdout
        } else {
            let path = PathBuf::from(path);
            if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
                std::fs::create_dir_all(directory)?;
            }
            let file = append(&path)?;
            let size = file.metadata()?.len();
            Out::File { path, file, size, rotation }
        };
        Ok(Self { format, out: Mutex::new(out) })
    }

    /// Writes events, each as a line.
    ///
    /// # Errors
    /// An event cannot be written.
    pub fn write(&self, events: &[Event]) -> io::Result<()> {
        let mut out = self.out.lock();
        events.iter().try_for_each(|event| out.write(&self.line(event)?))
    }

    fn line(&self, event: &Event) -> io::Result<Vec<u8>> {
        let mut line = match self.format {
            Format::Legacy => event.legacy().into_bytes(),
            Format::Json => {
                let json = serde_json::to_string(event)?;
                let members = json.strip_prefix('{').unwrap_or_default();
                format!("{{\"kind\":\"Event\",\"apiVersion\":\"audit.k8s.io/v1\",{members}").into_bytes()
            }
        };
        line.push(b'\n');
        Ok(line)
    }
}

/// Only the server's user may read what others did.
fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

impl Out {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let Self::File { path, file, size, rotation } = self else { return io::stdout().lock().write_all(line) };
        let limit = rotation.max_size * MEGABYTE;
        if limit > 0 && *size > 0 && *size + line.len() as u64 > limit {
            std::fs::rename(&*path, backup_name(path, Timestamp::now()))?;
            (*file, *size) = (append(path)?, 0);
            let (path, rotation) = (path.clone(), *rotation);
            // Compression takes its time; the log must not wait for it.
            std::thread::Builder::new().name("audit-log-mill".to_owned()).spawn(move || {
                if let Err(error) = tidy(&path, rotation, Timestamp::now()) {
                    tracing::warn!(%error, "cannot tidy up old audit logs");
                }
            })?;
        }
        file.write_all(line)?;
        *size += line.len() as u64;
        Ok(())
    }
}

/// Name and extension of the log, between which backups have their time.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
    let extension = text(path.extension());
    (text(path.file_stem()), if extension.is_empty() { extension } else { format!(".{extension}") })
}

fn backup_name(path: &Path, now: Timestamp) -> PathBuf {
    let (stem, extension) = parts(path);
    path.with_file_name(format!("{stem}-{}{extension}", now.strftime("%Y-%m-%dT%H-%M-%S%.3f")))
}

/// The backups, newest first, with their times.
fn backups(path: &Path) -> io::Result<Vec<(Timestamp, PathBuf)>> {
    let (stem, extension) = parts(path);
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let plain = name.strip_suffix(".gz").unwrap_or(&name);
        let time = plain.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
        let parsed = time.and_then(|time| {
            let (date, time) = time.split_once('T')?;
            format!("{date}T{}Z", time.replacen('-', ":", 2)).parse::<Timestamp>().ok()
        });
        found.extend(parsed.map(|time| (time, entry.path())));
    }
    found.sort_by(|a, b| b.cmp(a));
    Ok(found)
}

fn tidy(path: &Path, rotation: Rotation, now: Timestamp) -> io::Result<()> {
    let oldest = Duration::from_secs(rotation.max_age.saturating_mul(DAY.as_secs()));
    for (index, (time, backup)) in backups(path)?.into_iter().enumerate() {
        let age = Duration::from_secs(u64::try_from(now.as_second() - time.as_second()).unwrap_or(0));
        let surplus = rotation.max_backups > 0 && index >= rotation.max_backups;
        if surplus || rotation.max_age > 0 && age > oldest {
            std::fs::remove_file(backup)?;
        } else if rotation.compress && backup.extension().is_none_or(|extension| extension != "gz") {
            compress(&backup)?;
        }
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(".gz");
    let (mut source, target) = (File::open(path)?, PathBuf::from(target));
    let mut encoder = flate2::write::GzEncoder::new(append(&target)?, flate2::Compression::default());
    io::copy(&mut source, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    std::fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_files_are_put_aside_and_old_ones_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/audit.log");
        let rotation = Rotation { max_size: 1, max_backups: 2, max_age: 1, compress: true };
        // The thread of this log's rotation has nothing to do.
        let kept = Rotation { max_size: 1, ..Rotation::default() };
        let log = Log::open(path.to_str().unwrap(), Format::Json, kept).unwrap();
        let line = vec![b'x'; MEGABYTE as usize * 2 / 3];
        for _ in 0..2 {
            log.out.lock().write(&line).unwrap();
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), line.len() as u64, "the second did not fit");
        assert_eq!(backups(&path).unwrap().len(), 1);
        let now = Timestamp::now();
        for hours in [1, 2, 3, 48] {
            let time = now - jiff::SignedDuration::from_hours(hours);
            std::fs::write(backup_name(&path, time), "old").unwrap();
        }
        std::fs::write(path.with_file_name("audit-nonsense.log"), "not ours").unwrap();
        assert_eq!(backups(&path).unwrap().len(), 5);
        tidy(&path, rotation, now).unwrap();
        let left = backups(&path).unwrap();
        assert!(left.len() == 2 && left[0].0 > now - jiff::SignedDuration::from_mins(30), "{left:?}");
        assert!(left.iter().all(|(_, path)| path.extension().is_some_and(|e| e == "gz")), "{left:?}");
        assert!(path.with_file_name("audit-nonsense.log").exists());
    }
}
