//! WATCH: frames that were encoded once for all watchers, followed until the time is up.

use std::{pin::Pin, time::Duration};

use bytes::{Bytes, BytesMut};
use common::wire;
use futures::{SinkExt, StreamExt, future::BoxFuture, stream};
use http::Response;
use hyper::upgrade::OnUpgrade;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::tungstenite::Message;

use super::{Target, convert, output};
use crate::{
    flowcontrol::Occupied,
    proxy::websocket,
    request::{
        ApiError, ApiResult, RequestInfo,
        negotiate::{self, Encoding, Form, Output},
        options::ListOptions,
        selector,
    },
    resources::table::IncludeObject,
    server::{
        Call, ResourceStore,
        metrics::WatchEvents,
        response::{self, Body, BoxError},
    },
    storage::{
        cache::{CacheError, CachedObject, EventKind, WatchItem, WatchQuery, Watcher, bookmark_frame, protobuf_frame},
        codec,
    },
};

/// Frames that are there at once go out in chunks of about this size.
const CHUNK: usize = 32 * 1024;
/// The length before each event in a stream of protobuf; messages know theirs.
const LENGTH: usize = 4;

/// Serves a watch of a collection or, below `/watch/`, of one object.
///
/// # Errors
/// What is wrong before the stream starts; later errors are ERROR events.
pub async fn serve(call: &Call, target: Target<'_>) -> ApiResult<Response<Body>> {
    let wanted = negotiate::output(&call.headers, true)?;
    let options = ListOptions::parse(&call.query, true)?;
    let query = WatchQuery {
        selection: selection(&call.info, target, &options)?,
        from: options.watch_from()?,
        bookmarks: options.bookmarks,
    };
    let wanted = negotiate::stream(wanted)?;
    let shape = Shape::of(call, target, wanted)?;
    let deadline = Instant::now() + timeout(call, &options);
    let media_type = match wanted.encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    let client = call.upgrade.lock().take();
    let body = match target.store.cache.watch(query).await {
        Ok(mut watcher) => {
            watcher.ends_at(deadline);
            let seat = call.seat.lock().take();
            let encoding = shape.encoding;
            let frames = frames(watcher, shape, deadline, seat);
            match client {
                Some(client) => return over_websocket(call, client, frames, encoding),
                None => response::stream(frames),
            }
        }
        Err(error @ CacheError::Unavailable(_)) => return Err(target.store.cache_error(error)),
        // Whatever else is wrong once the request is understood is told as an event.
        Err(error) => response::full(shape.event("ERROR", &target.store.cache_error(error).to_value())?),
    };
    Ok(response::with_type(200, media_type, body))
}

/// Every event is a message: text in JSON, binary in protobuf.
fn over_websocket(
    call: &Call,
    client: OnUpgrade,
    frames: impl futures::Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
    encoding: Encoding,
) -> ApiResult<Response<Body>> {
    let offered = websocket::requested(&call.headers).unwrap_or_default();
    let protocol = if let [only] = offered.as_slice() { only.as_str() } else { "" };
    let answer = websocket::accept(&call.headers, protocol)?;
    let session = call.session.begin();
    tokio::spawn(async move {
        let _session = session;
        let socket = match websocket::socket(client).await {
            Ok(socket) => socket,
            Err(error) => return tracing::debug!(%error, "the client of a watch did not upgrade"),
        };
        let (mut to_client, mut from_client) = socket.split();
        let mut frames = std::pin::pin!(frames);
        loop {
            let frame = tokio::select! {
                frame = frames.next() => frame,
                said = from_client.next() => match said {
                    Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                    Some(Ok(_)) => continue,
                },
            };
            let Some(Ok(chunk)) = frame else { break };
            let mut messages = stream::iter(messages(&chunk, encoding).into_iter().map(Ok));
            if to_client.send_all(&mut messages).await.is_err() {
                break;
            }
        }
        let _ = to_client.close().await;
    });
    Ok(answer)
}

/// The events of a chunk, each as a message.
fn messages(chunk: &Bytes, encoding: Encoding) -> Vec<Message> {
    let mut found = Vec::new();
    let mut rest = chunk.clone();
    if encoding != Encoding::Protobuf {
        let lines = rest.split_inclusive(|byte| *byte == b'\n');
        return lines.map(|line| Message::text(String::from_utf8_lossy(line).into_owned())).collect();
    }
    while let Some((length, _)) = rest.split_first_chunk::<LENGTH>() {
        let end = (LENGTH + u32::from_be_bytes(*length) as usize).min(rest.len());
        found.push(Message::binary(rest.split_to(end).slice(LENGTH..)));
    }
    found
}

