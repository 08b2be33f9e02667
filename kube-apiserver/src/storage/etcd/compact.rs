//! Forgetting history, agreed among all apiservers of the cluster (upstream's too): who first moves the version of
//! `compact_rev_key` on compacts, the others learn of it and try again an interval later.

use std::{sync::Arc, time::Duration};

use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse};

use super::{Inner, call, header};
use crate::storage::{Revision, StoreError};

const KEY: &str = "compact_rev_key";

/// What this server knows of the last turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Turn {
    /// The key's version: the number of the turn.
    version: i64,
    /// The store's revision at that turn, which is old enough at the next.
    revision: Revision,
}

/// Compacts until dropped.
pub(super) async fn run(inner: Arc<Inner>, interval: Duration) {
    let mut turn = Turn::default();
    loop {
        tokio::time::sleep(interval).await;
        match take_turn(&inner, turn).await {
            Ok(next) => turn = next,
            Err(error) => tracing::warn!(%error, "etcd: cannot compact"),
        }
    }
}

async fn take_turn(inner: &Inner, turn: Turn) -> Result<Turn, StoreError> {
    let txn = Txn::new()
        .when([Compare::version(KEY, CompareOp::Equal, turn.version)])
        .and_then([TxnOp::put(KEY, turn.revision.to_string(), None)])
        .or_else([TxnOp::get(KEY, None)]);
    let answer = inner.txn(txn).await?;
    let revision = header(answer.header());
    if !answer.succeeded() {
        let theirs = answer.op_responses().into_iter().find_map(|response| match response {
            TxnOpResponse::Get(got) => got.kvs().first().map(|kv| kv.version()),
            _ => None,
        });
        return Ok(Turn { version: theirs.unwrap_or(0), revision });
    }
    let next = Turn { version: turn.version + 1, revision };
    if turn.revision != 0 {
        let mut kv = inner.kv();
        match call(kv.compact(turn.revision as i64, None)).await {
            Ok(_) | Err(StoreError::Compacted { .. }) => {
                tracing::debug!(revision = turn.revision, "etcd: compacted");
            }
            Err(error) => tracing::warn!(%error, revision = turn.revision, "etcd: cannot compact"),
        }
    }
    Ok(next)
}
