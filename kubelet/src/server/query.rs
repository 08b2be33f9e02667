//! Query strings and path segments. Pure.

use percent_encoding::percent_decode_str;

/// A decoded query string.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

impl Query {
    pub(super) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        });
        Self(pairs.collect())
    }

    /// The first value.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// All values, in order.
    pub(super) fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect()
    }

    /// A boolean as API options take it: present means yes unless it says `false` or `0`.
    pub(super) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !value.eq_ignore_ascii_case("false") && value != "0")
    }

    /// A switch of exec and attach: exactly `1`.
    pub(super) fn switch(&self, key: &str) -> bool {
        self.get(key) == Some("1")
    }
}

/// Decoded segments of a path; a trailing slash adds none.
pub(super) fn segments(path: &str) -> Vec<String> {
    let path = path.trim_matches('/');
    path.split('/').map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes() {
        let query = Query::parse("command=sh&command=-c&command=a+b%26c&tty=1&follow&previous=false");
        assert_eq!(query.all("command"), ["sh", "-c", "a b&c"]);
        assert!(query.switch("tty") && query.flag("follow") && !query.flag("previous") && !query.flag("timestamps"));
        assert_eq!(segments("/exec/a/b%20c/"), ["exec", "a", "b c"]);
    }
}
