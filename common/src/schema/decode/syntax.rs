//! Go's words for text that is no JSON.

/// Go's decoder goes no deeper.
const MAX_DEPTH: usize = 10_000;

/// What Go's decoder says where serde's says `error`.
pub fn syntax_error(bytes: &[u8], error: &serde_json::Error) -> String {
    match check_syntax(bytes) {
        Err(text) => text,
        Ok(()) if error.to_string().starts_with("recursion limit exceeded") => "exceeded max depth".into(),
        Ok(()) => error.to_string(),
    }
}

/// Reads a text as Go's scanner does, which goes over all of it before anything is decoded.
///
/// # Errors
/// The first thing that is wrong with it, in Go's words.
pub fn check_syntax(text: &[u8]) -> Result<(), String> {
    let mut scanner = Scanner { text, at: 0, open: Vec::new() };
    let mut next = Next::Value;
    while next != Next::Nothing || !scanner.at_end() {
        next = scanner.step(next)?;
    }
    Ok(())
}

/// What may follow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    /// A comma or the end of what is open.
    More,
    /// The end of the text.
    Nothing,
}

struct Scanner<'t> {
    text: &'t [u8],
    at: usize,
    open: Vec<u8>,
}

impl Scanner<'_> {
    fn at_end(&mut self) -> bool {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
        self.at == self.text.len()
    }

    fn step(&mut self, next: Next) -> Result<Next, String> {
        if self.at_end() {
            return Err(ended());
        }
        let byte = self.text[self.at];
        self.at += 1;
        let closes = self.open.last() == Some(&b'{') && byte == b'}' || self.open.last() == Some(&b'[') && byte == b']';
        match next {
            Next::Nothing => Err(misplaced(byte, "after top-level value")),
            Next::ValueOrEnd | Next::KeyOrEnd | Next::More if closes => {
                self.open.pop();
                Ok(self.after_value())
            }
            Next::Value | Next::ValueOrEnd => self.value(byte),
            Next::Key | Next::KeyOrEnd if byte == b'"' => self.string().map(|()| Next::Colon),
            Next::Key | Next::KeyOrEnd => Err(misplaced(byte, "looking for beginning of object key string")),
            Next::Colon if byte == b':' => Ok(Next::Value),
            Next::Colon => Err(misplaced(byte, "after object key")),
            Next::More => match (self.open.last(), byte) {
                (Some(b'{'), b',') => Ok(Next::Key),
                (_, b',') => Ok(Next::Value),
                (Some(b'{'), _) => Err(misplaced(byte, "after object key:value pair")),
                _ => Err(misplaced(byte, "after array element")),
            },
        }
    }

    fn after_value(&self) -> Next {
        if self.open.is_empty() { Next::Nothing } else { Next::More }
    }

    fn value(&mut self, first: u8) -> Result<Next, String> {
        match first {
            b'{' | b'[' => {
                if self.open.len() == MAX_DEPTH {
                    return Err(misplaced(first, "exceeded max depth"));
                }
                self.open.push(first);
                return Ok(if first == b'{' { Next::KeyOrEnd } else { Next::ValueOrEnd });
            }
            b'"' => self.string()?,
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            b'-' | b'0'..=b'9' => self.number(first)?,
            _ => return Err(misplaced(first, "looking for beginning of value")),
        }
        Ok(self.after_value())
    }

    /// The next byte; at the end of the text Go's scanner goes on as if there were a space.
    fn next(&mut self) -> u8 {
        let byte = self.text.get(self.at).copied().unwrap_or(b' ');
        self.at += 1;
        byte
    }

    fn string(&mut self) -> Result<(), String> {
        while self.at < self.text.len() {
            match self.next() {
                b'"' => return Ok(()),
                b'\\' => match self.next() {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let digit = self.next();
                            if !digit.is_ascii_hexdigit() {
                                return Err(misplaced(digit, "in \\u hexadecimal character escape"));
                            }
                        }
                    }
                    other => return Err(misplaced(other, "in string escape code")),
                },
                control @ 0..0x20 => return Err(misplaced(control, "in string literal")),
                _ => {}
            }
        }
        Err(ended())
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        for wanted in literal.bytes().skip(1) {
            let found = self.next();
            if found != wanted {
                let expecting = format!("in literal {literal} (expecting '{}')", char::from(wanted));
                return Err(misplaced(found, &expecting));
            }
        }
        Ok(())
    }

    fn number(&mut self, first: u8) -> Result<(), String> {
        let first = if first == b'-' { self.digit("in numeric literal")? } else { first };
        if first != b'0' {
            self.digits();
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digit("after decimal point in numeric literal")?;
            self.digits();
        }
        if matches!(self.text.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.text.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digit("in exponent of numeric literal")?;
            self.digits();
        }
        Ok(())
    }

    fn digit(&mut self, place: &str) -> Result<u8, String> {
        let found = self.next();
        if found.is_ascii_digit() { Ok(found) } else { Err(misplaced(found, place)) }
    }

    fn digits(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }
}

fn ended() -> String {
    "unexpected end of JSON input".into()
}

fn misplaced(byte: u8, place: &str) -> String {
    format!("invalid character {} {place}", quoted(byte))
}

fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        b'\\' => r"'\\'".into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b'\t' => r"'\t'".into(),
        0x07 => r"'\a'".into(),
        0x08 => r"'\b'".into(),
        0x0b => r"'\v'".into(),
        0x0c => r"'\f'".into(),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        0x80..=0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_go_says() {
        let deep = "[".repeat(10_001);
        for (text, want) in [
            ("", "unexpected end of JSON input"),
            ("  ", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("{\"a", "unexpected end of JSON input"),
            ("hello", "invalid character 'h' looking for beginning of value"),
            ("{\"a\":}", "invalid character '}' looking for beginning of value"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{a:1}", "invalid character 'a' looking for beginning of object key string"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("{\"a\":1 2}", "invalid character '2' after object key:value pair"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("[1 2]", "invalid character '2' after array element"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("01", "invalid character '1' after top-level value"),
            ("tru", "invalid character ' ' in literal true (expecting 'e')"),
            ("nul]", "invalid character ']' in literal null (expecting 'l')"),
            ("-", "invalid character ' ' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1e", "invalid character ' ' in exponent of numeric literal"),
            ("{\"a\":\"\n\"}", "invalid character '\\n' in string literal"),
            ("{\"a\":\"\\x\"}", "invalid character 'x' in string escape code"),
            ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("'", "invalid character '\\'' looking for beginning of value"),
            (&deep, "invalid character '[' exceeded max depth"),
        ] {
            assert_eq!(check_syntax(text.as_bytes()), Err(want.to_owned()), "{text:.40}");
        }
        for good in ["{}", " [ ] ", "1", "-0.5e+3", "\"\\u00ff\\n\"", "[{\"a\":[true,false,null]},2]", "null "] {
            assert_eq!(check_syntax(good.as_bytes()), Ok(()), "{good}");
        }
    }
}
