//! Links in proxied pages: a page below `/proxy/` that links to `/x` means its own `/x`, not the API server's.

use std::{borrow::Cow, ops::Range};

/// Attributes that hold a URL, by element (HTML 4 and 5).
const ATTRIBUTES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is text: what looks like a tag in there is none.
const TEXT_ELEMENTS: [&str; 4] = ["script", "style", "textarea", "title"];

/// Where a page was fetched, for rewriting its links.
#[derive(Clone, Debug)]
pub(super) struct Links {
    /// The path at the API server that stands for the backend's root, without a slash at its end.
    pub prefix: String,
    /// Host and port of the backend.
    pub backend: String,
    /// Host and port by which the client calls the API server.
    pub server: String,
}

impl Links {
    /// The link through the proxy; `None` for a relative one or one that leads elsewhere.
    pub(super) fn rewrite(&self, link: &str) -> Option<String> {
        let (scheme, rest) = split_scheme(link);
        let (host, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())),
            None => ("", rest),
        };
        if !path.starts_with('/') || !(host.is_empty() || host == self.backend || host == self.server) {
            return None;
        }
        let origin = if host.is_empty() || host != self.server { "" } else { &link[..scheme.len() + 2 + host.len()] };
        let prefix = if path.starts_with(&self.prefix) { "" } else { &self.prefix };
        Some(format!("{origin}{prefix}{path}"))
    }

    /// The page with its links rewritten.
    pub(super) fn rewrite_page<'a>(&self, page: &'a str) -> Cow<'a, str> {
        let mut out = String::new();
        let mut done = 0;
        for value in link_values(page) {
            if let Some(link) = self.rewrite(&page[value.clone()].replace("&amp;", "&")) {
                out.push_str(&page[done..value.start]);
                out.push_str(&link.replace('&', "&amp;"));
                done = value.end;
            }
        }
        if done == 0 {
            return Cow::Borrowed(page);
        }
        out.push_str(&page[done..]);
        Cow::Owned(out)
    }
}

/// A URL's scheme with its colon, which may be empty, and what follows.
fn split_scheme(link: &str) -> (&str, &str) {
    let is_scheme = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
    };
    match link.find(':') {
        Some(at) if is_scheme(&link[..at]) => link.split_at(at + 1),
        _ => ("", link),
    }
}

/// Where the page's attributes with URLs have their values.
fn link_values(page: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(open) = page[at..].find('<').map(|offset| at + offset) {
        let rest = &page[open..];
        if let Some(comment) = rest.strip_prefix("<!--") {
            at = comment.find("-->").map_or(page.len(), |end| open + 4 + end + 3);
            continue;
        }
        let name_length = rest[1..].bytes().take_while(u8::is_ascii_alphanumeric).count();
        let name = rest[1..1 + name_length].to_ascii_lowercase();
        let names = ATTRIBUTES.iter().find(|(element, _)| *element == name).map_or(&[][..], |(_, names)| names);
        at = open + 1 + name_length;
        if name.is_empty() {
            continue;
        }
        at = attributes(page, at, |attribute, value| {
            if names.iter().any(|name| name.eq_ignore_ascii_case(attribute)) {
                found.push(value);
            }
        });
        if TEXT_ELEMENTS.contains(&name.as_str()) {
            at = end_of_text(page, at, &name);
        }
    }
    found
}

/// Calls `each` with the attributes of the tag that `at` is inside of; returns where the tag ends.
fn attributes(page: &str, mut at: usize, mut each: impl FnMut(&str, Range<usize>)) -> usize {
    let bytes = page.as_bytes();
    let skip = |at: usize, stop: fn(u8) -> bool| {
        bytes[at..].iter().position(|b| stop(*b)).map_or(bytes.len(), |offset| at + offset)
    };
    loop {
        at = skip(at, |b| !b.is_ascii_whitespace() && b != b'/');
        if at >= bytes.len() || bytes[at] == b'>' {
            return (at + 1).min(bytes.len());
        }
        let name_end = skip(at + 1, |b| b.is_ascii_whitespace() || matches!(b, b'=' | b'>' | b'/'));
        let name = &page[at..name_end];
        at = skip(name_end, |b| !b.is_ascii_whitespace());
        if bytes.get(at) != Some(&b'=') {
            continue;
        }
        at = skip(at + 1, |b| !b.is_ascii_whitespace());
        let (start, end) = match bytes.get(at) {
            Some(b'"') => (at + 1, skip(at + 1, |b| b == b'"')),
            Some(b'\'') => (at + 1, skip(at + 1, |b| b == b'\'')),
            _ => (at, skip(at, |b| b.is_ascii_whitespace() || b == b'>')),
        };
        each(name, start..end);
        at = if start == at { end } else { (end + 1).min(bytes.len()) };
    }
}

/// Where the end tag of an element with text content begins.
fn end_of_text(page: &str, from: usize, name: &str) -> usize {
    let closes = |at: &usize| {
        let rest = &page.as_bytes()[at + 2..];
        rest.get(..name.len()).is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
    };
    page[from..].match_indices("</").map(|(offset, _)| from + offset).find(closes).unwrap_or(page.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links() -> Links {
        Links {
            prefix: "/api/v1/namespaces/a/pods/b/proxy".into(),
            backend: "10.0.0.1:80".into(),
            server: "k8s:6443".into(),
        }
    }

    #[test]
    fn only_links_to_the_backends_own_root_change() {
        for (link, want) in [
            ("/x?y=1#z", Some("/api/v1/namespaces/a/pods/b/proxy/x?y=1#z")),
            ("http://10.0.0.1:80/x", Some("/api/v1/namespaces/a/pods/b/proxy/x")),
            ("//10.0.0.1:80/x", Some("/api/v1/namespaces/a/pods/b/proxy/x")),
            ("https://k8s:6443/x", Some("https://k8s:6443/api/v1/namespaces/a/pods/b/proxy/x")),
            ("/api/v1/namespaces/a/pods/b/proxy/x", Some("/api/v1/namespaces/a/pods/b/proxy/x")),
            ("x/y", None),
            ("#z", None),
            ("mailto:a@b", None),
            ("http://elsewhere/x", None),
            ("http://10.0.0.1:80", None),
        ] {
            assert_eq!(links().rewrite(link).as_deref(), want, "{link}");
        }
    }

    #[test]
    fn pages_keep_everything_but_their_links() {
        let p = "/api/v1/namespaces/a/pods/b/proxy";
        for (page, want) in [
            (r#"<a href="/x">test</a>"#, format!(r#"<a href="{p}/x">test</a>"#)),
            ("<A class=c HREF = '/x' >t", format!("<A class=c HREF = '{p}/x' >t")),
            ("<img src=/i.png alt=/j>", format!("<img src={p}/i.png alt=/j>")),
            (r#"<a href="/x?a=1&amp;b=2">"#, format!(r#"<a href="{p}/x?a=1&amp;b=2">"#)),
            (
                r#"<script src="/s.js">"<a href='/no'>"</script><a href=/y>"#,
                format!(r#"<script src="{p}/s.js">"<a href='/no'>"</script><a href={p}/y>"#),
            ),
            (r#"<!-- <a href="/no"> --><p title="/no">1 < 2"#, r#"<!-- <a href="/no"> --><p title="/no">1 < 2"#.into()),
            ("<a href=", "<a href=".into()),
            ("<a href=\"/x", format!("<a href=\"{p}/x")),
        ] {
            assert_eq!(links().rewrite_page(page), want);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_page(page in "(<|a|/|href|=|\"|'| |>|<!--|script|é|x){0,40}") {
            links().rewrite_page(&page);
        }
    }
}
