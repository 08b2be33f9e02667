//! Whether the apiserver answers, learnt from the requests that are sent anyway: what /readyz says about it.

use std::{future::Future, sync::Arc, time::Duration};

use http::{Method, Response, StatusCode, Uri};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower::BoxError;

use super::causes;

/// A request that was given up after this long without an answer counts as a failure; one given up earlier says nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the latest requests of one or more clients came to. Clones share it.
#[derive(Clone, Default)]
pub struct Reach {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Counts requests as they begin.
    begun: u64,
    /// The request, among those that ended, which began last; older ones no longer change the verdict.
    decided_by: u64,
    problem: Option<String>,
}

/// Method, server and path.
pub(super) type What = (Method, Arc<str>, Uri);

impl Reach {
    /// The error of the last request, or that nothing was answered yet.
    pub fn check(&self) -> Result<(), String> {
        let state = self.state.lock();
        match &state.problem {
            Some(problem) => Err(problem.clone()),
            None if state.decided_by == 0 => Err("no request has been answered yet".to_owned()),
            None => Ok(()),
        }
    }

    /// Passes an answer through and notes what it was.
    pub(super) async fn watch<B>(
        self,
        what: What,
        answer: impl Future<Output = Result<Response<B>, BoxError>>,
    ) -> Result<Response<B>, BoxError> {
        let mut pending = self.begin(what);
        let answer = answer.await;
        pending.end(match &answer {
            Ok(response) if response.status() == StatusCode::UNAUTHORIZED => Some("Unauthorized".to_owned()),
            Ok(_) => None,
            Err(error) => Some(causes(error.as_ref())),
        });
        answer
    }

    fn begin(self, what: What) -> Pending {
        let mut state = self.state.lock();
        state.begun += 1;
        let ticket = state.begun;
        drop(state);
        Pending { reach: self, what, ticket, began: Instant::now(), ended: false }
    }
}

struct Pending {
    reach: Reach,
    what: What,
    ticket: u64,
    began: Instant,
    ended: bool,
}

impl Pending {
    fn end(&mut self, problem: Option<String>) {
        self.ended = true;
        let mut state = self.reach.state.lock();
        if self.ticket > state.decided_by {
            state.decided_by = self.ticket;
            let (method, server, uri) = &self.what;
            state.problem = problem.map(|problem| format!("{method} {server}{}: {problem}", uri.path()));
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let waited = self.began.elapsed();
        if !self.ended && waited >= PATIENCE {
            self.end(Some(format!("no answer within {}s", waited.as_secs())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(reach: &Reach, path: &'static str) -> Pending {
        reach.clone().begin((Method::GET, "https://s".into(), Uri::from_static(path)))
    }

    #[test]
    fn the_request_that_began_last_decides() {
        let reach = Reach::default();
        assert_eq!(reach.check().unwrap_err(), "no request has been answered yet");
        let (mut old, mut new) = (begin(&reach, "/old"), begin(&reach, "/new?limit=1"));
        new.end(Some("refused".into()));
        assert_eq!(reach.check().unwrap_err(), "GET https://s/new: refused");
        old.end(None);
        assert!(reach.check().is_err(), "an answer to an older request proves nothing");
        begin(&reach, "/").end(None);
        reach.check().unwrap();
    }

    #[test]
    fn a_request_given_up_counts_when_it_waited_long() {
        let reach = Reach::default();
        begin(&reach, "/").end(None);
        drop(begin(&reach, "/cancelled"));
        reach.check().unwrap();
        let mut slow = begin(&reach, "/slow");
        slow.began = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        drop(slow);
        assert_eq!(reach.check().unwrap_err(), "GET https://s/slow: no answer within 10s");
    }

    #[tokio::test]
    async fn refused_credentials_are_a_failure_and_other_refusals_are_answers() {
        let reach = Reach::default();
        for (status, ready) in [(401, false), (403, true), (401, false), (503, true)] {
            let what = (Method::GET, "https://s".into(), Uri::from_static("/a"));
            let answer = async move { Ok(Response::builder().status(status).body(())?) };
            reach.clone().watch(what, answer).await.unwrap();
            assert_eq!(reach.check().is_ok(), ready, "{status}");
        }
    }
}
