//! Finished documents, compressed, for as long as somebody asks for them.

use std::collections::HashMap;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;

/// Documents that nobody asked for in this time are dropped.
const IDLE: Duration = Duration::from_secs(300);

struct Entry {
    gzip: Bytes,
    used: Instant,
}

/// Compressed documents by name (there are as many as there are group versions, and a few more).
#[derive(Default)]
pub(super) struct Cache {
    entries: Mutex<HashMap<String, Entry>>,
}

impl Cache {
    /// The compressed document, built if it is not there. One is built at a time.
    pub(super) fn get(&self, name: &str, build: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Bytes {
        let mut entries = self.entries.lock();
        let now = Instant::now();
        if let Some(entry) = entries.get_mut(name) {
            entry.used = now;
            return entry.gzip.clone();
        }
        let gzip = compress(build);
        entries.insert(name.to_owned(), Entry { gzip: gzip.clone(), used: now });
        gzip
    }

    /// Drops what is idle.
    pub(super) fn trim(&self) {
        self.entries.lock().retain(|_, entry| entry.used.elapsed() < IDLE);
    }
}

/// Writing to memory does not fail; if it did, the stream would be empty and clients would notice.
fn compress(build: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let mut buffered = io::BufWriter::with_capacity(64 * 1024, &mut encoder);
    let written = build(&mut buffered).and_then(|()| buffered.flush());
    drop(buffered);
    written.and_then(|()| encoder.finish()).map(Bytes::from).unwrap_or_default()
}
