//! A netfilter netlink socket: dumps, and batches that the kernel applies as a whole or not at all.

mod message;

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::{
    socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, setsockopt, sockopt},
    time::{TimeVal, TimeValLike},
};

pub(crate) use message::{Attributes, Writer, nested};

/// Families as netfilter numbers them.
pub(crate) const IPV4: u8 = 2;
pub(crate) const IPV6: u8 = 10;

/// Subsystems of nfnetlink: the high byte of a message's type.
pub(crate) const CONNTRACK: u16 = 1;
pub(crate) const NFTABLES: u16 = 10;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
pub(crate) const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// The kernel answers a dump in pieces of at most this size.
const RECEIVE: usize = 64 << 10;
/// One batch is one datagram: the socket must take it whole.
const SEND: usize = 64 << 20;

/// One request at a time; blocking.
pub(crate) struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

/// A batch of changes under way.
pub(crate) struct Batch {
    writer: Writer,
    subsystem: u16,
    /// Start of the last message.
    last: usize,
    sequence: u32,
}

/// What an acknowledgement says: 0, or a negated error number.
fn outcome(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code)) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

impl Batch {
    /// An empty batch of this subsystem.
    pub(crate) fn new(subsystem: u16) -> Self {
        let mut writer = Writer::default();
        let start = writer.message(BATCH_BEGIN, REQUEST, 0, 0, subsystem);
        writer.finish(start);
        Self { writer, subsystem, last: 0, sequence: 0 }
    }

    /// Adds a message; `fill` writes its attributes.
    pub(crate) fn push(&mut self, kind: u16, flags: u16, family: u8, fill: impl FnOnce(&mut Writer)) {
        self.sequence += 1;
        self.last = self.writer.message(self.subsystem << 8 | kind, REQUEST | flags, self.sequence, family, 0);
        fill(&mut self.writer);
        self.writer.finish(self.last);
    }

    /// Bytes so far.
    pub(crate) fn len(&self) -> usize {
        self.writer.bytes.len()
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.sequence == 0
    }
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel has no netfilter netlink, or refuses the buffer sizes.
    pub(crate) fn open() -> io::Result<Self> {
        let fd = socket::socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        setsockopt(&fd, sockopt::SndBufForce, &SEND)?;
        setsockopt(&fd, sockopt::RcvBufForce, &(4 << 20))?;
        // The kernel answers at once; silence would be a bug, and must not hang us.
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(30))?;
        Ok(Self { fd, sequence: 1 })
    }

    /// Applies a batch: all of it or nothing.
    ///
    /// # Errors
    /// The kernel's first complaint.
    pub(crate) fn apply(&mut self, mut batch: Batch) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        // Only the last change is acknowledged, and only if all before it were right.
        batch.writer.add_flags(batch.last, ACK);
        let start = batch.writer.message(BATCH_END, REQUEST, batch.sequence + 1, 0, batch.subsystem);
        batch.writer.finish(start);
        self.send(&batch.writer.bytes)?;
        let mut buffer = vec![0; RECEIVE];
        let mut failure = None;
        loop {
            let length = socket::recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (kind, sequence, body) in message::messages(&buffer[..length]) {
                if kind != ERROR {
                    continue;
                }
                if let Err(error) = outcome(body) {
                    failure.get_or_insert(error);
                }
                if sequence == batch.sequence || sequence == 0 {
                    self.drain();
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Throws away answers that are still there, so that the next request meets its own.
    fn drain(&self) {
        let mut buffer = [0; 4096];
        while socket::recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok_and(|length| length > 0) {}
    }

    /// Asks for a list; `fill` writes the filter's attributes, `each` gets the attributes of every answer.
    ///
    /// # Errors
    /// What the kernel says; a list that changed meanwhile is `Interrupted`.
    pub(crate) fn dump(
        &mut self,
        subsystem: u16,
        kind: u16,
        family: u8,
        fill: impl FnOnce(&mut Writer),
        mut each: impl FnMut(Attributes<'_>),
    ) -> io::Result<()> {
        self.sequence += 1;
        let mut writer = Writer::default();
        let start = writer.message(subsystem << 8 | kind, REQUEST | DUMP, self.sequence, family, 0);
        fill(&mut writer);
        writer.finish(start);
        self.send(&writer.bytes)?;
        let mut buffer = vec![0; RECEIVE];
        loop {
            let length = socket::recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (kind, sequence, body) in message::messages(&buffer[..length]) {
                if sequence != self.sequence {
                    continue;
                }
                match kind {
                    DONE => return Ok(()),
                    ERROR => return outcome(body),
                    _ => each(Attributes(body.get(4..).unwrap_or_default())),
                }
            }
        }
    }

    /// Asks for one change outside of a batch and waits for its acknowledgement.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn request(
        &mut self,
        subsystem: u16,
        kind: u16,
        family: u8,
        fill: impl FnOnce(&mut Writer),
    ) -> io::Result<()> {
        self.sequence += 1;
        let mut writer = Writer::default();
        let start = writer.message(subsystem << 8 | kind, REQUEST | ACK, self.sequence, family, 0);
        fill(&mut writer);
        writer.finish(start);
        self.send(&writer.bytes)?;
        let mut buffer = vec![0; RECEIVE];
        loop {
            let length = socket::recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            for (kind, sequence, body) in message::messages(&buffer[..length]) {
                if kind == ERROR && sequence == self.sequence {
                    return outcome(body);
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = socket::send(self.fd.as_raw_fd(), bytes, MsgFlags::empty())?;
        if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("netlink took only a part of the message")) }
    }
}
