//! One request on its way: what was asked, by whom, and the server that answers.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use http::{HeaderMap, HeaderValue, Method, Response};
use hyper::upgrade::OnUpgrade;
use parking_lot::Mutex;
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    ApiServer,
    lookup::Notes,
    response::{self, Body, Style},
};
use crate::{
    audit::Trail,
    authn::User,
    authz::Attributes,
    flowcontrol::Occupied,
    request::{ApiResult, Query, RequestInfo, negotiate},
};

/// Warnings beyond this are dropped, as upstream does.
const MAX_WARNING_BYTES: usize = 4 * 1024;

/// One request.
pub struct Call {
    /// The server.
    pub server: Arc<ApiServer>,
    /// HTTP method.
    pub method: Method,
    /// Attributes.
    pub info: Arc<RequestInfo>,
    /// Query string.
    pub query: Query,
    /// Headers.
    pub headers: HeaderMap,
    /// Who asks (after impersonation).
    pub user: Arc<User>,
    /// The seats that the request takes; a watch gives them back once it has sent what there is.
    pub seat: Mutex<Option<Occupied>>,
    /// The connection of a watch that is to go on over WebSocket.
    pub upgrade: Mutex<Option<OnUpgrade>>,
    /// What is recorded of the request, if it is.
    pub trail: Option<Arc<Trail>>,
    /// What to tell in `Warning` headers.
    pub warnings: Mutex<Vec<String>>,
    /// What the request begins and its answer does not end.
    pub session: Arc<Session>,
}

/// What goes on over the connection of a request after its answer: a command, a forwarded port, messages.
#[derive(Default)]
pub struct Session(OnceLock<CancellationToken>);

impl Session {
    /// It lasts until what is returned is dropped.
    #[must_use]
    pub fn begin(&self) -> DropGuard {
        self.0.get_or_init(CancellationToken::new).clone().drop_guard()
    }

    /// Its end, if it has begun.
    #[must_use]
    pub fn end(&self) -> Option<CancellationToken> {
        self.0.get().cloned()
    }
}

impl Deref for Call {
    type Target = ApiServer;
    fn deref(&self) -> &ApiServer {
        &self.server
    }
}

impl Call {
    /// What authorization decides on.
    #[must_use]
    pub fn attributes(&self) -> Attributes<'_> {
        Attributes::of(&self.user, &self.info)
    }

    /// Notes something for auditing.
    pub fn annotate(&self, key: &str, value: &str) {
        if let Some(trail) = &self.trail {
            trail.annotate(key, value);
        }
    }

    /// Passes on what was noteworthy about credentials.
    pub fn note(&self, notes: Notes) {
        notes.annotations.iter().for_each(|(key, value)| self.annotate(key, value));
        notes.warnings.into_iter().for_each(|warning| self.warn(warning));
    }

    /// Adds a warning, once.
    pub fn warn(&self, text: impl Into<String>) {
        let (text, mut warnings) = (text.into(), self.warnings.lock());
        let size: usize = warnings.iter().map(String::len).sum();
        if !warnings.contains(&text) && size + text.len() <= MAX_WARNING_BYTES {
            warnings.push(text);
        }
    }

    /// The style of an answer of this form.
    #[must_use]
    pub fn style(&self, encoding: negotiate::Encoding) -> Style {
        Style::of(encoding, &self.query, &self.headers)
    }

    /// Answers with a tree in the negotiated encoding, whatever form was asked for.
    ///
    /// # Errors
    /// 406.
    pub fn reply(&self, code: u16, value: &Value) -> ApiResult<Response<Body>> {
        let output = negotiate::output(&self.headers, false)?;
        Ok(response::object(code, value, self.style(output.encoding)))
    }

    /// Writes the collected warnings into a response.
    pub fn finish(&self, mut response: Response<Body>) -> Response<Body> {
        for warning in self.warnings.lock().iter() {
            let text = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
                response.headers_mut().append("warning", value);
            }
        }
        response
    }
}
