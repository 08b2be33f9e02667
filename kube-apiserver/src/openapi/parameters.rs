//! The parameters of operations.

/// A parameter in the URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parameter {
    pub name: &'static str,
    /// `string`, `integer` or `boolean`.
    pub kind: &'static str,
    /// Part of the path (else of the query).
    pub path: bool,
}

const fn query(name: &'static str, kind: &'static str) -> Parameter {
    Parameter { name, kind, path: false }
}

const fn path(name: &'static str) -> Parameter {
    Parameter { name, kind: "string", path: true }
}

pub(super) static PRETTY: Parameter = query("pretty", "string");
pub(super) static NAME: Parameter = path("name");
pub(super) static NAMESPACE: Parameter = path("namespace");
pub(super) static PATH: Parameter = path("path");
pub(super) static FORCE: Parameter = query("force", "boolean");

static BOOKMARKS: Parameter = query("allowWatchBookmarks", "boolean");
static CONTINUE: Parameter = query("continue", "string");
static FIELD_SELECTOR: Parameter = query("fieldSelector", "string");
static LABEL_SELECTOR: Parameter = query("labelSelector", "string");
static LIMIT: Parameter = query("limit", "integer");
static VERSION: Parameter = query("resourceVersion", "string");
static VERSION_MATCH: Parameter = query("resourceVersionMatch", "string");
static INITIAL_EVENTS: Parameter = query("sendInitialEvents", "boolean");
static SHARD_SELECTOR: Parameter = query("shardSelector", "string");
static TIMEOUT: Parameter = query("timeoutSeconds", "integer");
static WATCH: Parameter = query("watch", "boolean");
static DRY_RUN: Parameter = query("dryRun", "string");
static FIELD_MANAGER: Parameter = query("fieldManager", "string");
static FIELD_VALIDATION: Parameter = query("fieldValidation", "string");
static GRACE: Parameter = query("gracePeriodSeconds", "integer");
static IGNORE_READ_ERROR: Parameter = query("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean");
static ORPHAN: Parameter = query("orphanDependents", "boolean");
static PROPAGATION: Parameter = query("propagationPolicy", "string");
static CONTAINER: Parameter = query("container", "string");

/// Listing and watching.
pub(super) static LIST: [&Parameter; 11] = [
    &BOOKMARKS,
    &CONTINUE,
    &FIELD_SELECTOR,
    &LABEL_SELECTOR,
    &LIMIT,
    &VERSION,
    &VERSION_MATCH,
    &INITIAL_EVENTS,
    &SHARD_SELECTOR,
    &TIMEOUT,
    &WATCH,
];

/// Deleting one object.
pub(super) static DELETE: [&Parameter; 5] = [&DRY_RUN, &GRACE, &IGNORE_READ_ERROR, &ORPHAN, &PROPAGATION];

/// Deleting many.
pub(super) static DELETE_COLLECTION: [&Parameter; 14] = [
    &CONTINUE,
    &DRY_RUN,
    &FIELD_SELECTOR,
    &GRACE,
    &IGNORE_READ_ERROR,
    &LABEL_SELECTOR,
    &LIMIT,
    &ORPHAN,
    &PROPAGATION,
    &VERSION,
    &VERSION_MATCH,
    &INITIAL_EVENTS,
    &SHARD_SELECTOR,
    &TIMEOUT,
];

/// Creating, replacing and patching.
pub(super) static WRITE: [&Parameter; 3] = [&DRY_RUN, &FIELD_MANAGER, &FIELD_VALIDATION];

static FOLLOW: Parameter = query("follow", "boolean");
static INSECURE: Parameter = query("insecureSkipTLSVerifyBackend", "boolean");
static LIMIT_BYTES: Parameter = query("limitBytes", "integer");
static PREVIOUS: Parameter = query("previous", "boolean");
static SINCE: Parameter = query("sinceSeconds", "integer");
static STREAM: Parameter = query("stream", "string");
static TAIL: Parameter = query("tailLines", "integer");
static TIMESTAMPS: Parameter = query("timestamps", "boolean");

/// Reading a pod's log.
pub(super) static LOG: [&Parameter; 9] =
    [&CONTAINER, &FOLLOW, &INSECURE, &LIMIT_BYTES, &PREVIOUS, &SINCE, &STREAM, &TAIL, &TIMESTAMPS];

static COMMAND: Parameter = query("command", "string");
static STDERR: Parameter = query("stderr", "boolean");
static STDIN: Parameter = query("stdin", "boolean");
static STDOUT: Parameter = query("stdout", "boolean");
static TTY: Parameter = query("tty", "boolean");
static PORTS: Parameter = query("ports", "integer");
static PROXY_PATH: Parameter = query("path", "string");

static EXEC: [&Parameter; 6] = [&COMMAND, &CONTAINER, &STDERR, &STDIN, &STDOUT, &TTY];
static ATTACH: [&Parameter; 5] = [&CONTAINER, &STDERR, &STDIN, &STDOUT, &TTY];
static PORT_FORWARD: [&Parameter; 1] = [&PORTS];
static PROXY: [&Parameter; 1] = [&PROXY_PATH];

/// The options of a subresource that one connects to.
pub(super) fn connect(subresource: &str) -> &'static [&'static Parameter] {
    match subresource {
        "exec" => &EXEC,
        "attach" => &ATTACH,
        "portforward" => &PORT_FORWARD,
        _ => &PROXY,
    }
}
