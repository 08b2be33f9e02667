//! Lines of a CRI log (`<time> stdout|stderr F|P <text>`) and what of them goes to the client. Pure.

use bytes::{BufMut, BytesMut};

use super::options::{LogOptions, Stream};

/// One entry of a log file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    time: &'a str,
    stream: Stream,
    /// With its newline, unless the entry is only a part of a line.
    text: &'a [u8],
}

fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    Some((&line[..space], &line[space + 1..]))
}

/// Takes an entry apart; None when it is none.
pub(super) fn parse(line: &[u8]) -> Option<Entry<'_>> {
    let (time, rest) = field(line)?;
    let time = std::str::from_utf8(time)
        .ok()
        .filter(|time| time.is_ascii() && time.len() >= 20 && time.as_bytes()[10] == b'T')?;
    let (stream, rest) = field(rest)?;
    let stream = match stream {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let (tags, text) = field(rest)?;
    let partial = tags.split(|byte| *byte == b':').next() == Some(b"P");
    let text = if partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
    Some(Entry { time, stream, text })
}

/// The time with nine digits of fraction, as clients expect it.
fn fixed_nanoseconds(time: &str) -> String {
    let (seconds, rest) = time.split_at(19);
    let digits = rest.strip_prefix('.').unwrap_or("");
    let digits = &digits[..digits.bytes().take_while(u8::is_ascii_digit).count()];
    let zone = if rest.starts_with('.') { &rest[1 + digits.len()..] } else { rest };
    format!("{seconds}.{digits:0<9}{zone}")
}

/// Whether more is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    More,
    Enough,
}

/// Turns entries into what the client gets.
pub(super) struct Writer {
    options: LogOptions,
    lines: Option<u64>,
    bytes: Option<u64>,
    at_line_start: bool,
    /// Ready to be sent.
    pub(super) out: BytesMut,
}

impl Writer {
    pub(super) fn new(options: LogOptions) -> Self {
        let lines = options.tail.filter(|_| !options.follow);
        Self { lines, bytes: options.limit, at_line_start: true, out: BytesMut::new(), options }
    }

    /// Nothing is wanted at all.
    pub(super) fn done(&self) -> bool {
        self.lines == Some(0) || self.bytes == Some(0)
    }

    /// Takes one line of the file.
    pub(super) fn line(&mut self, line: &[u8]) -> Flow {
        let Some(entry) = parse(line) else {
            tracing::debug!(line = %String::from_utf8_lossy(line), "not an entry of a container log, skipped");
            return Flow::More;
        };
        if self.wanted(&entry) {
            if self.options.timestamps && self.at_line_start {
                let prefix = fixed_nanoseconds(entry.time) + " ";
                self.put(prefix.as_bytes());
            }
            self.put(entry.text);
        }
        self.at_line_start = entry.text.last().is_none_or(|byte| *byte == b'\n');
        if let Some(lines) = &mut self.lines {
            *lines = lines.saturating_sub(1);
        }
        if self.done() { Flow::Enough } else { Flow::More }
    }

    fn wanted(&self, entry: &Entry<'_>) -> bool {
        if self.options.stream != Stream::All && self.options.stream != entry.stream {
            return false;
        }
        let Some(since) = self.options.since else { return true };
        entry.time.parse::<jiff::Timestamp>().is_ok_and(|time| time >= since)
    }

    fn put(&mut self, text: &[u8]) {
        let room = self.bytes.map_or(text.len(), |bytes| usize::try_from(bytes).unwrap_or(usize::MAX).min(text.len()));
        self.out.put_slice(&text[..room]);
        if let Some(bytes) = &mut self.bytes {
            *bytes -= room as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:01.5Z stdout F one\n\
        2026-01-01T00:00:02.000000001Z stderr P tw\n\
        2026-01-01T00:00:03Z stderr F o\n\
        rubbish\n\
        2026-01-01T00:00:04+01:00 stdout F four\n";

    fn shown(options: LogOptions) -> String {
        let mut writer = Writer::new(options);
        for line in LOG.split_inclusive('\n') {
            if writer.line(line.as_bytes()) == Flow::Enough {
                break;
            }
        }
        String::from_utf8(writer.out.to_vec()).unwrap()
    }

    #[test]
    fn parts_are_joined() {
        assert_eq!(shown(LogOptions::default()), "one\ntwo\nfour\n");
    }

    #[test]
    fn timestamps_stand_before_whole_lines() {
        let options = LogOptions { timestamps: true, ..LogOptions::default() };
        assert_eq!(
            shown(options),
            "2026-01-01T00:00:01.500000000Z one\n2026-01-01T00:00:02.000000001Z two\n2026-01-01T00:00:04.000000000+01:00 four\n"
        );
    }

    #[test]
    fn bounds() {
        let of = |options| shown(options);
        assert_eq!(of(LogOptions { limit: Some(5), ..LogOptions::default() }), "one\nt");
        assert_eq!(of(LogOptions { tail: Some(1), ..LogOptions::default() }), "one\n");
        assert_eq!(of(LogOptions { stream: Stream::Stderr, ..LogOptions::default() }), "two\n");
        let since = "2026-01-01T00:00:02Z".parse().ok();
        assert_eq!(of(LogOptions { since, ..LogOptions::default() }), "two\n");
        // The time stamp counts too.
        assert_eq!(of(LogOptions { limit: Some(4), timestamps: true, ..LogOptions::default() }), "2026");
    }

    #[test]
    fn entries() {
        for line in ["", "x", "2026-01-01T00:00:00Z stdin F x", "2026-01-01T00:00:00Z stdout", "1 stdout F x"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        let entry = parse(b"2026-01-01T00:00:00Z stdout P:future text\n").unwrap();
        assert_eq!(entry.text, b"text");
    }
}
