//! Ways to the server's parsers for [`crate::fuzz`].

use http::Method;

use super::logs;
use super::query::Query;
use super::routes;

/// What a client that sends this query gets of this log file.
pub(crate) fn show_log(file: &[u8], query: &str) -> Vec<u8> {
    logs::show(file, &Query::parse(query))
}

/// A request's path and query, read by all that read them.
pub(crate) fn request(path: &str, query: &str) {
    for method in [Method::GET, Method::POST] {
        let _ = routes::route(&method, path);
    }
    let query = Query::parse(query);
    let _ = (query.all("command"), query.switch("tty"));
    logs::check(&query);
}
