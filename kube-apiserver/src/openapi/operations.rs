//! The operations of a group version, in no dialect yet: what upstream's installer would register for each resource.

use common::api::{GroupVersion, Resource, Subresource};

use super::parameters::{self, Parameter};

/// A URL and what can be done at it.
pub(super) struct Path {
    pub path: String,
    pub operations: Vec<Operation>,
}

/// What an operation takes as its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    None,
    /// An object of a definition.
    Object(String),
    /// Delete options, which may be left out.
    DeleteOptions,
    Patch,
}

/// What an operation answers with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Object(String),
    Text,
}

/// Which media types an operation answers in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    Object,
    Watchable,
    Log,
    Anything,
    /// Documents of discovery that exist in JSON, YAML and protobuf.
    Discovery,
    Json,
    /// JSON web keys.
    Keys,
}

/// One operation.
pub(super) struct Operation {
    pub method: &'static str,
    pub id: String,
    pub description: String,
    pub tag: String,
    pub action: Option<&'static str>,
    pub kind: Option<(String, String, String)>,
    pub parameters: Vec<&'static Parameter>,
    pub body: Body,
    pub answer: Answer,
    pub codes: &'static [u16],
    pub media: Media,
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// A document of discovery (no resource, no parameters).
pub(super) fn discovery(path: &str, id: &str, tag: &str, description: &str, answer: &str, media: Media) -> Path {
    let operation = Operation {
        method: "get",
        id: id.into(),
        description: description.into(),
        tag: tag.into(),
        action: None,
        kind: None,
        parameters: Vec::new(),
        body: Body::None,
        answer: Answer::Object(answer.into()),
        codes: &[200],
        media,
    };
    Path { path: path.into(), operations: vec![operation] }
}

/// A path whose answers are of no definition.
pub(super) fn text(mut path: Path) -> Path {
    path.operations.iter_mut().for_each(|operation| operation.answer = Answer::Text);
    path
}

/// `rbac.authorization.k8s.io` as operation ids spell it: `RbacAuthorization`.
pub(super) fn group_name(group: &str) -> String {
    let words = group.strip_suffix(".k8s.io").unwrap_or(group);
    match words {
        "" => "Core".into(),
        words => words.split('.').map(capital).collect(),
    }
}

/// The group as tags spell it: `rbacAuthorization`.
pub(super) fn tag_name(group: &str) -> String {
    let name = group_name(group);
    name[..1].to_lowercase() + &name[1..]
}

fn capital(word: &str) -> String {
    word.get(..1).unwrap_or("").to_uppercase() + word.get(1..).unwrap_or("")
}

/// Every path of a group version.
pub(super) fn of(version: &GroupVersion) -> Vec<Path> {
    let base = match version.group {
        "" => format!("/api/{}", version.version),
        group => format!("/apis/{group}/{}", version.version),
    };
    let prefix = group_name(version.group) + &capital(version.version);
    let tag = format!("{}_{}", tag_name(version.group), version.version);
    let mut paths = vec![discovery(
        &format!("{base}/"),
        &format!("get{prefix}APIResources"),
        &tag,
        "get available resources",
        &format!("{META}.APIResourceList"),
        Media::Object,
    )];
    for resource in &version.resources {
        let builder = Builder { resource, base: &base, prefix: &prefix, tag: &tag, definition: definition(resource) };
        builder.collection(&mut paths);
        builder.object(&mut paths);
        for sub in &resource.subresources {
            builder.subresource(sub, &mut paths);
        }
    }
    paths
}

fn definition(resource: &Resource) -> String {
    let ty = common::schema::lookup(resource.group, resource.version, resource.kind);
    ty.and_then(|ty| ty.name()).unwrap_or_default()
}

struct Builder<'a> {
    resource: &'a Resource,
    base: &'a str,
    prefix: &'a str,
    tag: &'a str,
    definition: String,
}

