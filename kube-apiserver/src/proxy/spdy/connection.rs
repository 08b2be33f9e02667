//! One connection with several streams: a task that reads and dispatches, writers that share the sending half.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf},
    sync::{Mutex as AsyncMutex, mpsc},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    frame::{self, Incoming},
    headers::HeaderEncoder,
};

/// Frames that wait for a slow consumer before the connection stops reading.
const QUEUE: usize = 64;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    /// The connection broke.
    #[error("SPDY connection")]
    Io(#[source] std::io::Error),
    /// A frame larger than anything sensible.
    #[error("a SPDY frame of {0} bytes")]
    TooLarge(usize),
    /// A frame that can't be read.
    #[error("malformed SPDY: {0}")]
    Malformed(&'static str),
    /// zlib failed.
    #[error("compressing SPDY headers")]
    Compression,
}

type Streams = Arc<Mutex<HashMap<u32, mpsc::Sender<Bytes>>>>;
type Writer<T> = Arc<AsyncMutex<Sending<T>>>;

struct Sending<T> {
    io: WriteHalf<T>,
    encoder: HeaderEncoder,
    next: u32,
}

impl<T: AsyncWrite> Sending<T> {
    async fn send(&mut self, frame: &[u8]) -> Result<(), SpdyError> {
        self.io.write_all(frame).await.map_err(SpdyError::Io)?;
        self.io.flush().await.map_err(SpdyError::Io)
    }
}

/// The client's end of an upgraded connection. Dropping it ends all its streams.
pub struct Connection<T> {
    writer: Writer<T>,
    streams: Streams,
    _reader: AbortOnDropHandle<()>,
}

/// What the peer sends on one stream; `None` after its last data.
pub struct StreamReader(mpsc::Receiver<Bytes>);

/// Our half of one stream.
pub struct StreamWriter<T> {
    id: u32,
    writer: Writer<T>,
}

impl<T: AsyncRead + AsyncWrite + Send + 'static> Connection<T> {
    /// Takes over an upgraded connection.
    ///
    /// # Errors
    /// Only when zlib can't be set up.
    pub fn new(io: T) -> Result<Self, SpdyError> {
        let (reader, io) = tokio::io::split(io);
        let writer = Arc::new(AsyncMutex::new(Sending { io, encoder: HeaderEncoder::new()?, next: 1 }));
        let streams = Streams::default();
        let task = tokio::spawn(read_all(reader, writer.clone(), streams.clone()));
        Ok(Self { writer, streams, _reader: AbortOnDropHandle::new(task) })
    }

    /// Opens a stream with these headers.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn open(&self, headers: &[(&str, &str)]) -> Result<(StreamReader, StreamWriter<T>), SpdyError> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut sending = self.writer.lock().await;
        let id = sending.next;
        sending.next += 2;
        self.streams.lock().insert(id, sender);
        let block = sending.encoder.encode(headers)?;
        sending.send(&frame::syn_stream(id, &block)).await?;
        drop(sending);
        Ok((StreamReader(receiver), StreamWriter { id, writer: self.writer.clone() }))
    }
}

impl StreamReader {
    /// The next piece.
    pub async fn read(&mut self) -> Option<Bytes> {
        self.0.recv().await
    }
}

impl<T: AsyncWrite> StreamWriter<T> {
    /// Sends data.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), SpdyError> {
        self.writer.lock().await.send(&frame::data(self.id, bytes, false)).await
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn close(&self) -> Result<(), SpdyError> {
        self.writer.lock().await.send(&frame::data(self.id, &[], true)).await
    }
}

/// Dispatches frames until the connection ends; then every reader sees its end.
async fn read_all<T: AsyncRead + AsyncWrite>(mut reader: ReadHalf<T>, writer: Writer<T>, streams: Streams) {
    loop {
        let incoming = match frame::read(&mut reader).await {
            Ok(Some(incoming)) => incoming,
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "SPDY connection ended");
                break;
            }
        };
        match incoming {
            Incoming::Data(id, bytes, last) => {
                let sender = streams.lock().get(&id).cloned();
                if let Some(sender) = sender
                    && !bytes.is_empty()
                {
                    // A reader that is gone does not mind missing this.
                    let _ = sender.send(bytes).await;
                }
                if last {
                    streams.lock().remove(&id);
                }
            }
            Incoming::Reply(id, true) | Incoming::Reset(id) => {
                streams.lock().remove(&id);
            }
            Incoming::Ping(id) => {
                if writer.lock().await.send(&frame::ping(id)).await.is_err() {
                    break;
                }
            }
            Incoming::Reply(_, false) | Incoming::GoAway | Incoming::Ignored => {}
        }
    }
    streams.lock().clear();
}
