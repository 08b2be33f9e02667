//! Lists: pages of the newest state, of an old root, or of the store's history.

use std::{
    collections::VecDeque,
    ops::Bound,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::Bytes;

use super::{
    super::{KeyRange, RangeOptions, Revision, StoreError},
    CacheError, CachedObject, EventKind, Inner, ResourceSpec, Selection,
    ring::Root,
    token::{self, Continue},
};

/// Old roots that are kept for lists of several pages.
const SNAPSHOTS: usize = 32;
const SNAPSHOT_AGE: std::time::Duration = std::time::Duration::from_secs(300);

const LIST_EXPIRED: &str = "The resourceVersion for the provided list is too old.";
const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can \
     start a new list without the continue parameter.";
const CONTINUE_INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You \
     can start a new list without the continue parameter, or use the continue token in this response to retrieve the \
     remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were \
     created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

/// Which state a read wants, from `resourceVersion` and `resourceVersionMatch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResourceVersion {
    /// Unset: the newest state, every write acknowledged before the call included.
    #[default]
    MostRecent,
    /// `0`: whatever the cache has.
    Any,
    /// A number (`NotOlderThan`): at least this revision.
    NotOlderThan(Revision),
    /// `Exact`: this very revision.
    Exact(Revision),
}

impl ResourceVersion {
    /// What the query parameters of a get (`limit` 0) or list mean. Combinations must have been validated before.
    pub fn parse(version: &str, version_match: &str, limit: usize) -> Result<Self, CacheError> {
        if version.is_empty() {
            return Ok(Self::MostRecent);
        }
        let revision: Revision =
            version.parse().map_err(|_| CacheError::BadRequest(format!("invalid resource version {version:?}")))?;
        Ok(match (revision, version_match) {
            (_, "Exact") => Self::Exact(revision),
            (0, _) => Self::Any,
            // Before resourceVersionMatch existed, a limit made a version exact.
            (_, "") if limit > 0 => Self::Exact(revision),
            _ => Self::NotOlderThan(revision),
        })
    }
}

/// A list request.
#[derive(Clone, Default)]
pub struct ListQuery {
    /// What is asked for.
    pub selection: Selection,
    /// At most so many items; 0 means all.
    pub limit: usize,
    /// The continue token of the page before; it decides about the version.
    pub continue_token: Option<String>,
    /// Which state.
    pub version: ResourceVersion,
}

/// A page of a list.
#[derive(Clone, Debug, Default)]
pub struct ListPage {
    /// The objects in key order.
    pub items: Vec<Arc<CachedObject>>,
    /// The list's resourceVersion.
    pub revision: Revision,
    /// The token for the next page.
    pub continue_token: Option<String>,
    /// `remainingItemCount`; absent with selectors or on the last page.
    pub remaining: Option<u64>,
}

