//! A log file read piece by piece: where its last n lines begin, whole lines one after the other, and whether the path
//! leads to another file by now (rotation). Never more than one piece is held in memory.

use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, BytesMut};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

const PIECE: usize = 64 * 1024;
/// The runtime splits lines at 16 KiB; what is much longer is no log, and is passed on in pieces.
const MAX_LINE: usize = 1024 * 1024;

/// A log file and the position in it.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    inode: (u64, u64),
    position: u64,
    buffer: BytesMut,
    /// The first bytes of the buffer that are known to hold no newline.
    searched: usize,
}

impl LogFile {
    /// Opens the file and goes to its last `tail` lines, or to its beginning.
    pub(super) async fn open(path: &Path, tail: Option<u64>) -> io::Result<Self> {
        let mut file = File::open(path).await?;
        let metadata = file.metadata().await?;
        let position = match tail {
            Some(lines) => tail_start(&mut file, lines).await?,
            None => 0,
        };
        file.seek(SeekFrom::Start(position)).await?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            inode: (metadata.dev(), metadata.ino()),
            position,
            buffer: BytesMut::new(),
            searched: 0,
        })
    }

    /// Reads one more piece; zero at the end of the file.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(PIECE);
        let read = self.file.read_buf(&mut self.buffer).await?;
        self.position += read as u64;
        Ok(read)
    }

    /// The next whole line that has been read, with its newline.
    pub(super) fn next_line(&mut self) -> Option<BytesMut> {
        match self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
            Some(found) => {
                let line = self.buffer.split_to(self.searched + found + 1);
                self.searched = 0;
                Some(line)
            }
            None if self.buffer.len() > MAX_LINE => Some(self.rest()),
            None => {
                self.searched = self.buffer.len();
                None
            }
        }
    }

    /// What stands after the last newline.
    pub(super) fn rest(&mut self) -> BytesMut {
        self.searched = 0;
        self.buffer.split()
    }

    /// The path leads to another file now.
    pub(super) async fn replaced(&self) -> bool {
        tokio::fs::metadata(&self.path).await.is_ok_and(|now| (now.dev(), now.ino()) != self.inode)
    }

    /// Starts over when the file was cut short.
    pub(super) async fn restart_if_truncated(&mut self) -> io::Result<bool> {
        let cut = self.file.metadata().await?.len() < self.position;
        if cut {
            self.file.seek(SeekFrom::Start(0)).await?;
            self.position = 0;
            self.buffer.advance(self.buffer.len());
            self.searched = 0;
        }
        Ok(cut)
    }

    /// The file that the path leads to now.
    pub(super) async fn reopen(&self) -> io::Result<Self> {
        Self::open(&self.path, None).await
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Where the last `lines` lines begin. An incomplete last line is not counted.
async fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut right = file.metadata().await?.len();
    let mut piece = vec![0; PIECE];
    let mut newlines = 0;
    while right > 0 {
        let left = right.saturating_sub(PIECE as u64);
        let length = usize::try_from(right - left).unwrap_or(PIECE);
        file.seek(SeekFrom::Start(left)).await?;
        file.read_exact(&mut piece[..length]).await?;
        for (offset, _) in piece[..length].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            newlines += 1;
            // The newline before the wanted lines.
            if newlines > lines {
                return Ok(left + offset as u64 + 1);
            }
        }
        right = left;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    async fn tail_of(text: &str, lines: u64) -> String {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let mut log = LogFile::open(file.path(), Some(lines)).await.unwrap();
        while log.fill().await.unwrap() > 0 {}
        let mut shown = String::new();
        while let Some(line) = log.next_line() {
            shown.push_str(std::str::from_utf8(&line).unwrap());
        }
        shown + std::str::from_utf8(&log.rest()).unwrap()
    }

    #[tokio::test]
    async fn tails() {
        for (text, lines, want) in [
            ("", 3, ""),
            ("a\nb\nc\n", 0, ""),
            ("a\nb\nc\n", 1, "c\n"),
            ("a\nb\nc\n", 2, "b\nc\n"),
            ("a\nb\nc\n", 3, "a\nb\nc\n"),
            ("a\nb\nc\n", 9, "a\nb\nc\n"),
            ("a\nb\nc", 1, "b\nc"),
        ] {
            assert_eq!(tail_of(text, lines).await, want, "{text:?} {lines}");
        }
        let long: String = (0..40_000).map(|number| format!("{number:08}\n")).collect();
        assert_eq!(tail_of(&long, 2).await, "00039998\n00039999\n");
        assert_eq!(tail_of(&long, 20_000).await, long[20_000 * 9..]);
    }
}
