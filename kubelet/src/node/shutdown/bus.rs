//! As much of D-Bus as it takes to talk to logind: calls, answers, signals, and file descriptors that answers bring.

use std::collections::VecDeque;
use std::io::{IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, bail};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Messages larger than this are refused.
const MAX_MESSAGE: usize = 1 << 20;

const CALL: u8 = 1;
const ANSWER: u8 = 2;
const FAILURE: u8 = 3;
const SIGNAL: u8 = 4;

/// What was received.
#[derive(Debug, Default)]
pub(super) struct Message {
    kind: u8,
    member: String,
    error: String,
    answers: u32,
    pub(super) body: Vec<u8>,
    pub(super) descriptor: Option<RawFd>,
}

impl Message {
    /// It is a signal of that name.
    pub(super) fn is_signal(&self, member: &str) -> bool {
        self.kind == SIGNAL && self.member == member
    }

    /// A number in the body at an offset.
    pub(super) fn number(&self, offset: usize) -> Option<u32> {
        self.body.get(offset..offset + 4)?.try_into().ok().map(u32::from_le_bytes)
    }
}

/// A method to call.
pub(super) struct Method<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
}

/// An argument.
pub(super) enum Value<'a> {
    Text(&'a str),
    Number(i32),
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    while !bytes.len().is_multiple_of(to) {
        bytes.push(0);
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    pad(bytes, 4);
    bytes.extend(u32::try_from(text.len()).unwrap_or(0).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

fn put_signature(bytes: &mut Vec<u8>, signature: &str) {
    bytes.push(u8::try_from(signature.len()).unwrap_or(0));
    bytes.extend(signature.as_bytes());
    bytes.push(0);
}

fn encode(serial: u32, method: &Method<'_>, arguments: &[Value<'_>]) -> Vec<u8> {
    let (mut body, mut signature) = (Vec::new(), String::new());
    for argument in arguments {
        match argument {
            Value::Text(text) => {
                signature.push('s');
                put_text(&mut body, text);
            }
            Value::Number(number) => {
                signature.push('i');
                pad(&mut body, 4);
                body.extend(number.to_le_bytes());
            }
        }
    }
    let mut fields = Vec::new();
    let texts =
        [(1, "o", method.path), (6, "s", method.destination), (2, "s", method.interface), (3, "s", method.member)];
    for (code, kind, text) in texts {
        pad(&mut fields, 8);
        fields.push(code);
        put_signature(&mut fields, kind);
        put_text(&mut fields, text);
    }
    if !signature.is_empty() {
        pad(&mut fields, 8);
        fields.push(8);
        put_signature(&mut fields, "g");
        put_signature(&mut fields, &signature);
    }
    let mut message = vec![b'l', CALL, 0, 1];
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes();
    message.extend(length(&body));
    message.extend(serial.to_le_bytes());
    message.extend(length(&fields));
    message.extend(fields);
    pad(&mut message, 8);
    message.extend(body);
    message
}

/// Length of the whole message whose first 16 bytes these are.
fn length(head: &[u8]) -> anyhow::Result<usize> {
    if head.first() != Some(&b'l') {
        bail!("the message bus does not speak little-endian");
    }
    let number =
        |at: usize| head.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes) as usize;
    let (body, fields) = (number(4), number(12));
    let whole = 16usize.saturating_add(fields).next_multiple_of(8).saturating_add(body);
    if whole > MAX_MESSAGE {
        bail!("a message of {whole} bytes is too large");
    }
    Ok(whole)
}

/// Reads fields of the header that matter; unknown ones are skipped.
fn decode(bytes: &[u8]) -> Option<Message> {
    let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let text = |at: usize| {
        let length = number(at)? as usize;
        std::str::from_utf8(bytes.get(at + 4..at + 4 + length)?).ok().map(str::to_owned)
    };
    let mut message = Message { kind: *bytes.get(1)?, ..Message::default() };
    let end = 16 + number(12)? as usize;
    let mut at = 16;
    while at < end {
        at = at.next_multiple_of(8);
        let code = *bytes.get(at)?;
        let signature = *bytes.get(at + 2)?;
        // Code, length of the signature, one letter, zero.
        at = (at + 4).next_multiple_of(if signature == b'g' { 1 } else { 4 });
        match (code, signature) {
            (3, b's') => message.member = text(at)?,
            (4, b's') => message.error = text(at)?,
            (5, b'u') => message.answers = number(at)?,
            _ => {}
        }
        at += match signature {
            b's' | b'o' => 4 + number(at)? as usize + 1,
            b'g' => 1 + *bytes.get(at)? as usize + 1,
            b'u' | b'i' => 4,
            _ => return None,
        };
    }
    message.body = bytes.get(end.next_multiple_of(8)..)?.to_vec();
    Some(message)
}

/// A connection. Reads block: it belongs on a thread of its own.
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    buffer: Vec<u8>,
    descriptors: VecDeque<RawFd>,
    /// Signals that came while an answer was waited for.
    signals: VecDeque<Message>,
}

