//! Messages and attributes as bytes: what the kernel expects, and what it answers.

const NESTED: u16 = 0x8000;
const KIND: u16 = 0x3fff;

fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// Writes messages one behind the other.
#[derive(Default)]
pub(crate) struct Writer {
    pub bytes: Vec<u8>,
}

impl Writer {
    /// Begins a message and gives its start, for [`Self::finish`].
    pub(super) fn message(&mut self, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        start
    }

    /// Ends the message that began at `start`.
    pub(super) fn finish(&mut self, start: usize) {
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// More flags for the message that began at `start`.
    pub(super) fn add_flags(&mut self, start: usize, flags: u16) {
        let at = start + 6;
        let flags = u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]) | flags;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }

    /// An attribute with these bytes.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }

    /// A text attribute, with the final zero that the kernel wants.
    pub(crate) fn text(&mut self, kind: u16, value: &str) {
        self.bytes.extend(((5 + value.len()) as u16).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value.as_bytes());
        self.bytes.push(0);
        self.bytes.resize(aligned(self.bytes.len()), 0);
    }

    /// Begins an attribute that holds attributes and gives its start, for [`Self::close`].
    pub(crate) fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend(0_u16.to_ne_bytes());
        self.bytes.extend((kind | NESTED).to_ne_bytes());
        start
    }

    /// Ends what [`Self::open`] began.
    pub(crate) fn close(&mut self, start: usize) {
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }
}

/// Reads attributes one behind the other: their kind and bytes. Stops at the first that is cut short.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a>(pub &'a [u8]);

impl<'a> Attributes<'a> {
    /// The bytes of the first attribute of this kind.
    pub(crate) fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter().find(|(other, _)| *other == kind).map(|(_, value)| value)
    }

    /// The attributes inside of the first one of this kind.
    pub(crate) fn inside(self, kind: u16) -> Option<Attributes<'a>> {
        self.get(kind).map(Attributes)
    }

    /// A text without its final zero.
    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        let bytes = self.get(kind)?;
        std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).ok()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head: [u8; 4] = *self.0.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some((u16::from_ne_bytes([head[2], head[3]]) & KIND, value))
    }
}

/// The attributes inside of these bytes.
pub(crate) fn nested(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes)
}

/// The messages of a datagram: type, sequence number, and what follows the netlink header.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let head: [u8; 16] = *bytes.first_chunk()?;
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let body = bytes.get(16..length)?;
        bytes = bytes.get(aligned(length)..).unwrap_or_default();
        let sequence = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
        Some((u16::from_ne_bytes([head[4], head[5]]), sequence, body))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::default();
        let start = writer.message(7, 1, 9, 2, 10);
        writer.text(1, "name");
        let nest = writer.open(3);
        writer.attribute(2, &[1, 2, 3]);
        writer.close(nest);
        writer.finish(start);
        let all: Vec<_> = messages(&writer.bytes).collect();
        assert_eq!((all[0].0, all[0].1, all.len()), (7, 9, 1));
        let attributes = Attributes(&all[0].2[4..]);
        assert_eq!(attributes.text(1), Some("name"));
        assert_eq!(attributes.inside(3).and_then(|inside| inside.get(2)), Some([1, 2, 3].as_slice()));
        assert_eq!(attributes.get(4), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for (_, _, body) in messages(&bytes) {
                for (_, value) in Attributes(body) {
                    let _ = Attributes(value).count();
                }
            }
        }
    }
}
