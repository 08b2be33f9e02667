//! exec and attach for WebSocket clients: their channels become SPDY streams at the kubelet (KEP-4006).
//!
//! A binary message starts with its channel: 0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize; from v5 on 255 closes the
//! channel that follows.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use futures::{SinkExt, StreamExt, stream::SplitSink};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::sync::Mutex;
use tokio_tungstenite::tungstenite::{
    Message, Utf8Bytes,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{
    location::Location,
    spdy::{Connection, SpdyError, StreamReader, StreamWriter},
    tunnel::upgrade,
    websocket::{Socket, accept, socket},
};
use crate::{
    request::{ApiError, ApiResult},
    server::{Call, response::Body},
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Spoken with kubelets: v4 has the structured error stream that clients need.
const BACKEND_PROTOCOL: &str = "v4.channel.k8s.io";

type Io = TokioIo<hyper::upgrade::Upgraded>;
type Sink = Arc<Mutex<SplitSink<Socket, Message>>>;

/// The best subprotocol that both sides speak.
pub(super) fn protocol(offers: &[String]) -> Option<&'static str> {
    ["v5.channel.k8s.io", "v4.channel.k8s.io"].into_iter().find(|known| offers.iter().any(|offer| offer == known))
}

/// The streams that a command uses.
struct Streams {
    error: StreamReader,
    stdin: Option<StreamWriter<Io>>,
    stdout: Option<StreamReader>,
    stderr: Option<StreamReader>,
    resize: Option<StreamWriter<Io>>,
    _connection: Connection<Io>,
}

/// Which streams the query asks for.
#[derive(Clone, Copy)]
struct Wanted {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

async fn open(connection: Connection<Io>, wanted: Wanted) -> Result<Streams, SpdyError> {
    // The runtime waits for exactly these streams before it starts the command.
    let (error, error_writer) = connection.open(&[("streamtype", "error")]).await?;
    error_writer.close().await?;
    let mut streams = Streams { error, stdin: None, stdout: None, stderr: None, resize: None, _connection: connection };
    let connection = &streams._connection;
    if wanted.stdin {
        streams.stdin = Some(connection.open(&[("streamtype", "stdin")]).await?.1);
    }
    if wanted.stdout {
        streams.stdout = Some(connection.open(&[("streamtype", "stdout")]).await?.0);
    }
    if wanted.stderr && !wanted.tty {
        streams.stderr = Some(connection.open(&[("streamtype", "stderr")]).await?.0);
    }
    if wanted.tty {
        streams.resize = Some(connection.open(&[("streamtype", "resize")]).await?.1);
    }
    Ok(streams)
}

/// Serves one command.
pub(super) async fn serve(
    call: &Call,
    location: Location,
    mut incoming: Request<Incoming>,
    offers: &[String],
) -> ApiResult<Response<Body>> {
    let client = hyper::upgrade::on(&mut incoming);
    let agreed = protocol(offers).ok_or_else(|| ApiError::bad_request("unsupported subprotocol"))?;
    let mut headers = HeaderMap::new();
    headers.insert("x-stream-protocol-version", HeaderValue::from_static(BACKEND_PROTOCOL));
    let backend = upgrade(call, &location, Method::POST, headers, &HeaderValue::from_static("SPDY/3.1")).await?.io;
    let flag = |name: &str| call.query.flag(name);
    let wanted = Wanted { stdin: flag("stdin"), stdout: flag("stdout"), stderr: flag("stderr"), tty: flag("tty") };
    let answer = accept(incoming.headers(), agreed)?;
    let session = call.session.begin();
    tokio::spawn(async move {
        let _session = session;
        let result = async {
            let connection = Connection::new(backend)?;
            let streams = open(connection, wanted).await?;
            match socket(client).await {
                Ok(socket) => translate(socket, streams).await,
                Err(error) => tracing::debug!(%error, "the client did not upgrade"),
            }
            Ok::<(), SpdyError>(())
        };
        if let Err(error) = result.await {
            tracing::debug!(%error, "remote command ended");
        }
    });
    Ok(answer)
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(1 + bytes.len());
    message.put_u8(channel);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

/// Copies a stream into its channel until the stream ends.
async fn outward(stream: Option<StreamReader>, channel: u8, sink: Sink) {
    let Some(mut stream) = stream else { return };
    while let Some(bytes) = stream.read().await {
        if sink.lock().await.send(message(channel, &bytes)).await.is_err() {
            return;
        }
    }
}

async fn translate(socket: Socket, mut streams: Streams) {
    let (sink, mut source) = socket.split();
    let sink: Sink = Arc::new(Mutex::new(sink));
    // Clients wait for a first message on a channel before they believe in the connection.
    if sink.lock().await.send(message(STDOUT, &[])).await.is_err() {
        return;
    }
    let (stdin, resize) = (streams.stdin.take(), streams.resize.take());
    let inward = async {
        while let Some(Ok(incoming)) = source.next().await {
            let bytes = match incoming {
                Message::Binary(bytes) => bytes,
                // Some clients (Python's) send text as text.
                Message::Text(text) => text.into(),
                Message::Close(_) => break,
                _ => continue,
            };
            let Some((channel, data)) = bytes.split_first() else { continue };
            let result = match (*channel, &stdin, &resize) {
                (STDIN, Some(stdin), _) if !data.is_empty() => stdin.write(data).await,
                (RESIZE, _, Some(resize)) if !data.is_empty() => resize.write(data).await,
                (CLOSE, Some(stdin), _) if data.first() == Some(&STDIN) => stdin.close().await,
                _ => Ok(()),
            };
            if result.is_err() {
                // The command takes no more input, but its output and exit code are still on their way.
                std::future::pending::<()>().await;
            }
        }
    };
    let everything = async {
        tokio::join!(
            outward(streams.stdout.take(), STDOUT, sink.clone()),
            outward(streams.stderr.take(), STDERR, sink.clone()),
            outward(Some(streams.error), ERROR, sink.clone()),
        );
    };
    // The command is over when all its output has been passed on; a client that leaves ends it.
    tokio::select! { () = inward => {}, () = everything => {} }
    // Without the status code of a normal end, clients report an abnormal one.
    let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    let mut sink = sink.lock().await;
    if sink.send(Message::Close(Some(normal))).await.is_ok() {
        let _ = sink.close().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_protocol_is_chosen() {
        let offers = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(protocol(&offers(&["v4.channel.k8s.io", "v5.channel.k8s.io"])), Some("v5.channel.k8s.io"));
        assert_eq!(protocol(&offers(&["v4.channel.k8s.io"])), Some("v4.channel.k8s.io"));
        assert_eq!(protocol(&offers(&["base64.channel.k8s.io"])), None);
    }
}
