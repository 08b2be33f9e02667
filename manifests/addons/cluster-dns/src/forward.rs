//! Questions about other zones go to the resolvers of resolv.conf, one after another.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use hickory_proto::op::Message;
use tokio::{net::UdpSocket, time::timeout};

/// How long one resolver may take.
const PATIENCE: Duration = Duration::from_secs(2);
const MAX_ANSWER: usize = 4096;

/// The resolvers that a file names, without loopback ones: those would be ourselves.
pub(crate) fn resolvers(path: &Path) -> Vec<SocketAddr> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let addresses = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|word| word.trim().parse().ok());
    addresses.filter(|ip: &std::net::IpAddr| !ip.is_loopback()).take(3).map(|ip| SocketAddr::new(ip, 53)).collect()
}

/// The first answer that any resolver gives.
pub(crate) async fn ask(resolvers: &[SocketAddr], question: &[u8]) -> Option<Message> {
    for resolver in resolvers {
        match timeout(PATIENCE, ask_one(*resolver, question)).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => tracing::debug!(%resolver, %error, "resolver failed"),
            Err(_) => tracing::debug!(%resolver, "resolver did not answer in time"),
        }
    }
    None
}

async fn ask_one(resolver: SocketAddr, question: &[u8]) -> anyhow::Result<Message> {
    let local: SocketAddr = if resolver.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(resolver).await?;
    socket.send(question).await?;
    let mut answer = vec![0; MAX_ANSWER];
    let length = socket.recv(&mut answer).await?;
    let message = Message::from_vec(&answer[..length])?;
    anyhow::ensure!(question.get(..2) == Some(&message.metadata.id.to_be_bytes()[..]), "an answer to another question");
    Ok(message)
}