impl Bus {
    pub(super) fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
        let mut bus =
            Self { stream, serial: 0, buffer: Vec::new(), descriptors: VecDeque::new(), signals: VecDeque::new() };
        let uid: String = nix::unistd::getuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        bus.stream.write_all(b"\0")?;
        for (line, wanted) in
            [(format!("AUTH EXTERNAL {uid}\r\n"), "OK"), ("NEGOTIATE_UNIX_FD\r\n".into(), "AGREE_UNIX_FD")]
        {
            bus.stream.write_all(line.as_bytes())?;
            let answer = bus.line()?;
            if !answer.starts_with(wanted) {
                bail!("the message bus answered {answer:?} to {:?}", line.trim());
            }
        }
        bus.stream.write_all(b"BEGIN\r\n")?;
        let own = "org.freedesktop.DBus";
        bus.call(&Method { destination: own, path: "/org/freedesktop/DBus", interface: own, member: "Hello" }, &[])?;
        Ok(bus)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 512 {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim().to_owned())
    }

    /// Calls a method and waits for its answer.
    pub(super) fn call(&mut self, method: &Method<'_>, arguments: &[Value<'_>]) -> anyhow::Result<Message> {
        self.serial += 1;
        let serial = self.serial;
        self.stream.write_all(&encode(serial, method, arguments))?;
        loop {
            let message = self.receive()?;
            match message.kind {
                ANSWER if message.answers == serial => return Ok(message),
                FAILURE if message.answers == serial => bail!("{}: {}", method.member, message.error),
                SIGNAL if self.signals.len() < 64 => self.signals.push_back(message),
                _ => {}
            }
        }
    }

    /// The next signal.
    pub(super) fn signal(&mut self) -> anyhow::Result<Message> {
        if let Some(signal) = self.signals.pop_front() {
            return Ok(signal);
        }
        loop {
            let message = self.receive()?;
            if message.kind == SIGNAL {
                return Ok(message);
            }
        }
    }

    fn fill(&mut self, wanted: usize) -> anyhow::Result<()> {
        while self.buffer.len() < wanted {
            let mut bytes = [0; 4096];
            let mut space = nix::cmsg_space!([RawFd; 4]);
            let mut parts = [IoSliceMut::new(&mut bytes)];
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let received = recvmsg::<()>(self.stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
            for control in received.cmsgs()? {
                if let ControlMessageOwned::ScmRights(descriptors) = control {
                    self.descriptors.extend(descriptors);
                }
            }
            let count = received.bytes;
            if count == 0 {
                bail!("the message bus has closed the connection");
            }
            self.buffer.extend_from_slice(&bytes[..count]);
        }
        Ok(())
    }

    fn receive(&mut self) -> anyhow::Result<Message> {
        self.fill(16)?;
        let whole = length(&self.buffer)?;
        self.fill(whole)?;
        let bytes: Vec<u8> = self.buffer.drain(..whole).collect();
        let mut message = decode(&bytes).context("the message bus sent what can't be read")?;
        message.descriptor = self.descriptors.pop_front();
        Ok(message)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::IoSlice;
    use std::os::unix::net::UnixListener;

    use nix::sys::socket::{ControlMessage, sendmsg};

    use super::*;

    fn answer(kind: u8, fields: &[(u8, &str, Vec<u8>)], body: &[u8]) -> Vec<u8> {
        let mut list = Vec::new();
        for (code, signature, value) in fields {
            pad(&mut list, 8);
            list.push(*code);
            put_signature(&mut list, signature);
            list.extend(value);
        }
        let mut message = vec![b'l', kind, 0, 1];
        message.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        message.extend(7u32.to_le_bytes());
        message.extend(u32::try_from(list.len()).unwrap().to_le_bytes());
        message.extend(list);
        pad(&mut message, 8);
        message.extend(body);
        message
    }

    fn text(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_text(&mut bytes, text);
        bytes
    }

    /// A bus with a logind: `said` gets the names of methods; a signal is sent for each value of `signals`.
    pub(in super::super) fn fake(
        socket: &Path,
        delay_micros: u64,
        said: std::sync::mpsc::Sender<String>,
        signals: std::sync::mpsc::Receiver<bool>,
    ) -> std::thread::JoinHandle<()> {
        let listener = UnixListener::bind(socket).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let writer = stream.try_clone().unwrap();
            let mut bus =
                Bus { stream, serial: 0, buffer: Vec::new(), descriptors: VecDeque::new(), signals: VecDeque::new() };
            for reply in ["OK 1234\r\n", "AGREE_UNIX_FD\r\n"] {
                bus.line().unwrap();
                (&writer).write_all(reply.as_bytes()).unwrap();
            }
            assert_eq!(bus.line().unwrap(), "BEGIN");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for active in signals {
                        let fields = [(3, "s", text("PrepareForShutdown"))];
                        let body = u32::from(active).to_le_bytes();
                        let _ = (&writer).write_all(&answer(SIGNAL, &fields, &body));
                    }
                });
                while bus.fill(16).is_ok() {
                    let whole = length(&bus.buffer).unwrap();
                    bus.fill(whole).unwrap();
                    let bytes: Vec<u8> = bus.buffer.drain(..whole).collect();
                    let call = decode(&bytes).unwrap();
                    let _ = said.send(call.member.clone());
                    let serial = (5, "u", bytes[8..12].to_vec());
                    let body = match call.member.as_str() {
                        "Get" => [b"\x01t\0\0\0\0\0\0".to_vec(), delay_micros.to_le_bytes().to_vec()].concat(),
                        _ => vec![0; 4],
                    };
                    let message = answer(ANSWER, &[serial], &body);
                    let descriptor = std::fs::File::open("/dev/null").unwrap();
                    let rights = [descriptor.as_raw_fd()];
                    let control = [ControlMessage::ScmRights(&rights)];
                    let control: &[ControlMessage<'_>] = if call.member == "Inhibit" { &control } else { &[] };
                    let parts = [IoSlice::new(&message)];
                    sendmsg::<()>(writer.as_raw_fd(), &parts, control, MsgFlags::empty(), None).unwrap();
                }
                let _ = writer.shutdown(std::net::Shutdown::Both);
            });
        })
    }

    #[test]
    fn garbage_is_refused() {
        assert!(length(&[b'B'; 16]).is_err());
        assert!(length(&[b'l', 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
        for length in 0..64 {
            assert!(decode(&vec![1; length]).is_none(), "{length}");
        }
        let call = Method { destination: "a.b", path: "/c", interface: "d.e", member: "F" };
        let bytes = encode(3, &call, &[Value::Text("x"), Value::Number(-1)]);
        assert_eq!(super::length(&bytes).unwrap(), bytes.len());
        let read = decode(&bytes).unwrap();
        assert_eq!((read.kind, read.member.as_str(), read.number(8)), (CALL, "F", Some(u32::MAX)));
    }
}
