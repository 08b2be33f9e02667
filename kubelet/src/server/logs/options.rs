//! What part of a log is wanted: the query of `/containerLogs`. Pure.

use http::StatusCode;
use jiff::Timestamp;

use crate::server::lookup::Refusal;
use crate::server::query::Query;

/// Which of the container's streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stream {
    /// Both, as they were written.
    #[default]
    All,
    Stdout,
    Stderr,
}

/// The wanted part of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogOptions {
    pub(super) follow: bool,
    pub(super) previous: bool,
    pub(super) timestamps: bool,
    pub(super) tail: Option<u64>,
    pub(super) since: Option<Timestamp>,
    pub(super) limit: Option<u64>,
    pub(super) stream: Stream,
}

fn undecodable() -> Refusal {
    Refusal::bad(r#"{"message": "Unable to decode query."}"#)
}

fn invalid() -> Refusal {
    Refusal(StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#.into())
}

fn number(query: &Query, key: &str) -> Result<Option<i64>, Refusal> {
    let text = query.get(key).filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|_| undecodable())).transpose()
}

impl LogOptions {
    /// Reads and checks the query; `now` is what `sinceSeconds` counts back from.
    pub(super) fn parse(query: &Query, now: Timestamp) -> Result<Self, Refusal> {
        let tail = match query.get("tail").filter(|tail| !tail.is_empty()) {
            Some("all") => None,
            Some(_) => number(query, "tail")?,
            None => number(query, "tailLines")?,
        };
        let limit = number(query, "limitBytes")?;
        let seconds = number(query, "sinceSeconds")?;
        let time = query.get("sinceTime").filter(|text| !text.is_empty());
        let time: Option<Timestamp> = time.map(|text| text.parse().map_err(|_| undecodable())).transpose()?;
        let stream = match query.get("stream") {
            None | Some("" | "All") => Stream::All,
            Some("Stdout") => Stream::Stdout,
            Some("Stderr") => Stream::Stderr,
            Some(_) => return Err(invalid()),
        };
        let wrong = tail.is_some_and(|lines| lines < 0)
            || limit.is_some_and(|bytes| bytes < 1)
            || seconds.is_some_and(|seconds| seconds < 1)
            || (seconds.is_some() && time.is_some())
            || (stream != Stream::All && tail.is_some());
        if wrong {
            return Err(invalid());
        }
        let ago = seconds
            .map(|seconds| Timestamp::from_second(now.as_second().saturating_sub(seconds)).unwrap_or(Timestamp::MIN));
        Ok(Self {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            tail: tail.and_then(|lines| u64::try_from(lines).ok()),
            since: time.or(ago),
            limit: limit.and_then(|bytes| u64::try_from(bytes).ok()),
            stream,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let now = Timestamp::from_second(1000).unwrap();
        let parse = |query: &str| LogOptions::parse(&Query::parse(query), now);
        let options = parse("follow=true&tailLines=3&sinceSeconds=10&limitBytes=5&timestamps=true").unwrap();
        assert!(options.follow && options.timestamps && !options.previous);
        assert_eq!((options.tail, options.limit), (Some(3), Some(5)));
        assert_eq!(options.since.map(Timestamp::as_second), Some(990));
        assert_eq!(parse("tail=all&tailLines=4").unwrap().tail, None);
        assert_eq!(parse("stream=Stderr").unwrap().stream, Stream::Stderr);
        for (query, code) in [
            ("tailLines=x", 400),
            ("sinceTime=yesterday", 400),
            ("tailLines=-1", 422),
            ("limitBytes=0", 422),
            ("sinceSeconds=0", 422),
            ("sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z", 422),
            ("stream=None", 422),
            ("stream=Stdout&tailLines=1", 422),
        ] {
            assert_eq!(parse(query).unwrap_err().0.as_u16(), code, "{query}");
        }
    }
}
