//! A gRPC health server (grpc.health.v1.Health/Check) for tests of probes: `grpc-health PORT DIRECTORY`.
//!
//! A file of the directory is a service, its content the status (`SERVING`, `NOT_SERVING`, `UNKNOWN`); the file `-` is the server as
//! a whole. Files may change at any time.

use std::{convert::Infallible, net::Ipv4Addr, path::PathBuf};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

const NOT_FOUND: &str = "5";
const UNIMPLEMENTED: &str = "12";
const MAX_REQUEST: usize = 4096;

/// `HealthCheckRequest`: after the five bytes of the gRPC frame, one string with the tag 1, or nothing.
fn service(frame: &[u8]) -> Option<String> {
    match frame.get(5..)? {
        [] => Some(String::new()),
        [0x0a, length, text @ ..] if text.len() == usize::from(*length) => String::from_utf8(text.to_vec()).ok(),
        _ => None,
    }
}

/// The number of a status in `HealthCheckResponse`.
fn number(status: &str) -> u8 {
    match status.trim() {
        "SERVING" => 1,
        "NOT_SERVING" => 2,
        _ => 0,
    }
}

fn check(directory: &std::path::Path, frame: &[u8]) -> Result<Bytes, &'static str> {
    let service = service(frame).ok_or(UNIMPLEMENTED)?;
    let name = if service.is_empty() { "-" } else { &service };
    if name.contains('/') {
        return Err(NOT_FOUND);
    }
    let status = std::fs::read_to_string(directory.join(name)).map_err(|_| NOT_FOUND)?;
    Ok(Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 0x08, number(&status)]))
}

async fn answer(
    directory: PathBuf,
    request: Request<Incoming>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    let here = request.uri().path() == "/grpc.health.v1.Health/Check";
    let outcome = match Limited::new(request.into_body(), MAX_REQUEST).collect().await {
        Ok(body) if here => check(&directory, &body.to_bytes()),
        _ => Err(UNIMPLEMENTED),
    };
    let (data, code) = match outcome {
        Ok(data) => (data, "0"),
        Err(code) => (Bytes::new(), code),
    };
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static(code))]);
    let mut response = Response::new(Full::new(data).with_trailers(async { Some(Ok(trailers)) }));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(port), Some(directory)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: grpc-health PORT DIRECTORY")
    };
    let port: u16 = port.parse().context("PORT")?;
    let directory = PathBuf::from(directory);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let directory = directory.clone();
        tokio::spawn(async move {
            let handler = service_fn(move |request| answer(directory.clone(), request));
            let http2 = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            // A probe hangs up when it has its answer.
            let _ = http2.serve_connection(TokioIo::new(stream), handler).await;
        });
    }
}