impl ListPage {
    /// The page as a client gets it: a concatenation of the objects' bytes.
    pub fn encode(&self, api_version: &str, list_kind: &str) -> Bytes {
        let mut metadata = serde_json::json!({ "resourceVersion": self.revision.to_string() });
        if let Some(token) = &self.continue_token {
            metadata["continue"] = token.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        let head = format!(r#"{{"kind":"{list_kind}","apiVersion":"{api_version}","metadata":{metadata},"items":["#);
        let length: usize = self.items.iter().map(|item| item.bytes().len() + 1).sum();
        let mut body = Vec::with_capacity(head.len() + length + 3);
        body.extend_from_slice(head.as_bytes());
        for (at, item) in self.items.iter().enumerate() {
            if at > 0 {
                body.push(b',');
            }
            body.extend_from_slice(item.bytes());
        }
        body.extend_from_slice(b"]}\n");
        Bytes::from(body)
    }
}

/// Roots that continue tokens were given out for.
#[derive(Default)]
pub(super) struct Snapshots(VecDeque<(Revision, Root, Instant)>);

impl Snapshots {
    fn get(&mut self, revision: Revision) -> Option<Root> {
        self.prune();
        self.0.iter().find(|(at, ..)| *at == revision).map(|(_, root, _)| root.clone())
    }

    fn keep(&mut self, revision: Revision, root: &Root) {
        self.prune();
        if self.0.iter().all(|(at, ..)| *at != revision) {
            self.0.push_back((revision, root.clone(), Instant::now()));
        }
        while self.0.len() > SNAPSHOTS {
            self.0.pop_front();
        }
    }

    /// Lets go of roots that nobody continues with any more.
    pub fn prune(&mut self) {
        while self.0.front().is_some_and(|(.., made)| made.elapsed() > SNAPSHOT_AGE) {
            self.0.pop_front();
        }
    }
}

/// The key prefix a selection confines a scan to.
fn scan_prefix(spec: &ResourceSpec, selection: &Selection) -> String {
    match &selection.namespace {
        Some(namespace) if spec.namespaced => format!("{}{namespace}/", spec.prefix),
        _ => spec.prefix.clone(),
    }
}

/// The objects of a root that can match, in order, from `start` on.
pub(super) fn scan<'a>(
    spec: &ResourceSpec,
    root: &'a Root,
    selection: &Selection,
    start: Option<&str>,
) -> Box<dyn Iterator<Item = &'a Arc<CachedObject>> + Send + 'a> {
    let prefix = scan_prefix(spec, selection);
    let name = selection.name.as_deref().or_else(|| selection.required("metadata.name"));
    if let (Some(name), None, true) = (name, start, !spec.namespaced || selection.namespace.is_some()) {
        return Box::new(root.get(format!("{prefix}{name}").as_str()).into_iter());
    }
    let start = start.unwrap_or(&prefix).to_owned();
    let objects = root.range::<_, str>((Bound::Included(start.as_str()), Bound::Unbounded)).map(|(_, object)| object);
    Box::new(objects.take_while(move |object| object.key().starts_with(&prefix)))
}

/// Answers a list.
pub(super) async fn list(inner: &Arc<Inner>, query: ListQuery) -> Result<ListPage, CacheError> {
    let prefix = scan_prefix(&inner.spec, &query.selection);
    let position = match query.continue_token.as_deref().filter(|token| !token.is_empty()) {
        Some(token) => Some(token::decode(token, &prefix)?),
        None => None,
    };
    let version = match &position {
        Some(Continue { revision: Some(revision), .. }) => ResourceVersion::Exact(*revision),
        Some(Continue { revision: None, .. }) => ResourceVersion::MostRecent,
        None => query.version,
    };
    let start = position.as_ref().map(|position| position.start.as_str());
    let (root, revision, complete) = state_of(inner, version, &prefix, start).await?;
    let page = page(&inner.spec, &root, revision, &query, start);
    let metrics = inner.metrics();
    metrics.lists.inc();
    metrics.list_fetched.inc_by(page.items.len() as u64);
    metrics.list_returned.inc_by(page.items.len() as u64);
    if complete && page.continue_token.is_some() {
        inner.snapshots.lock().keep(revision, &root);
    }
    Ok(page)
}

/// The objects of a version, its revision, and whether they are all of the resource's rather than some of `prefix`.
async fn state_of(
    inner: &Arc<Inner>,
    version: ResourceVersion,
    prefix: &str,
    start: Option<&str>,
) -> Result<(Root, Revision, bool), CacheError> {
    let suspect = || inner.suspect.load(Ordering::Acquire);
    if let ResourceVersion::Exact(revision) = version {
        inner.wait_for(revision).await?;
        if let Some(root) = known_root(inner, revision).filter(|_| !suspect()) {
            return Ok((root, revision, true));
        }
        let (root, _) = stored_root(inner, Some(revision), prefix, start).await?;
        return Ok((root, revision, false));
    }
    let consistent = version == ResourceVersion::MostRecent;
    match inner.fresh(version).await {
        Ok(()) if !suspect() => {
            if consistent {
                inner.metrics().consistent_reads.inc();
            }
            let state = inner.state.read();
            return Ok((state.root.clone(), state.revision, true));
        }
        // A cache that does not keep up must not keep a consistent read from being answered.
        Err(CacheError::TooLargeResourceVersion { .. }) if consistent => {
            inner.metrics().consistent_read_failures.inc();
        }
        Ok(()) => {}
        Err(error) => return Err(error),
    }
    let (root, revision) = stored_root(inner, None, prefix, start).await?;
    Ok((root, revision, false))
}

fn page(spec: &ResourceSpec, root: &Root, revision: Revision, query: &ListQuery, start: Option<&str>) -> ListPage {
    let selection = &query.selection;
    let mut page = ListPage { revision, ..ListPage::default() };
    let mut objects = scan(spec, root, selection, start);
    if query.limit == 0 {
        page.items.extend(objects.filter(|object| selection.matches(object)).cloned());
        return page;
    }
    while page.items.len() < query.limit {
        let Some(object) = objects.next() else { return page };
        if selection.matches(object) {
            page.items.push(object.clone());
        }
    }
    let rest = if selection.is_filtered() { u64::from(objects.next().is_some()) } else { objects.count() as u64 };
    if let (true, Some(last)) = (rest > 0, page.items.last()) {
        page.continue_token =
            token::encode(&format!("{}\0", last.key()), &scan_prefix(spec, selection), Some(revision));
        page.remaining = (!selection.is_filtered()).then_some(rest);
    }
    page
}

/// The objects at an old revision: a kept root, or the newest with the ring's events taken back.
fn known_root(inner: &Inner, revision: Revision) -> Option<Root> {
    let kept = inner.snapshots.lock().get(revision);
    kept.or_else(|| inner.state.read().root_at(revision))
}

/// The objects of `prefix` from `start` on, at an old revision or the newest, from the store.
async fn stored_root(
    inner: &Arc<Inner>,
    revision: Option<Revision>,
    prefix: &str,
    start: Option<&str>,
) -> Result<(Root, Revision), CacheError> {
    let options = RangeOptions { revision, ..RangeOptions::default() };
    let range = KeyRange::prefix_from(prefix, start.unwrap_or(prefix));
    let result = inner.store.range(range, options).await.map_err(|error| match error {
        StoreError::Compacted { .. } => compacted(prefix, start),
        StoreError::FutureRevision { requested, current } => CacheError::TooLargeResourceVersion { requested, current },
        other => CacheError::Store(other),
    })?;
    let mut root = Root::new();
    for kv in &result.kvs {
        root.insert(kv.key.clone(), Arc::new(CachedObject::ingest(kv, &inner.spec, EventKind::Added)?));
    }
    Ok((root, revision.unwrap_or(result.revision)))
}

fn compacted(prefix: &str, start: Option<&str>) -> CacheError {
    let Some(start) = start else { return CacheError::expired(LIST_EXPIRED) };
    match token::encode(start, prefix, None) {
        Some(token) => CacheError::Expired { message: CONTINUE_INCONSISTENT.to_owned(), continue_token: Some(token) },
        None => CacheError::expired(CONTINUE_EXPIRED),
    }
}
