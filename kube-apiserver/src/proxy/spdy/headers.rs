//! Header blocks: name-value pairs in one zlib stream per connection and direction, primed with the protocol's dictionary.

use flate2::{Compress, Compression, FlushCompress};

use super::SpdyError;

/// Section 2.6.10.1: first the length-prefixed words ...
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow \
    authorization cache-control connection content-base content-encoding content-language content-length content-location content-md5 \
    content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since \
    last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer \
    transfer-encoding upgrade user-agent vary via warning www-authenticate method get status";

/// ... some of which hold spaces ...
const PHRASES: [&str; 7] = ["200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive"];

/// ... then plain text.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found\
    500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
    Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,\
    text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn push(block: &mut Vec<u8>, text: &str) {
    block.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    block.extend_from_slice(text.as_bytes());
}

fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS.split_whitespace().chain(PHRASES).chain(["origin"]) {
        push(&mut dictionary, word);
    }
    dictionary.extend_from_slice(TAIL.as_bytes());
    dictionary
}

/// Compresses the header blocks of one direction.
pub(super) struct HeaderEncoder(Compress);

impl HeaderEncoder {
    pub(super) fn new() -> Result<Self, SpdyError> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&dictionary()).map_err(|_| SpdyError::Compression)?;
        Ok(Self(compress))
    }

    /// Encodes pairs; names are sent in lower case.
    pub(super) fn encode(&mut self, pairs: &[(&str, &str)]) -> Result<Vec<u8>, SpdyError> {
        let mut block = Vec::new();
        block.extend_from_slice(&u32::try_from(pairs.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (name, value) in pairs {
            push(&mut block, &name.to_ascii_lowercase());
            push(&mut block, value);
        }
        let mut out = Vec::with_capacity(block.len() + 64);
        let (before, mut rest) = (self.0.total_in(), block.as_slice());
        loop {
            out.reserve(256);
            let start = self.0.total_in();
            let room = out.capacity() - out.len();
            let length = out.len();
            self.0.compress_vec(rest, &mut out, FlushCompress::Sync).map_err(|_| SpdyError::Compression)?;
            let used = usize::try_from(self.0.total_in() - start).unwrap_or(usize::MAX);
            rest = rest.get(used..).unwrap_or_default();
            // Room left over means that the flush is complete.
            if rest.is_empty() && out.len() - length < room {
                debug_assert_eq!(self.0.total_in() - before, block.len() as u64);
                return Ok(out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Decompress, FlushDecompress, Status};

    use super::*;

    #[test]
    fn the_dictionary_is_the_protocols() {
        assert_eq!(dictionary().len(), 1423);
        let adler = Compress::new(Compression::fast(), true).set_dictionary(&dictionary()).unwrap();
        assert_eq!(adler, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_share_one_stream() {
        let mut encoder = HeaderEncoder::new().unwrap();
        let first = encoder.encode(&[("streamType", "error")]).unwrap();
        let second = encoder.encode(&[("streamtype", "stdin"), ("port", "80")]).unwrap();
        assert_eq!(first[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
        let mut decoder = Decompress::new(true);
        let mut out = Vec::with_capacity(4096);
        assert!(decoder.decompress_vec(&first, &mut out, FlushDecompress::Sync).is_err());
        decoder.set_dictionary(&dictionary()).unwrap();
        let rest = &first[usize::try_from(decoder.total_in()).unwrap()..];
        assert_eq!(decoder.decompress_vec(rest, &mut out, FlushDecompress::Sync).unwrap(), Status::Ok);
        assert_eq!(out, b"\0\0\0\x01\0\0\0\x0astreamtype\0\0\0\x05error");
        out.clear();
        decoder.decompress_vec(&second, &mut out, FlushDecompress::Sync).unwrap();
        assert!(out.ends_with(b"\0\0\0\x04port\0\0\0\x0280"));
    }
}
