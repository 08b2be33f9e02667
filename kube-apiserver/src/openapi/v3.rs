//! OpenAPI v3: one document per group version.

use std::collections::BTreeSet;
use std::io::{self, Write};

use common::api::GroupVersion;
use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::operations::{self, Answer, Body, Media, Operation, Path};
use super::parameters::Parameter;
use super::schemas::{Dialect, Writer, closure};

/// The media types of an answer.
pub(super) fn media_types(media: Media) -> &'static [&'static str] {
    match media {
        Media::Object => &["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"],
        Media::Watchable => &[
            "application/json",
            "application/json;stream=watch",
            "application/vnd.kubernetes.protobuf",
            "application/vnd.kubernetes.protobuf;stream=watch",
            "application/yaml",
        ],
        Media::Log => &["application/json", "application/vnd.kubernetes.protobuf", "application/yaml", "text/plain"],
        Media::Discovery => &["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"],
        Media::Json => &["application/json"],
        Media::Keys => &["application/jwk-set+json"],
        Media::Anything => &["*/*"],
    }
}

/// The media types of patches.
pub(super) const PATCHES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Writes the document of a group version.
pub(super) fn group_version(version: &GroupVersion, out: &mut dyn Write) -> io::Result<()> {
    let mut kinds = vec![("", "v1")];
    if !version.group.is_empty() {
        kinds.push((version.group, version.version));
    }
    document(&operations::of(version), &kinds, out)
}

