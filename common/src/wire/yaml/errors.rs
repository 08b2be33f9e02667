//! Syntax errors in the words of upstream's reader, for those that people make.

/// What upstream says of a document that aliases make too large.
pub(super) const TOO_MANY_ALIASES: &str = "document contains excessive aliasing";

/// What finds an error in upstream's reader, which decides what line it tells: the parser's are one too low.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finder {
    Scanner,
    Parser,
    /// Nobody: no line is told.
    Loader,
}

/// What our reader says (the beginning of it), and what upstream's does.
const WORDS: &[(&str, Finder, &str)] = &[
    ("tabs disallowed", Finder::Scanner, "found character that cannot start any token"),
    ("unexpected character", Finder::Scanner, "found character that cannot start any token"),
    ("unclosed quote", Finder::Scanner, "found unexpected end of stream"),
    ("found unknown escape character", Finder::Scanner, "found unknown escape character"),
    ("did not find expected comment", Finder::Scanner, "did not find expected comment or line break"),
    ("misplaced bracket", Finder::Parser, "did not find expected node content"),
    ("unexpected EOF while parsing an implicit flow mapping", Finder::Parser, "did not find expected node content"),
    ("did not find expected", Finder::Parser, ""),
    ("unsupported YAML major version", Finder::Loader, "found incompatible YAML document"),
    ("YAML merge value", Finder::Loader, "map merge requires map or sequence of maps as the value"),
    ("invalid !!binary base64", Finder::Loader, "!!binary value contains invalid base64 data"),
    ("budget breached", Finder::Loader, TOO_MANY_ALIASES),
    (TOO_MANY_ALIASES, Finder::Loader, TOO_MANY_ALIASES),
    ("alias", Finder::Loader, TOO_MANY_ALIASES),
];

/// An error in the form of upstream's reader: with a line unless it is the first, and no picture of it.
pub(super) fn told(error: &str, text: &str) -> String {
    let error = error.lines().next().unwrap_or_default().trim_start_matches("error: ");
    let (line, column, what) = located(error).unwrap_or((1, 1, error));
    let what = if what.starts_with("while ") { what.split_once(", ").map_or(what, |(_, what)| what) } else { what };
    let at = || text.lines().nth(line - 1).and_then(|line| line.get(column - 1..)).unwrap_or_default();
    if what.starts_with("non-finite") {
        let value = if at().to_lowercase().contains("nan") {
            "NaN"
        } else if at().starts_with('-') {
            "-Inf"
        } else {
            "+Inf"
        };
        return format!("json: unsupported value: {value}");
    }
    if what.contains("unknown anchor") {
        return format!("yaml: unknown anchor '{}' referenced", alias(at()));
    }
    if what.starts_with("recursive references") {
        return format!("yaml: anchor '{}' value contains itself", alias(at()));
    }
    if what.starts_with("unclosed bracket") || what.starts_with("illegal placement of ':'") {
        return unclosed(text, line);
    }
    let found = WORDS.iter().find(|(ours, ..)| what.starts_with(ours));
    let (finder, what) = found.map_or((Finder::Scanner, what), |(_, finder, theirs)| {
        (*finder, if theirs.is_empty() { what } else { *theirs })
    });
    match (finder, line) {
        (Finder::Loader, _) | (_, 1) => format!("yaml: {what}"),
        (Finder::Scanner, line) => format!("yaml: line {line}: {what}"),
        (Finder::Parser, line) => format!("yaml: line {}: {what}", line - 1),
    }
}

/// `line 3 column 5: ...`
fn located(error: &str) -> Option<(usize, usize, &str)> {
    let (place, what) = error.strip_prefix("line ")?.split_once(": ")?;
    let (line, column) = place.split_once(" column ")?;
    Some((line.parse().ok().filter(|line| *line > 0)?, column.parse().ok().filter(|column| *column > 0)?, what))
}

/// The name of the alias that a text begins with.
fn alias(text: &str) -> &str {
    let name = text.trim_start_matches('*');
    name.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-'))).next().unwrap_or_default()
}

/// A bracket that is not closed where it should be: what is missing follows from the brackets and what stands last.
fn unclosed(text: &str, line: usize) -> String {
    let mut open = Vec::new();
    let until: String = text.lines().take(line.max(1)).collect::<Vec<_>>().join("\n");
    let text = if line == 1 { text } else { until.as_str() };
    let mut lines = 0;
    for c in text.chars() {
        match c {
            '{' | '[' => open.push((c, lines)),
            '}' | ']' => drop(open.pop()),
            '\n' => lines += 1,
            _ => {}
        }
    }
    let (bracket, begins) = open.pop().unwrap_or(('{', 0));
    let empty = text.trim_end().ends_with(['{', '[', ',']);
    let what = match (empty, bracket) {
        (true, _) => "did not find expected node content",
        (false, '[') => "did not find expected ',' or ']'",
        (false, _) => "did not find expected ',' or '}'",
    };
    let line = if begins > 0 { begins } else { lines.max(1) };
    format!("yaml: line {line}: {what}")
}
