//! OpenAPI v2: one document of everything, for older clients.

use std::io::{self, Write};

use common::api::{GroupVersion, catalog};
use common::config::version::GIT_VERSION;
use common::schema::Type;
use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::operations::{self, Answer, Body, Media, Operation, Path};
use super::parameters::Parameter;
use super::schemas::{Dialect, Writer, closure};
use super::v3::{
    PATCHES, annotate, bearer, code_text, common_parameters, media_types, own_parameters, references, write_map,
};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The document of the given group versions; its definitions and paths come one by one.
pub(super) struct Document {
    paths: Vec<Path>,
    types: Vec<Type<'static>>,
    texts: Descriptions,
}

impl Document {
    /// `discovery` are the paths that belong to no group version.
    pub(super) fn new(versions: &[&GroupVersion], discovery: Vec<Path>) -> Self {
        let mut paths: Vec<Path> = versions.iter().flat_map(|version| operations::of(version)).collect();
        paths.extend(discovery);
        let types = closure(paths.iter().flat_map(|path| &path.operations).flat_map(references).collect());
        let texts = Descriptions::of(&types);
        Self { paths, types, texts }
    }

    /// Everything but definitions and paths.
    pub(super) fn head(&self) -> Value {
        json!({
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": GIT_VERSION},
            "security": [{"BearerToken": []}],
            "securityDefinitions": {"BearerToken": bearer()},
        })
    }

    pub(super) fn definitions(&self) -> impl Iterator<Item = (String, Value)> {
        // Upstream says all that it knows, served or not.
        let group_versions: Vec<(&str, &str)> =
            catalog().group_versions().map(|version| (version.group, version.version)).collect();
        self.types.iter().filter_map(move |ty| {
            let writer = Writer { dialect: Dialect::V2, texts: &self.texts, group_versions: &group_versions };
            let name = ty.name()?;
            let definition = writer.definition(*ty, &name);
            Some((name, definition))
        })
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = (String, Value)> {
        self.paths.iter().map(|path| (path.path.clone(), path_item(path)))
    }

    pub(super) fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{{")?;
        for (key, value) in self.head().as_object().into_iter().flatten() {
            write!(out, "\"{key}\":{value},")?;
        }
        write!(out, "\"definitions\":")?;
        write_map(out, self.definitions())?;
        write!(out, ",\"paths\":")?;
        write_map(out, self.paths())?;
        write!(out, "}}")
    }
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
    let is_discovery = operation.action.is_none() && operation.parameters.is_empty();
    let consumes: &[&str] = match (&operation.body, operation.media) {
        (Body::Patch, _) => &PATCHES,
        (Body::None, Media::Discovery | Media::Object) if is_discovery => media_types(Media::Discovery),
        _ => &["*/*"],
    };
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