/// Writes a document of the given paths, piece by piece: the whole would be a large tree.
pub(super) fn document(paths: &[Path], group_versions: &[(&str, &str)], out: &mut dyn Write) -> io::Result<()> {
    let roots: BTreeSet<String> = paths.iter().flat_map(|path| &path.operations).flat_map(references).collect();
    let types = closure(roots);
    let texts = Descriptions::of(&types);
    let writer = Writer { dialect: Dialect::V3, texts: &texts, group_versions };
    let security = json!({"BearerToken": bearer()});
    write!(out, r#"{{"openapi":"3.0.0","info":{{"title":"Kubernetes","version":"unversioned"}},"#)?;
    write!(out, r#""components":{{"securitySchemes":{security}"#)?;
    if !types.is_empty() {
        write!(out, r#","schemas":"#)?;
        write_map(out, types.iter().filter_map(|ty| Some((ty.name()?, writer.definition(*ty, &ty.name()?)))))?;
    }
    write!(out, r#"}},"paths":"#)?;
    write_map(out, paths.iter().map(|path| (path.path.clone(), path_item(path))))?;
    write!(out, "}}")
}

/// How clients authenticate, as far as OpenAPI can say it.
pub(super) fn bearer() -> Value {
    let text = "Bearer Token authentication";
    json!({"type": "apiKey", "name": "authorization", "in": "header", "description": text})
}

/// Writes an object entry by entry.
pub(super) fn write_map(out: &mut dyn Write, entries: impl Iterator<Item = (String, Value)>) -> io::Result<()> {
    let mut separator = "{";
    for (name, value) in entries {
        write!(out, "{separator}{}:{value}", Value::String(name))?;
        separator = ",";
    }
    out.write_all(if separator == "{" { b"{}" } else { b"}" })
}

/// The definitions that an operation refers to.
pub(super) fn references(operation: &Operation) -> Vec<String> {
    let mut names = Vec::new();
    match &operation.body {
        Body::None => {}
        Body::Object(name) => names.push(name.clone()),
        Body::DeleteOptions => names.push(format!("{META}.DeleteOptions")),
        Body::Patch => names.push(format!("{META}.Patch")),
    }
    if let Answer::Object(name) = &operation.answer {
        names.push(name.clone());
    }
    names
}

/// Parameters of all operations of a path move up to the path.
pub(super) fn common_parameters(path: &Path) -> Vec<&'static Parameter> {
    let Some((first, rest)) = path.operations.split_first() else { return Vec::new() };
    let shared = |parameter: &&&'static Parameter| rest.iter().all(|other| other.parameters.contains(parameter));
    let mut common: Vec<&'static Parameter> = first.parameters.iter().filter(shared).copied().collect();
    sort(&mut common);
    common
}

/// The parameters that an operation does not share with the others of its path.
pub(super) fn own_parameters(operation: &Operation, common: &[&'static Parameter]) -> Vec<&'static Parameter> {
    let mut own: Vec<&'static Parameter> =
        operation.parameters.iter().filter(|parameter| !common.contains(parameter)).copied().collect();
    sort(&mut own);
    own
}

fn sort(parameters: &mut [&'static Parameter]) {
    parameters.sort_by_key(|parameter| (parameter.name, parameter.path));
}

fn path_item(path: &Path) -> Value {
    let common = common_parameters(path);
    let mut item = Map::new();
    for operation in &path.operations {
        item.insert(operation.method.into(), render(operation, &common));
    }
    if !common.is_empty() {
        item.insert("parameters".into(), common.iter().map(|parameter| render_parameter(parameter)).collect());
    }
    item.into()
}

fn render_parameter(parameter: &Parameter) -> Value {
    let mut rendered = json!({
        "name": parameter.name,
        "in": if parameter.path { "path" } else { "query" },
        "schema": {"type": parameter.kind, "uniqueItems": true},
    });
    if parameter.path {
        rendered["required"] = true.into();
    }
    rendered
}

fn render(operation: &Operation, common: &[&'static Parameter]) -> Value {
    let mut rendered = json!({
        "description": operation.description,
        "operationId": operation.id,
        "tags": [operation.tag],
        "responses": responses(operation),
    });
    let own = own_parameters(operation, common);
    if !own.is_empty() {
        rendered["parameters"] = own.into_iter().map(render_parameter).collect();
    }
    if let Some(body) = body(&operation.body) {
        rendered["requestBody"] = body;
    }
    annotate(&mut rendered, operation);
    rendered
}

/// Kubernetes' own facts about an operation.
pub(super) fn annotate(rendered: &mut Value, operation: &Operation) {
    if let Some(action) = operation.action {
        rendered["x-kubernetes-action"] = action.into();
    }
    if let Some((group, version, kind)) = &operation.kind {
        rendered["x-kubernetes-group-version-kind"] = json!({"group": group, "version": version, "kind": kind});
    }
}

fn body(body: &Body) -> Option<Value> {
    let schema = |name: &str| json!({"schema": Dialect::V3.reference(name)});
    match body {
        Body::None => None,
        Body::Object(name) => Some(json!({"content": {"*/*": schema(name)}, "required": true})),
        Body::DeleteOptions => Some(json!({"content": {"*/*": schema(&format!("{META}.DeleteOptions"))}})),
        Body::Patch => {
            let patch = schema(&format!("{META}.Patch"));
            let content: Map<String, Value> = PATCHES.iter().map(|media| ((*media).into(), patch.clone())).collect();
            Some(json!({"content": content, "required": true}))
        }
    }
}

/// The text that goes with a status code.
pub(super) fn code_text(code: u16) -> &'static str {
    match code {
        201 => "Created",
        202 => "Accepted",
        _ => "OK",
    }
}

fn responses(operation: &Operation) -> Value {
    let schema = match &operation.answer {
        Answer::Object(name) => json!({"schema": Dialect::V3.reference(name)}),
        Answer::Text => json!({"schema": {"type": "string"}}),
    };
    let content: Map<String, Value> =
        media_types(operation.media).iter().map(|media| ((*media).into(), schema.clone())).collect();
    let mut responses = json!({"401": {"description": "Unauthorized"}});
    for code in operation.codes {
        responses[code.to_string()] = json!({"description": code_text(*code), "content": content});
    }
    responses
}