fn selection(
    info: &RequestInfo,
    target: Target<'_>,
    options: &ListOptions,
) -> ApiResult<crate::storage::cache::Selection> {
    let namespace = if target.resource.namespaced { info.namespace.as_str() } else { "" };
    let store: &ResourceStore = target.store;
    let stored = |label: &str| convert::field_label(target, label);
    let (labels, fields) = (&options.label_selector, &options.field_selector);
    let mut selection = selector::selection(namespace, labels, fields, store.strategy, stored)?;
    if info.names_object() {
        if !options.field_selector.is_empty() && selection.required("metadata.name") != Some(&info.name) {
            return Err(ApiError::bad_request("fieldSelector metadata.name doesn't match requested name"));
        }
        selection.name = Some(info.name.clone());
    }
    Ok(selection)
}

/// As asked for, else upstream's random time between once and twice the minimum.
fn timeout(call: &Call, options: &ListOptions) -> Duration {
    match options.timeout_seconds {
        Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
        _ => call.config.min_request_timeout.mul_f64(1.0 + rand::rng().random_range(0.0..1.0)),
    }
}

/// How events are written.
struct Shape {
    form: Form,
    encoding: Encoding,
    stored: bool,
    resource: &'static common::api::Resource,
    store_resource: &'static common::api::Resource,
    include: IncludeObject,
    server: std::sync::Arc<crate::server::ApiServer>,
    /// Where in the time that ending watches have this one ends.
    share: f64,
    sent: WatchEvents,
    /// Tables carry column definitions in the first event only.
    first: bool,
}

impl Shape {
    fn of(call: &Call, target: Target<'_>, wanted: Output) -> ApiResult<Self> {
        Ok(Self {
            form: wanted.form,
            encoding: wanted.encoding,
            stored: target.is_stored_form(),
            resource: target.resource,
            store_resource: target.store.resource,
            include: output::include_object(call)?,
            server: std::sync::Arc::clone(&call.server),
            share: rand::rng().random_range(0.0..1.0),
            sent: WatchEvents::of(target.resource.group, target.resource.version, target.resource.plural),
            first: true,
        })
    }

    fn frame(&mut self, item: &WatchItem) -> ApiResult<Bytes> {
        match item {
            WatchItem::Event { frame, .. } if self.is_shared(Encoding::Json) => Ok(frame.clone()),
            WatchItem::Event { kind, object, .. } if self.is_shared(Encoding::Protobuf) => self.protobuf(*kind, object),
            WatchItem::Event { kind, object, .. } => {
                let server = std::sync::Arc::clone(&self.server);
                let store = server.registry.store_of(self.resource).ok_or_else(ApiError::unknown_resource)?;
                let target = Target { resource: self.resource, sub: None, store };
                if let (Form::Metadata(version), Encoding::Json) = (self.form, self.encoding) {
                    return Ok(json_frame(kind.as_str(), &output::partial_json(target, object, version)?));
                }
                if let (Form::Metadata("v1"), Encoding::Protobuf) = (self.form, self.encoding) {
                    let raw = output::metadata_message(target, object)?;
                    let sealed = wire::seal("meta.k8s.io/v1", "PartialObjectMetadata", &raw);
                    return Ok(protobuf_frame(kind.as_str(), &sealed));
                }
                let shaped = self.shape(target, output::tree(target, object)?);
                self.event(kind.as_str(), &shaped)
            }
            WatchItem::Bookmark { revision, initial_events_end } => self.bookmark(*revision, *initial_events_end),
        }
    }

    /// Whether events go out in frames that every watcher of this encoding shares.
    fn is_shared(&self, encoding: Encoding) -> bool {
        self.stored && self.form == Form::Object && self.encoding == encoding
    }

    fn protobuf(&self, kind: EventKind, object: &CachedObject) -> ApiResult<Bytes> {
        let store = self.server.registry.store_of(self.resource).ok_or_else(ApiError::unknown_resource)?;
        let codec = store.cache.spec().codec.as_deref().ok_or_else(ApiError::unknown_resource)?;
        Ok(object.protobuf(codec).map_err(ApiError::internal)?.frame(kind))
    }

    /// A frame of an event, encoded for this watcher alone.
    fn event(&self, kind: &str, object: &Value) -> ApiResult<Bytes> {
        if self.encoding != Encoding::Protobuf {
            return Ok(json_event(kind, object));
        }
        let text = |member: &str| object[member].as_str().unwrap_or_default();
        let sealed = codec::to_protobuf(object, text("apiVersion"), text("kind")).map_err(ApiError::internal)?;
        Ok(protobuf_frame(kind, &sealed))
    }

    fn shape(&mut self, target: Target<'_>, tree: Value) -> Value {
        match self.form {
            Form::Object => tree,
            Form::Metadata(version) => output::partial(&tree, version),
            Form::Table(version) => {
                let meta = json!({"resourceVersion": tree["metadata"]["resourceVersion"]});
                let mut table = output::table_of(target, std::slice::from_ref(&tree), &meta, self.include, version);
                if !std::mem::take(&mut self.first) {
                    table["columnDefinitions"] = Value::Null;
                }
                table
            }
        }
    }

