//! How much work a request is: the seats that it takes, and those that its echo to watchers takes afterwards.

use std::time::Duration;

use crate::request::{Query, RequestInfo};

/// Upstream's limits of seats of one request.
const MOST_OF_LISTS: u64 = 100;
const MOST_OF_WRITES: u64 = 10;
/// What a seat is good for: bytes of a list, watchers of a write.
const BYTES_PER_SEAT: u64 = 100_000;
const WATCHES_PER_SEAT: usize = 10;
/// What a list from the cache, which is sent as it is encoded, takes at most.
const MOST_OF_CACHE: u64 = 1_000_000;
/// How long an event keeps a seat busy.
const EVENT: Duration = Duration::from_millis(5);
/// How long a request is expected to take.
pub const EXPECTED: f64 = 0.003;

/// The seats of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// While it is served.
    pub seats: u64,
    /// Afterwards, for `linger`.
    pub last_seats: u64,
    /// How long seats stay taken after the answer.
    pub linger: Duration,
}

/// How much of a resource there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// Objects.
    pub objects: u64,
    /// Bytes of one of them, on average.
    pub size: u64,
}

impl Work {
    /// A request of one seat.
    pub const ONE: Self = Self { seats: 1, last_seats: 0, linger: Duration::ZERO };

    /// The work of a request at a level whose requests may take `widest` seats; `stock` is of the resource in question.
    #[must_use]
    pub fn of(
        info: &RequestInfo,
        query: &Query,
        widest: Option<u64>,
        stock: impl FnOnce() -> Option<Stock>,
        watches: impl FnOnce() -> usize,
    ) -> Self {
        if !info.is_resource {
            return Self::ONE;
        }
        match info.verb.as_str() {
            "list" | "watch" => {
                let Some(bytes) = stock().and_then(|stock| loaded(info, query, stock)) else { return Self::ONE };
                let most = widest.map_or(MOST_OF_LISTS, |widest| widest.min(MOST_OF_LISTS));
                Self { seats: bytes.div_ceil(BYTES_PER_SEAT).max(1).min(most), ..Self::ONE }
            }
            "create" | "update" | "patch" | "delete" => {
                if info.resource == "serviceaccounts" && info.subresource == "token" {
                    return Self::ONE;
                }
                echo(watches(), widest.map_or(MOST_OF_WRITES, |widest| widest.min(MOST_OF_WRITES)))
            }
            _ => Self::ONE,
        }
    }

    /// The seats that it needs in order to start.
    #[must_use]
    pub fn widest(&self) -> u64 {
        self.seats.max(self.last_seats)
    }

    /// Seat-seconds of what follows the answer.
    #[must_use]
    pub fn after(&self) -> f64 {
        self.last_seats as f64 * self.linger.as_secs_f64()
    }

    /// Seat-seconds in total.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.seats as f64 * EXPECTED + self.after()
    }
}

/// The bytes that a list has in memory at once; `None` when the request sends no list.
fn loaded(info: &RequestInfo, query: &Query, stock: Stock) -> Option<u64> {
    let text = |key: &str| query.get(key).unwrap_or_default();
    let version = text("resourceVersion");
    if info.verb == "watch" && !query.flag("sendInitialEvents") && !matches!(version, "" | "0") {
        return None;
    }
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let limited = limit.map_or(stock.objects, |limit: u64| limit.min(stock.objects));
    let from_cache = info.verb == "watch"
        || match text("resourceVersionMatch") {
            "NotOlderThan" => true,
            "" => text("continue").is_empty() && (limit.is_none() || matches!(version, "" | "0")),
            _ => false,
        };
    let selects = query.non_empty("labelSelector").or_else(|| query.non_empty("fieldSelector")).is_some();
    let objects = match from_cache {
        _ if !info.name.is_empty() => 1,
        false if selects => limited.max(stock.objects / 2),
        _ => limited,
    };
    let bytes = objects.saturating_mul(stock.size);
    Some(if from_cache { bytes.min(MOST_OF_CACHE) } else { bytes })
}

/// A write that few watch is over with its answer; with many, telling them takes seats for a while.
fn echo(watches: usize, most: u64) -> Work {
    if watches < WATCHES_PER_SEAT {
        return Work::ONE;
    }
    let wanted = watches.div_ceil(WATCHES_PER_SEAT) as u64;
    let seats = wanted.min(most);
    // As much work, by fewer seats.
    Work { seats: 1, last_seats: seats, linger: EVENT.mul_f64(wanted as f64 / seats as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(method: &str, url: &str, stock: Option<Stock>, watches: usize) -> Work {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let query = Query::parse(query);
        let info = RequestInfo::parse(method, path, &query).unwrap();
        Work::of(&info, &query, Some(15), || stock, || watches)
    }

    #[test]
    fn lists_are_as_wide_as_they_are_long() {
        let stock = |objects| Some(Stock { objects, size: 2_000 });
        for (url, objects, want) in [
            ("/api/v1/pods", 10, 1),
            ("/api/v1/pods", 10_000, 10),
            ("/api/v1/pods?limit=100", 10_000, 2),
            ("/api/v1/pods?limit=500&resourceVersion=7", 10_000, 10),
            ("/api/v1/pods?continue=x", 10_000, 15),
            ("/api/v1/pods?resourceVersion=7&resourceVersionMatch=Exact&limit=10&labelSelector=a", 1_000, 10),
            ("/api/v1/pods?fieldSelector=metadata.name%3Dx", 10_000, 1),
            ("/api/v1/pods?watch=1", 10_000, 10),
            ("/api/v1/pods?watch=1&resourceVersion=0", 10_000, 10),
            ("/api/v1/pods?watch=1&resourceVersion=7", 10_000, 1),
            ("/api/v1/pods?watch=1&resourceVersion=7&sendInitialEvents=true", 10_000, 10),
            ("/api/v1/namespaces/a/pods/b", 10_000, 1),
            ("/healthz", 10_000, 1),
        ] {
            assert_eq!(work("GET", url, stock(objects), 0), Work { seats: want, ..Work::ONE }, "{url}");
        }
        assert_eq!(work("GET", "/api/v1/nonsense", None, 0), Work::ONE);
    }

    #[test]
    fn writes_with_many_watchers_linger() {
        let pod = "/api/v1/namespaces/a/pods/b";
        assert_eq!(work("PUT", pod, None, 9), Work::ONE);
        assert_eq!(work("PUT", pod, None, 25), Work { seats: 1, last_seats: 3, linger: EVENT });
        let wide = work("PUT", pod, None, 200);
        assert_eq!((wide.last_seats, wide.linger), (10, EVENT * 2));
        assert_eq!(work("POST", "/api/v1/namespaces/a/serviceaccounts/x/token", None, 200), Work::ONE);
    }
}
