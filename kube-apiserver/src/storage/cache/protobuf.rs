//! A cached object in protobuf: encoded when the first client asks for it, then shared by every answer.
//!
//! One buffer holds the whole watch frame; the enveloped object (GET), the bare message (an item of a LIST) and its
//! metadata alone (metadata-only clients) are slices of it.

use std::ops::Range;

use bytes::Bytes;
use common::wire::{self, WireError};

use super::{super::codec::Codec, EventKind};

/// The protobuf forms of one object.
#[derive(Clone, Debug)]
pub struct Protobuf {
    kind: EventKind,
    frame: Bytes,
    sealed: usize,
    raw: Range<usize>,
    /// Length of the first field, the metadata.
    metadata: usize,
}

impl Protobuf {
    pub(super) fn new(codec: &Codec, json: &[u8], kind: EventKind) -> Result<Self, WireError> {
        let raw = codec.protobuf(json)?;
        let (head, tail) = wire::envelope(codec.api_version(), codec.kind(), raw.len());
        let mut frame = wire::frame_head(kind.as_str(), head.len() + raw.len() + tail.len());
        let sealed = frame.len();
        frame.reserve_exact(head.len() + raw.len() + tail.len());
        frame.extend_from_slice(&head);
        let start = frame.len();
        frame.extend_from_slice(&raw);
        frame.extend_from_slice(tail);
        let metadata = wire::first_field_len(&raw, 1).unwrap_or(0);
        Ok(Self { kind, frame: frame.into(), sealed, raw: start..start + raw.len(), metadata })
    }

    /// The object in its envelope.
    #[must_use]
    pub fn sealed(&self) -> Bytes {
        self.frame.slice(self.sealed..)
    }

    /// The bare message.
    #[must_use]
    pub fn raw(&self) -> Bytes {
        self.frame.slice(self.raw.clone())
    }

    /// A message with nothing but the metadata: that of a `PartialObjectMetadata` too.
    #[must_use]
    pub fn metadata(&self) -> Bytes {
        self.frame.slice(self.raw.start..self.raw.start + self.metadata)
    }

    /// The frame of a watch event; free when `kind` is what the object came with.
    #[must_use]
    pub fn frame(&self, kind: EventKind) -> Bytes {
        if kind == self.kind { self.frame.clone() } else { frame(kind.as_str(), &self.frame[self.sealed..]) }
    }
}

/// The frame of a watch event around an object in its envelope.
#[must_use]
pub fn frame(event: &str, sealed: &[u8]) -> Bytes {
    let mut out = wire::frame_head(event, sealed.len());
    out.extend_from_slice(sealed);
    out.into()
}
