//! From the file to the client: reads, picks, sends; when following, waits for more until the container has ended and
//! everything is read, across rotations. Ends as soon as the client is gone.

use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::file::LogFile;
use super::line::{Flow, Writer};
use super::watch::Watch;

/// Sent in pieces of about this size.
const PIECE: usize = 32 * 1024;
/// How often a follow asks whether the container still runs.
const ASK: Duration = Duration::from_millis(500);

/// Says whether a container may still write.
#[async_trait]
pub(super) trait Liveness: Send + Sync {
    async fn running(&self) -> bool;
}

/// What a follow needs.
pub(super) struct Follow {
    pub(super) container: Box<dyn Liveness>,
    pub(super) shutdown: CancellationToken,
}

pub(super) type Sender = mpsc::Sender<Result<Bytes, io::Error>>;

/// The client is gone, or has enough.
struct Finished;

/// Pumps until there is no more.
pub(super) async fn run(file: LogFile, writer: Writer, follow: Option<Follow>, client: Sender) {
    let mut pump = Pump { file, writer, client };
    let result = match follow {
        None => pump.once().await,
        Some(follow) => pump.follow(&follow).await,
    };
    if let Err(error) = result {
        tracing::warn!(%error, path = %pump.file.path().display(), "failed to read log file");
        let _ = pump.client.send(Err(error)).await;
    }
}

struct Pump {
    file: LogFile,
    writer: Writer,
    client: Sender,
}

impl Pump {
    async fn once(&mut self) -> io::Result<()> {
        if self.read_to_end().await?.is_ok() {
            self.last_line().await;
        }
        Ok(())
    }

    /// Reads and sends up to the end of the file.
    async fn read_to_end(&mut self) -> io::Result<Result<(), Finished>> {
        if self.writer.done() {
            return Ok(Err(Finished));
        }
        while self.file.fill().await? > 0 {
            while let Some(line) = self.file.next_line() {
                if self.writer.line(&line) == Flow::Enough {
                    self.flush().await;
                    return Ok(Err(Finished));
                }
            }
            if self.writer.out.len() >= PIECE && !self.flush().await {
                return Ok(Err(Finished));
            }
        }
        Ok(if self.flush().await { Ok(()) } else { Err(Finished) })
    }

    /// A last line without its newline: nobody will complete it any more.
    async fn last_line(&mut self) {
        let line = self.file.rest();
        if !line.is_empty() {
            self.writer.line(&line);
            self.flush().await;
        }
    }

    /// False when the client is gone.
    async fn flush(&mut self) -> bool {
        if self.writer.out.is_empty() {
            return !self.client.is_closed();
        }
        let piece = self.writer.out.split().freeze();
        self.client.send(Ok(piece)).await.is_ok()
    }

    async fn follow(&mut self, follow: &Follow) -> io::Result<()> {
        // Watching starts before the first read ends, so no change is missed.
        let watch = Watch::directory_of(self.file.path());
        let mut ended = false;
        let mut replaced = false;
        let mut ask_at = tokio::time::Instant::now();
        loop {
            if self.read_to_end().await?.is_err() {
                return Ok(());
            }
            if replaced {
                // What was written to the old file before the runtime opened the new one has been read just now.
                self.last_line().await;
                match self.file.reopen().await {
                    Ok(file) => {
                        self.file = file;
                        replaced = false;
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            } else if self.file.replaced().await {
                replaced = true;
                continue;
            }
            if self.file.restart_if_truncated().await? {
                continue;
            }
            if ended {
                self.last_line().await;
                return Ok(());
            }
            if tokio::time::Instant::now() >= ask_at {
                ask_at = tokio::time::Instant::now() + ASK;
                if !follow.container.running().await {
                    ended = true;
                    continue;
                }
            }
            tokio::select! {
                () = watch.changed(ASK) => {}
                () = self.client.closed() => return Ok(()),
                () = follow.shutdown.cancelled() => return Ok(()),
            }
        }
    }
}