impl Builder<'_> {
    fn namespaced(&self) -> &'static str {
        if self.resource.namespaced { "Namespaced" } else { "" }
    }

    fn url(&self, watch: bool, name: bool) -> String {
        let watch = if watch { "/watch" } else { "" };
        let namespace = if self.resource.namespaced { "/namespaces/{namespace}" } else { "" };
        let name = if name { "/{name}" } else { "" };
        format!("{}{watch}{namespace}/{}{name}", self.base, self.resource.plural)
    }

    fn operation(&self, method: &'static str, action: &'static str, verb: &str, tail: &str) -> Operation {
        let resource = self.resource;
        Operation {
            method,
            id: format!("{verb}{}{tail}", self.prefix),
            description: format!("{action} {}", resource.kind),
            tag: self.tag.into(),
            action: Some(action),
            kind: Some((resource.group.into(), resource.version.into(), resource.kind.into())),
            parameters: Vec::new(),
            body: Body::None,
            answer: Answer::Object(self.definition.clone()),
            codes: &[200],
            media: Media::Object,
        }
    }

    fn scope(&self, name: bool) -> Vec<&'static Parameter> {
        let mut scope = vec![&parameters::PRETTY];
        scope.extend(name.then_some(&parameters::NAME));
        scope.extend(self.resource.namespaced.then_some(&parameters::NAMESPACE));
        scope
    }

    fn collection(&self, paths: &mut Vec<Path>) {
        let (kind, scope) = (self.resource.kind, self.namespaced());
        let mut operations = Vec::new();
        if self.resource.allows("deletecollection") {
            let tail = format!("Collection{scope}{kind}");
            operations.push(Operation {
                parameters: [self.scope(false), parameters::DELETE_COLLECTION.to_vec()].concat(),
                body: Body::DeleteOptions,
                answer: Answer::Object(format!("{META}.Status")),
                ..self.operation("delete", "deletecollection", "delete", &tail)
            });
        }
        if self.resource.allows("list") {
            operations.push(self.list(format!("{scope}{kind}"), self.scope(false)));
        }
        if self.resource.allows("create") {
            operations.push(Operation {
                parameters: [self.scope(false), parameters::WRITE.to_vec()].concat(),
                body: Body::Object(self.definition.clone()),
                codes: &[200, 201, 202],
                ..self.operation("post", "post", "create", &format!("{scope}{kind}"))
            });
        }
        paths.push(Path { path: self.url(false, false), operations });
        if self.resource.namespaced && self.resource.allows("list") {
            let list = self.list(format!("{kind}ForAllNamespaces"), vec![&parameters::PRETTY]);
            let path = format!("{}/{}", self.base, self.resource.plural);
            paths.push(Path { path, operations: vec![list] });
        }
        if self.resource.allows("watch") {
            self.watches(paths);
        }
    }

    fn list(&self, tail: String, scope: Vec<&'static Parameter>) -> Operation {
        Operation {
            parameters: [scope, parameters::LIST.to_vec()].concat(),
            answer: Answer::Object(format!("{}List", self.definition)),
            media: Media::Watchable,
            ..self.operation("get", "list", "list", &tail)
        }
    }

    fn watches(&self, paths: &mut Vec<Path>) {
        let (kind, scope) = (self.resource.kind, self.namespaced());
        let watch = |action, tail: &str, scope: Vec<&'static Parameter>| {
            vec![Operation {
                parameters: [scope, parameters::LIST.to_vec()].concat(),
                answer: Answer::Object(format!("{META}.WatchEvent")),
                media: Media::Watchable,
                ..self.operation("get", action, "watch", tail)
            }]
        };
        let operations = watch("watchlist", &format!("{scope}{kind}List"), self.scope(false));
        paths.push(Path { path: self.url(true, false), operations });
        let operations = watch("watch", &format!("{scope}{kind}"), self.scope(true));
        paths.push(Path { path: self.url(true, true), operations });
        if self.resource.namespaced {
            let path = format!("{}/watch/{}", self.base, self.resource.plural);
            let operations = watch("watchlist", &format!("{kind}ListForAllNamespaces"), vec![&parameters::PRETTY]);
            paths.push(Path { path, operations });
        }
    }

    fn object(&self, paths: &mut Vec<Path>) {
        let tail = format!("{}{}", self.namespaced(), self.resource.kind);
        let mut operations = self.verbs(&self.resource.verbs, &tail, &self.definition);
        if self.resource.allows("delete") {
            let deleted = self.resource.returns_deleted();
            let answer = if deleted { self.definition.clone() } else { format!("{META}.Status") };
            operations.push(Operation {
                parameters: [self.scope(true), parameters::DELETE.to_vec()].concat(),
                body: Body::DeleteOptions,
                answer: Answer::Object(answer),
                codes: &[200, 202],
                ..self.operation("delete", "delete", "delete", &tail)
            });
        }
        if !operations.is_empty() {
            paths.push(Path { path: self.url(false, true), operations });
        }
    }

    /// Reading, replacing and patching one object or subresource.
    fn verbs(&self, verbs: &[&str], tail: &str, definition: &str) -> Vec<Operation> {
        let mut operations = Vec::new();
        if verbs.contains(&"get") {
            operations.push(Operation {
                parameters: self.scope(true),
                answer: Answer::Object(definition.into()),
                ..self.operation("get", "get", "read", tail)
            });
        }
        if verbs.contains(&"update") {
            operations.push(Operation {
                parameters: [self.scope(true), parameters::WRITE.to_vec()].concat(),
                body: Body::Object(definition.into()),
                answer: Answer::Object(definition.into()),
                codes: &[200, 201],
                ..self.operation("put", "put", "replace", tail)
            });
        }
        if verbs.contains(&"patch") {
            operations.push(Operation {
                parameters: [self.scope(true), parameters::WRITE.to_vec(), vec![&parameters::FORCE]].concat(),
                body: Body::Patch,
                answer: Answer::Object(definition.into()),
                codes: &[200, 201],
                ..self.operation("patch", "patch", "patch", tail)
            });
        }
        operations
    }

    fn subresource(&self, sub: &Subresource, paths: &mut Vec<Path>) {
        let path = format!("{}/{}", self.url(false, true), sub.name);
        let tail = format!("{}{}{}", self.namespaced(), self.resource.kind, capital(sub.name));
        let kind = Some((sub.group.to_owned(), sub.version.to_owned(), sub.kind.to_owned()));
        let mut operations = match sub.name {
            "exec" | "attach" | "portforward" => self.connect(sub, &["get", "post"], ""),
            "proxy" => {
                let methods = ["delete", "get", "head", "options", "patch", "post", "put"];
                let mut below = self.connect(sub, &methods, "WithPath");
                for operation in &mut below {
                    operation.kind.clone_from(&kind);
                    operation.parameters.push(&parameters::PATH);
                }
                paths.push(Path { path: format!("{path}/{{path}}"), operations: below });
                self.connect(sub, &methods, "")
            }
            "log" => vec![Operation {
                parameters: [self.scope(true), parameters::LOG.to_vec()].concat(),
                answer: Answer::Text,
                media: Media::Log,
                ..self.operation("get", "get", "read", &tail)
            }],
            _ => {
                let definition = common::schema::lookup(sub.group, sub.version, sub.kind)
                    .and_then(|ty| ty.name())
                    .unwrap_or_default();
                let mut operations = self.verbs(&sub.verbs, &tail, &definition);
                if sub.allows("create") {
                    operations.push(Operation {
                        parameters: [self.scope(true), parameters::WRITE.to_vec()].concat(),
                        body: Body::Object(definition.clone()),
                        answer: Answer::Object(definition),
                        codes: &[200, 201, 202],
                        ..self.operation("post", "post", "create", &tail)
                    });
                }
                operations
            }
        };
        for operation in &mut operations {
            operation.kind.clone_from(&kind);
        }
        paths.push(Path { path, operations });
    }

    fn connect(&self, sub: &Subresource, methods: &[&'static str], suffix: &str) -> Vec<Operation> {
        let options = parameters::connect(sub.name);
        let scope = self.scope(true).into_iter().filter(|parameter| parameter.name != "pretty");
        let scope: Vec<&'static Parameter> = scope.collect();
        let tail = |method| {
            let sub = capital(sub.name);
            format!("{}{}{}{sub}{suffix}", capital(method), self.namespaced(), self.resource.kind)
        };
        let build = |method: &'static str| {
            let id = format!("connect{}{}", self.prefix, tail(method));
            Operation {
                id,
                parameters: [scope.clone(), options.to_vec()].concat(),
                answer: Answer::Text,
                media: Media::Anything,
                ..self.operation(method, "connect", "connect", "")
            }
        };
        methods.iter().map(|method| build(method)).collect()
    }
}
