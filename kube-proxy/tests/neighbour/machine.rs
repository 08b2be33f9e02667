//! A network namespace as a machine: made by a thread, held by a file, gone with the last of its holders.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    process::{Command, Output},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace.
#[derive(Clone)]
pub struct Machine {
    file: Arc<File>,
}

/// What a server of [`Machine::serve`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The server's name.
    pub server: String,
    /// From whom the request seemed to come.
    pub client: IpAddr,
}

impl Reply {
    fn parse(text: &str) -> io::Result<Self> {
        let parsed = text
            .split_once(' ')
            .and_then(|(server, client)| Some(Self { server: server.to_owned(), client: client.trim().parse().ok()? }));
        parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("not a server's answer: {text:?}")))
    }
}

impl Machine {
    /// A new one; its loopback interface is up.
    ///
    /// # Errors
    /// Without the right to make namespaces.
    pub fn new() -> Result<Self> {
        let made = thread::spawn(|| -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let file = made.join().map_err(|_| anyhow::anyhow!("the thread that makes a namespace died"))??;
        let machine = Self { file: Arc::new(file) };
        machine.run("ip link set lo up")?;
        Ok(machine)
    }

    /// The namespace as a path, while this process lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// A command that will run here.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program);
        command
    }

    /// Runs a line of shell here and gives its output.
    ///
    /// # Errors
    /// When it fails: with what it wrote to stderr.
    pub fn run(&self, line: &str) -> Result<String> {
        let output: Output = self.command("sh").args(["-ec", line]).output().context("running nsenter")?;
        if !output.status.success() {
            bail!("{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Does something on a thread that lives here.
    ///
    /// # Errors
    /// What `task` says, or when the namespace can't be entered.
    pub fn within<T: Send>(&self, task: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                setns(&*self.file, CloneFlags::CLONE_NEWNET)?;
                task()
            });
            entered.join().unwrap_or_else(|_| Err(io::Error::other("the task panicked")))
        })
    }

    /// A listening socket of this machine, for use anywhere.
    ///
    /// # Errors
    /// When the address can't be had.
    pub fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        self.within(|| TcpListener::bind(address))
    }

    /// Answers TCP and UDP on this port of all addresses with this name and the client's address, as long as the process lives.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn serve(&self, name: &str, port: u16) -> io::Result<()> {
        let any = SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), port);
        let (tcp, udp) = self.within(|| Ok((TcpListener::bind(any)?, UdpSocket::bind(any)?)))?;
        let answer = |name: &str, peer: SocketAddr| format!("{name} {}", peer.ip().to_canonical());
        let server = name.to_owned();
        thread::spawn(move || {
            while let Ok((mut stream, peer)) = tcp.accept() {
                let text = answer(&server, peer);
                // One answer per line: a client may keep its connection.
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read(&mut byte).is_ok_and(|read| read > 0) {
                        if byte == *b"\n" && stream.write_all(format!("{text}\n").as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let server = name.to_owned();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(answer(&server, peer).as_bytes(), peer);
            }
        });
        Ok(())
    }

    /// A TCP connection from here, as it is held open.
    ///
    /// # Errors
    /// Refused, unreachable or timed out.
    pub fn connect(&self, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
        let stream = self.within(|| TcpStream::connect_timeout(&to, patience))?;
        stream.set_read_timeout(Some(patience))?;
        Ok(stream)
    }

    /// Asks over an open connection.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn ask_on(stream: &mut TcpStream) -> io::Result<Reply> {
        stream.write_all(b"\n")?;
        let mut text = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 && byte != *b"\n" {
            text.push(byte[0]);
        }
        Reply::parse(&String::from_utf8_lossy(&text))
    }

    /// Asks over a new TCP connection from here.
    ///
    /// # Errors
    /// Refused, unreachable or timed out.
    pub fn ask(&self, to: SocketAddr, patience: Duration) -> io::Result<Reply> {
        Self::ask_on(&mut self.connect(to, patience)?)
    }

    /// Asks with one datagram from here; `port` 0 takes any.
    ///
    /// # Errors
    /// Refused, unreachable or timed out.
    pub fn ask_udp(&self, to: SocketAddr, port: u16, patience: Duration) -> io::Result<Reply> {
        self.within(|| {
            let any: IpAddr = if to.is_ipv6() {
                std::net::Ipv6Addr::UNSPECIFIED.into()
            } else {
                std::net::Ipv4Addr::UNSPECIFIED.into()
            };
            let socket = UdpSocket::bind((any, port))?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(patience))?;
            socket.send(b"?")?;
            let mut buffer = [0; 128];
            let length = socket.recv(&mut buffer)?;
            Reply::parse(&String::from_utf8_lossy(&buffer[..length]))
        })
    }
}
