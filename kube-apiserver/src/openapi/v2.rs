//! OpenAPI v2: one document of everything, for older clients.

use std::collections::BTreeSet;

use common::api::GroupVersion;
use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::operations::{self, Answer, Body, Operation, Path};
use super::parameters::Parameter;
use super::schemas::{Dialect, Writer, closure};
use super::v3::{PATCHES, annotate, code_text, common_parameters, media_types, own_parameters, references};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The document of the given group versions.
pub(super) fn document(versions: &[&GroupVersion], git_version: &str) -> Value {
    let paths: Vec<Path> = versions.iter().flat_map(|version| operations::of(version)).collect();
    let roots: BTreeSet<String> = paths.iter().flat_map(|path| &path.operations).flat_map(references).collect();
    let types = closure(roots);
    let packages: BTreeSet<&str> = types.iter().filter_map(|ty| ty.package()).collect();
    let texts = Descriptions::of(packages.into_iter());
    let group_versions: Vec<(&str, &str)> = versions.iter().map(|version| (version.group, version.version)).collect();
    let writer = Writer { dialect: Dialect::V2, texts: &texts, group_versions: &group_versions };
    let mut definitions = Map::new();
    for ty in types {
        if let Some(name) = ty.name() {
            definitions.insert(name.clone(), writer.definition(ty, &name));
        }
    }
    let paths: Map<String, Value> = paths.iter().map(|path| (path.path.clone(), path_item(path))).collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": git_version},
        "paths": paths,
        "definitions": definitions,
        "security": [{"BearerToken": []}],
        "securityDefinitions": {"BearerToken": {
            "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication",
        }},
    })
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
        "type": parameter.kind,
        "uniqueItems": true,
    });
    if parameter.path {
        rendered["required"] = true.into();
    }
    rendered
}

fn render(operation: &Operation, common: &[&'static Parameter]) -> Value {
    let consumes: &[&str] = if operation.body == Body::Patch { &PATCHES } else { &["*/*"] };
    let mut rendered = json!({
        "description": operation.description,
        "operationId": operation.id,
        "tags": [operation.tag],
        "consumes": consumes,
        "produces": media_types(operation.media),
        "schemes": ["https"],
        "responses": responses(operation),
    });
    let mut parameters: Vec<Value> = body(&operation.body).into_iter().collect();
    parameters.extend(own_parameters(operation, common).into_iter().map(render_parameter));
    if !parameters.is_empty() {
        rendered["parameters"] = parameters.into();
    }
    annotate(&mut rendered, operation);
    rendered
}

fn body(body: &Body) -> Option<Value> {
    let (definition, required) = match body {
        Body::None => return None,
        Body::Object(name) => (name.clone(), true),
        Body::DeleteOptions => (format!("{META}.DeleteOptions"), false),
        Body::Patch => (format!("{META}.Patch"), true),
    };
    let mut parameter = json!({"in": "body", "name": "body", "schema": Dialect::V2.reference(&definition)});
    if required {
        parameter["required"] = true.into();
    }
    Some(parameter)
}

fn responses(operation: &Operation) -> Value {
    let schema = match &operation.answer {
        Answer::Object(name) => Dialect::V2.reference(name),
        Answer::Text => json!({"type": "string"}),
    };
    let mut responses = json!({"401": {"description": "Unauthorized"}});
    for code in operation.codes {
        responses[code.to_string()] = json!({"description": code_text(*code), "schema": schema});
    }
    responses
}
