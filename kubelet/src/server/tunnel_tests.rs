//! The tunnel between a real client connection and a streaming server that is played by hand.

use std::sync::Arc;

use async_trait::async_trait;
use common::serving::{Body, Handler, Peer};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::tunnel;

struct Through {
    url: String,
    shutdown: CancellationToken,
}

#[async_trait]
impl Handler for Through {
    async fn handle(&self, request: Request<Incoming>, _: Arc<Peer>) -> Response<Body> {
        let result = tunnel::serve(request, &self.url, self.shutdown.clone()).await;
        result.unwrap_or_else(|refusal| refusal.response())
    }
}

/// Client, streaming server and the token that ends the kubelet.
async fn start(url: impl Fn(u16) -> String) -> (TcpStream, TcpListener, CancellationToken) {
    let runtime = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let kubelet = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = kubelet.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let handler = Through { url: url(runtime.local_addr().unwrap().port()), shutdown: shutdown.clone() };
    tokio::spawn(common::serving::serve(kubelet, None, Arc::new(handler), shutdown.clone()));
    (TcpStream::connect(address).await.unwrap(), runtime, shutdown)
}

const REQUEST: &str = "POST /exec/ns/p/c?output=1 HTTP/1.1\r\nHost: kubelet\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
    X-Stream-Protocol-Version: v4.channel.k8s.io\r\nAuthorization: Bearer secret\r\n\r\n";

/// Reads up to the end of a header.
async fn header(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap().to_lowercase()
}

#[tokio::test]
async fn an_upgrade_passes_with_its_headers() {
    let (mut client, runtime, shutdown) = start(|port| format!("http://127.0.0.1:{port}/exec/token")).await;
    client.write_all(REQUEST.as_bytes()).await.unwrap();
    let (mut runtime, _) = runtime.accept().await.unwrap();
    let asked = header(&mut runtime).await;
    assert!(asked.starts_with("post /exec/token http/1.1\r\n"), "{asked}");
    for wanted in ["upgrade: spdy/3.1", "connection: upgrade", "x-stream-protocol-version: v4.channel.k8s.io"] {
        assert!(asked.contains(wanted), "{wanted} in {asked}");
    }
    assert!(!asked.contains("secret"), "{asked}");
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
        X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nfirst";
    runtime.write_all(answer.as_bytes()).await.unwrap();
    let answered = header(&mut client).await;
    assert!(answered.starts_with("http/1.1 101 "), "{answered}");
    assert!(answered.contains("x-stream-protocol-version: v4.channel.k8s.io"), "{answered}");
    client.write_all(b"ping").await.unwrap();
    let mut bytes = [0; 4];
    runtime.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"ping");
    let mut bytes = [0; 5];
    client.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"first");
    // The kubelet ends: so do its streams.
    shutdown.cancel();
    assert_eq!(runtime.read(&mut bytes).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn a_refusal_passes_too() {
    let (mut client, runtime, _shutdown) = start(|port| format!("http://127.0.0.1:{port}/exec/token")).await;
    client.write_all(REQUEST.as_bytes()).await.unwrap();
    let (mut runtime, _) = runtime.accept().await.unwrap();
    header(&mut runtime).await;
    runtime.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone").await.unwrap();
    assert!(header(&mut client).await.starts_with("http/1.1 404 "));
    let mut bytes = [0; 4];
    client.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"gone");
}

#[tokio::test]
async fn a_streaming_server_that_cannot_be_reached_is_an_error() {
    for url in ["http://127.0.0.1:1/exec/token", "https://127.0.0.1:1/", "/exec/token"] {
        let (mut client, _runtime, _shutdown) = start(|_| url.to_owned()).await;
        client.write_all(REQUEST.as_bytes()).await.unwrap();
        assert!(header(&mut client).await.starts_with("http/1.1 500 "), "{url}");
    }
}
