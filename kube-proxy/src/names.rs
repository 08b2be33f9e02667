//! Names that upstream derives from hashes: the same names let each take over what the other left behind.

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The first `length` (at most 51) characters of the base-32 form of a text's SHA-256.
pub(crate) fn hash(text: &str, length: usize) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let bytes = digest.as_ref();
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| usize::from(byte >> (7 - at % 8) & 1));
    let character = |group: usize| (0..5).fold(0, |value, at| value << 1 | bit(group * 5 + at));
    (0..length).map(|group| char::from(ALPHABET[character(group)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_upstreams() {
        // Chain names that upstream documents in its own comments.
        assert_eq!(hash("ns1/svc1/tcp/p80", 8), "ULMVA6XW");
        assert_eq!(hash("ns1/svc1/tcp/p80__10.180.0.1/80", 8), "5OJB2KTY");
    }
}
