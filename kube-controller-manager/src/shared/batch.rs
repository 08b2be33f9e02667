//! Slow start: batches of 1, 2, 4, ... calls, so that a quota or webhook that denies everything
//! costs one call and not five hundred.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{StreamExt, stream};

/// At most this many calls of a batch are under way at once.
pub(crate) const CONCURRENT_CALLS: usize = 32;

/// Runs `call` up to `count` times in doubling batches; stops after the first batch with a failure.
/// Answers how many succeeded and the first error.
pub(crate) async fn slow_start<F, Fut, E>(count: usize, initial: usize, call: F) -> (usize, Result<(), E>)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    let mut remaining = count;
    let mut successes = 0;
    let mut size = remaining.min(initial);
    while size > 0 {
        let mut first_error = None;
        let mut results = stream::iter((0..size).map(|_| call())).buffer_unordered(CONCURRENT_CALLS);
        while let Some(result) = results.next().await {
            match result {
                Ok(()) => successes += 1,
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        if let Some(error) = first_error {
            return (successes, Err(error));
        }
        remaining -= size;
        size = remaining.min(size * 2);
    }
    (successes, Ok(()))
}

/// Runs `call` for each item in doubling batches; see [`slow_start`].
pub(crate) async fn slow_start_over<'a, T, F, Fut, E>(items: &'a [T], call: F) -> (usize, Result<(), E>)
where
    F: Fn(&'a T) -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    let next = AtomicUsize::new(0);
    slow_start(items.len(), 1, || call(&items[next.fetch_add(1, Ordering::Relaxed)])).await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(count: usize, fail_from: usize) -> (usize, bool, usize) {
        let calls = AtomicUsize::new(0);
        let (ok, result) = slow_start(count, 1, || async {
            if calls.fetch_add(1, Ordering::SeqCst) >= fail_from { Err(()) } else { Ok(()) }
        })
        .await;
        (ok, result.is_ok(), calls.load(Ordering::SeqCst))
    }

    #[tokio::test]
    async fn stops_after_a_failing_batch() {
        assert_eq!(run(0, 9).await, (0, true, 0));
        assert_eq!(run(500, 500).await, (500, true, 500));
        assert_eq!(run(500, 0).await, (0, false, 1));
        // 1 + 2 succeed, of the batch of 4 two succeed: 5 of 7 calls.
        assert_eq!(run(500, 5).await, (5, false, 7));
    }
}
