//! Go's words for text that is no JSON.

/// What Go's decoder says where serde's says `error`.
pub fn syntax_error(bytes: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() || bytes.iter().all(u8::is_ascii_whitespace) {
        return "unexpected end of JSON input".into();
    }
    let text = error.to_string();
    if text.starts_with("recursion limit exceeded") {
        return "exceeded max depth".into();
    }
    let Some((line, column)) = position(bytes, error) else { return text };
    let at = line[column];
    if let Some(wanted) = text.starts_with("expected ident").then(|| expected_in_literal(&line[..column])).flatten() {
        return format!("invalid character {} {wanted}", quoted(at));
    }
    let looking_for = if text.starts_with("trailing characters") {
        "after top-level value"
    } else if text.starts_with("expected `,` or `}`") {
        "after object key:value pair"
    } else if text.starts_with("expected `,` or `]`") {
        "after array element"
    } else if text.starts_with("expected `:`") {
        "after object key"
    } else if text.starts_with("key must be a string") {
        "looking for beginning of object key string"
    } else if text.starts_with("control character") {
        "in string literal"
    } else if text.starts_with("invalid escape") {
        "in string escape code"
    } else if text.starts_with("trailing comma") {
        "looking for beginning of object key string"
    } else if text.starts_with("expected value") || text.starts_with("expected ident") {
        "looking for beginning of value"
    } else {
        return text;
    };
    format!("invalid character {} {looking_for}", quoted(at))
}

/// The line serde points into, and where.
fn position<'b>(bytes: &'b [u8], error: &serde_json::Error) -> Option<(&'b [u8], usize)> {
    let line = bytes.split(|byte| *byte == b'\n').nth(error.line().checked_sub(1)?)?;
    let column = error.column().saturating_sub(1).min(line.len().checked_sub(1)?);
    Some((line, column))
}

/// What should have followed the beginning of `true`, `false` or `null` that a line ends in.
fn expected_in_literal(before: &[u8]) -> Option<String> {
    ["true", "false", "null"].into_iter().find_map(|literal| {
        let length = (1..literal.len()).rev().find(|length| before.ends_with(&literal.as_bytes()[..*length]))?;
        Some(format!("in literal {literal} (expecting '{}')", literal[length..].chars().next()?))
    })
}

fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b'\t' => r"'\t'".into(),
        0x20..=0x7e => format!("'{}'", char::from(byte)),
        0x80.. => format!("'{}'", char::from(byte)),
        _ => format!("'\\x{byte:02x}'"),
    }
}
