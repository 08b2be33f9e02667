//! What the tests share: a node of its own for each, and waiting for conditions.

mod cri;
mod cri_state;
mod csi;
mod dra;
mod node;
mod plugin;

use std::time::Duration;

pub use crate::neighbour::{ApiServer, free_port};
pub use cri::FakeRuntime;
pub use cri_state::Script;
pub use csi::{FakeDriver, Trouble};
pub use dra::FakeClaimDriver;
pub use node::Node;
pub use plugin::{FakePlugin, call};

/// Waits until `probe` finds something; what was seen last is told when it never does.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        match probe().await {
            Ok(found) => return found,
            Err(seen) if tokio::time::Instant::now() > deadline => panic!("gave up waiting for {what}: {seen}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Status and body of a plain GET on loopback.
pub async fn http_get(port: u16, path: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}