    fn bookmark(&self, revision: u64, end: bool) -> ApiResult<Bytes> {
        let (api_version, kind) = match self.form {
            Form::Object => (self.resource.api_version(), self.resource.kind),
            Form::Metadata(version) => (format!("meta.k8s.io/{version}"), "PartialObjectMetadata"),
            Form::Table(version) => return Ok(self.table_bookmark(revision, end, version)),
        };
        if self.encoding == Encoding::Json {
            return Ok(bookmark_frame(&api_version, kind, revision, end));
        }
        let mut meta = json!({"resourceVersion": revision.to_string()});
        if end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        self.event("BOOKMARK", &json!({"kind": kind, "apiVersion": api_version, "metadata": meta}))
    }

    /// Table clients find the revision in the row's object as well as in the table.
    fn table_bookmark(&self, revision: u64, end: bool, version: &str) -> Bytes {
        let mut meta = json!({"resourceVersion": revision.to_string()});
        if end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({
            "kind": self.store_resource.kind,
            "apiVersion": self.store_resource.api_version(),
            "metadata": meta,
        });
        let table = json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": {"resourceVersion": revision.to_string()},
            "columnDefinitions": [],
            "rows": [{"cells": [], "object": object}],
        });
        json_event("BOOKMARK", &table)
    }
}

fn json_event(kind: &str, object: &Value) -> Bytes {
    json_frame(kind, &crate::server::registry::encode_ordered(object).unwrap_or_default())
}

fn json_frame(kind: &str, object: &[u8]) -> Bytes {
    [br#"{"type":""#, kind.as_bytes(), br#"","object":"#, object, b"}\n"].concat().into()
}

/// The stream of a watch: until the deadline, the end of the watcher, or an error, which is told last.
fn frames(
    watcher: Watcher,
    shape: Shape,
    deadline: Instant,
    seat: Option<Occupied>,
) -> impl futures::Stream<Item = Result<Bytes, BoxError>> + Send + 'static {
    let (server, share) = (std::sync::Arc::clone(&shape.server), shape.share);
    let sending = Sending {
        watcher,
        shape,
        seat,
        deadline: Box::pin(tokio::time::sleep_until(deadline)),
        must_end: Box::pin(async move { server.watch_must_end(share).await }),
        last: None,
    };
    stream::unfold(Some(sending), move |sending| async move {
        let mut sending = sending?;
        if let Some(last) = sending.last.take() {
            return Some((last.map_err(Into::into), None));
        }
        // Seats are for what is there at the start; who waits for events takes none.
        if !sending.watcher.is_initializing() {
            sending.seat = None;
        }
        // In this order: a watch that always has an event to send ends as well.
        let item = tokio::select! {
            biased;
            () = &mut sending.must_end => return None,
            () = &mut sending.deadline => return None,
            item = sending.watcher.next() => item?,
        };
        match sending.chunk(item) {
            Some(chunk) => Some((Ok(chunk), Some(sending))),
            None => Some((sending.last?.map_err(Into::into), None)),
        }
    })
}

/// A watch while it is sent.
struct Sending {
    watcher: Watcher,
    shape: Shape,
    seat: Option<Occupied>,
    /// Both last as long as the watch, so that an event costs neither a timer nor a place in a queue.
    deadline: Pin<Box<Sleep>>,
    must_end: BoxFuture<'static, ()>,
    /// What ends the stream, once everything before it is sent.
    last: Option<ApiResult<Bytes>>,
}

impl Sending {
    /// The frame of an item and of those that are there already: who is behind gets many with one write.
    fn chunk(&mut self, item: Result<WatchItem, CacheError>) -> Option<Bytes> {
        let first = self.frame(item)?;
        let Some(second) = self.waiting(first.len()) else { return Some(first) };
        let mut chunk = BytesMut::with_capacity(CHUNK);
        chunk.extend_from_slice(&first);
        let mut next = Some(second);
        while let Some(frame) = next {
            chunk.extend_from_slice(&frame);
            next = self.waiting(chunk.len());
        }
        Some(chunk.freeze())
    }

    /// The next frame, if it need not be waited for and the chunk has room.
    fn waiting(&mut self, taken: usize) -> Option<Bytes> {
        if taken >= CHUNK || self.last.is_some() {
            return None;
        }
        let item = self.watcher.try_next()?;
        self.frame(Ok(item))
    }

    fn frame(&mut self, item: Result<WatchItem, CacheError>) -> Option<Bytes> {
        let frame = match item {
            Ok(item) => self.shape.frame(&item),
            Err(error) => Err(match self.shape.server.registry.store_of(self.shape.resource) {
                Some(store) => store.cache_error(error),
                None => ApiError::internal(error),
            }),
        };
        match frame {
            Ok(frame) => {
                self.shape.sent.sent(frame.len());
                Some(frame)
            }
            Err(error) => {
                self.last = Some(self.shape.event("ERROR", &error.to_value()));
                None
            }
        }
    }
}
