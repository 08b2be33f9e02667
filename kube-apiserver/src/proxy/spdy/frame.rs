//! Frames on the wire.

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::SpdyError;

const VERSION: u16 = 3;
const CONTROL: u8 = 0x80;
const FLAG_FIN: u8 = 1;
/// The largest frame that is accepted; peers send 32 KiB ones.
const MAX_FRAME: usize = 4 << 20;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// What the peer may send that matters to us.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// A stream that we opened is accepted; `true`: the peer will send nothing on it.
    Reply(u32, bool),
    /// Data, and whether it is the last.
    Data(u32, Bytes, bool),
    /// A stream is refused or aborted.
    Reset(u32),
    /// To be sent back.
    Ping(u32),
    /// No further streams.
    GoAway,
    /// Settings, window updates and what we don't know: no answer needed.
    Ignored,
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + payload.len());
    frame.put_u16(u16::from(CONTROL) << 8 | VERSION);
    frame.put_u16(kind);
    frame.put_u32(u32::from(flags) << 24 | u32::try_from(payload.len()).unwrap_or(0) & 0x00ff_ffff);
    frame.put_slice(payload);
    frame.freeze()
}

/// Opens a stream.
pub(super) fn syn_stream(id: u32, header_block: &[u8]) -> Bytes {
    let mut payload = BytesMut::with_capacity(10 + header_block.len());
    payload.put_u32(id);
    payload.put_u32(0);
    payload.put_u16(0);
    payload.put_slice(header_block);
    control(SYN_STREAM, 0, &payload)
}

/// Carries data; `last` half-closes the stream.
pub(super) fn data(id: u32, bytes: &[u8], last: bool) -> Bytes {
    let mut frame = BytesMut::with_capacity(8 + bytes.len());
    frame.put_u32(id);
    frame.put_u32(
        u32::from(if last { FLAG_FIN } else { 0 }) << 24 | u32::try_from(bytes.len()).unwrap_or(0) & 0x00ff_ffff,
    );
    frame.put_slice(bytes);
    frame.freeze()
}

/// Answers a ping.
pub(super) fn ping(id: u32) -> Bytes {
    control(PING, 0, &id.to_be_bytes())
}

/// Reads one frame; `None` at a clean end.
pub(super) async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<Incoming>, SpdyError> {
    let mut head = [0; 8];
    match reader.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(SpdyError::Io(error)),
    }
    let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
    if length > MAX_FRAME {
        return Err(SpdyError::TooLarge(length));
    }
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await.map_err(SpdyError::Io)?;
    let last = head[4] & FLAG_FIN != 0;
    let id = |bytes: &[u8]| bytes.get(..4).and_then(|b| b.try_into().ok()).map(|b| u32::from_be_bytes(b) & 0x7fff_ffff);
    if head[0] & CONTROL == 0 {
        let stream = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        return Ok(Some(Incoming::Data(stream, payload.into(), last)));
    }
    let kind = u16::from_be_bytes([head[2], head[3]]);
    let first = id(&payload).ok_or(SpdyError::Malformed("a control frame without an id"));
    Ok(Some(match kind {
        SYN_REPLY => Incoming::Reply(first?, last),
        RST_STREAM => Incoming::Reset(first?),
        PING => {
            Incoming::Ping(u32::from_be_bytes(payload.get(..4).and_then(|b| b.try_into().ok()).unwrap_or_default()))
        }
        GOAWAY => Incoming::GoAway,
        _ => Incoming::Ignored,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn parse(bytes: &[u8]) -> Result<Option<Incoming>, SpdyError> {
        read(&mut &bytes[..]).await
    }

    #[tokio::test]
    async fn frames_survive_the_wire() {
        assert_eq!(
            parse(&data(7, b"hello", true)).await.unwrap(),
            Some(Incoming::Data(7, Bytes::from_static(b"hello"), true))
        );
        assert_eq!(parse(&control(RST_STREAM, 0, &[0, 0, 0, 3, 0, 0, 0, 5])).await.unwrap(), Some(Incoming::Reset(3)));
        assert_eq!(parse(&ping(2)).await.unwrap(), Some(Incoming::Ping(2)));
        assert_eq!(parse(&control(SYN_REPLY, 0, &5_u32.to_be_bytes())).await.unwrap(), Some(Incoming::Reply(5, false)));
    }

    #[tokio::test]
    async fn hostile_lengths_are_refused() {
        assert!(matches!(parse(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]).await, Err(SpdyError::TooLarge(_))));
        assert!(parse(&[0, 0, 0, 1, 0, 0, 0, 9, 1]).await.is_err());
        assert!(parse(&control(SYN_REPLY, 0, &[1])).await.is_err());
        assert_eq!(parse(&[]).await.unwrap(), None);
    }
}
