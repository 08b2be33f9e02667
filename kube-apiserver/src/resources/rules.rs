//! The table-driven `Strategy`: generic steps that every kind shares, with one row of hooks per kind.

use std::{collections::HashMap, sync::OnceLock};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Ctx, Deletion, Strategy,
    field::{ErrorList, Path},
    gated::{self, Gated},
    metadata::{self, NameRule},
    table::{Column, Row},
    value::{drop_nulls, keep_old, remove, same, set, str_at},
};

/// A selectable field: its label and how to read it.
pub(crate) type Selectable = (&'static str, fn(&Value) -> String);

/// The hooks of one kind. Everything not named is the generic behaviour.
pub(crate) struct Rules {
    pub group: &'static str,
    pub resource: &'static str,
    pub kind: &'static str,
    pub namespaced: bool,
    pub name: NameRule,
    /// `metadata.generation` starts at 1 and grows with every change outside metadata and status.
    pub generation: bool,
    /// Has a status that only `/status` may write.
    pub status: bool,
    pub create_on_update: bool,
    pub unconditional_update: bool,
    /// Fields behind feature gates that are off.
    pub gated: Gated,
    pub defaults: fn(&mut Value),
    pub prepare_create: fn(&mut Value, &Ctx<'_>),
    pub prepare_update: fn(&mut Value, &Value, Option<&str>, &Ctx<'_>),
    /// Rules for a new object.
    pub validate: fn(&Value, &mut ErrorList),
    /// Rules for a change: whatever of `validate` applies to updates too, and immutability.
    pub validate_update: fn(&Value, &Value, Option<&str>, &mut ErrorList),
    pub fields: &'static [Selectable],
    pub field_labels: &'static [&'static str],
    /// What selectable fields are read from where their labels are no such paths.
    pub also_read: &'static [&'static str],
    pub graceful_delete: Option<fn(&Value, Option<i64>) -> Deletion>,
    /// Of the object, given the old one and the subresource of an update.
    pub warnings: fn(&Value, Option<&Value>, Option<&str>) -> Vec<String>,
    pub columns: &'static [Column],
    pub row: fn(&Value, Timestamp) -> Row,
}

impl Rules {
    /// A namespaced kind without anything special.
    pub(crate) const GENERIC: Rules = Rules {
        group: "",
        resource: "",
        kind: "",
        namespaced: true,
        name: NameRule::Subdomain,
        generation: false,
        status: false,
        create_on_update: false,
        unconditional_update: true,
        gated: &[],
        defaults: |_| {},
        prepare_create: |_, _| {},
        prepare_update: |_, _, _, _| {},
        validate: |_, _| {},
        validate_update: |_, _, _, _| {},
        fields: &[],
        field_labels: &["metadata.name", "metadata.namespace"],
        also_read: &[],
        graceful_delete: None,
        warnings: |_, _, _| Vec::new(),
        columns: super::table::NAME_CREATED,
        row: super::table::name_created,
    };

    /// Whether this object lives in a namespace; the generic rules look at the object itself.
    fn in_namespace(&self, obj: &Value) -> bool {
        if self.kind.is_empty() { !str_at(obj, "metadata.namespace").is_empty() } else { self.namespaced }
    }

    /// Some groups leave finalizers to the generic rules.
    fn validate_finalizers(&self, obj: &Value, path: &Path<'_>, errs: &mut ErrorList) {
        const GENERIC: [&str; 6] = [
            "admissionregistration.k8s.io",
            "apiextensions.k8s.io",
            "apiregistration.k8s.io",
            "coordination.k8s.io",
            "node.k8s.io",
            "policy",
        ];
        if !self.kind.is_empty() && !GENERIC.contains(&self.group) {
            metadata::validate_finalizer_names(obj, path, errs);
        }
    }

    fn is_spec_change(new: &Value, old: &Value) -> bool {
        let differs = |a: &Value, b: &Value| {
            a.as_object().into_iter().flatten().any(|(name, value)| {
                !matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind")
                    && !same(Some(value), b.get(name))
            })
        };
        differs(new, old) || differs(old, new)
    }
}

impl Strategy for Rules {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn namespaced(&self) -> bool {
        self.namespaced
    }

    fn default(&self, obj: &mut Value) {
        drop_nulls(obj);
        (self.defaults)(obj);
    }

    fn prepare_create(&self, obj: &mut Value, ctx: &Ctx<'_>) {
        metadata::prepare_create(obj, ctx);
        if self.generation {
            if let Some(meta) = obj.get_mut("metadata") {
                set(meta, "generation", 1);
            }
        } else if let Some(meta) = obj.get_mut("metadata") {
            remove(meta, "generation");
        }
        if self.status {
            remove(obj, "status");
        }
        gated::drop_fields(obj, None, self.gated);
        (self.prepare_create)(obj, ctx);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, sub: Option<&str>, ctx: &Ctx<'_>) {
        if let (Some(new_meta), Some(old_meta)) = (new.get_mut("metadata"), old.get("metadata")) {
            keep_old(new_meta, old_meta, "generation");
        }
        match sub {
            None if self.status => keep_old(new, old, "status"),
            Some("status") => {
                let names: Vec<String> =
                    new.as_object().into_iter().chain(old.as_object()).flat_map(|m| m.keys().cloned()).collect();
                for name in names {
                    if !matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind") {
                        keep_old(new, old, &name);
                    }
                }
            }
            _ => {}
        }
        if sub != Some("status") {
            gated::drop_fields(new, Some(old), self.gated);
        }
        (self.prepare_update)(new, old, sub, ctx);
        if self.generation && sub != Some("status") && Rules::is_spec_change(new, old) {
            metadata::bump_generation(new, old);
        }
        metadata::prepare_update(new, old, ctx);
    }

    fn validate_create(&self, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let path = Path::root("metadata");
        metadata::validate(obj, self.in_namespace(obj), self.name, &path, &mut errs);
        self.validate_finalizers(obj, &path, &mut errs);
        (self.validate)(obj, &mut errs);
        errs
    }

    fn validate_update(&self, new: &Value, old: &Value, sub: Option<&str>) -> ErrorList {
        let mut errs = ErrorList::new();
        let path = Path::root("metadata");
        metadata::validate_update(new, old, self.in_namespace(old), &path, &mut errs);
        self.validate_finalizers(new, &path, &mut errs);
        (self.validate_update)(new, old, sub, &mut errs);
        errs
    }

    fn fields(&self, obj: &Value) -> Vec<(&'static str, String)> {
        let mut fields = Vec::with_capacity(2 + self.fields.len());
        fields.push(("metadata.name", str_at(obj, "metadata.name").to_string()));
        if self.in_namespace(obj) {
            fields.push(("metadata.namespace", str_at(obj, "metadata.namespace").to_string()));
        }
        fields.extend(self.fields.iter().map(|(label, read)| (*label, read(obj))));
        fields
    }

    fn read_for_fields(&self) -> Vec<&'static str> {
        let labels = self.fields.iter().map(|(label, _)| *label);
        ["metadata.name", "metadata.namespace"]
            .into_iter()
            .chain(labels)
            .chain(self.also_read.iter().copied())
            .collect()
    }

    fn field_labels(&self) -> &'static [&'static str] {
        self.field_labels
    }

    fn graceful_delete(&self, obj: &Value, requested: Option<i64>) -> Deletion {
        self.graceful_delete
            .map_or(Deletion::Immediate, |decide| decide(obj, requested.map(|s| if s < 0 { 1 } else { s })))
    }

    fn is_graceful(&self) -> bool {
        self.graceful_delete.is_some()
    }

    fn allow_create_on_update(&self) -> bool {
        self.create_on_update
    }

    fn allow_unconditional_update(&self) -> bool {
        self.unconditional_update
    }

    fn warnings(&self, obj: &Value, old: Option<&Value>, sub: Option<&str>) -> Vec<String> {
        (self.warnings)(obj, old, sub)
    }

    fn columns(&self) -> &'static [Column] {
        self.columns
    }

    fn row(&self, obj: &Value, now: Timestamp) -> Row {
        (self.row)(obj, now)
    }
}

static GENERIC: Rules = Rules::GENERIC;

/// The rules of a resource, or the generic ones.
pub(crate) fn lookup(group: &str, resource: &str) -> &'static Rules {
    static INDEX: OnceLock<HashMap<(&'static str, &'static str), &'static Rules>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        super::ALL
            .iter()
            .copied()
            .flatten()
            .copied()
            .flatten()
            .map(|rules| ((rules.group, rules.resource), rules))
            .collect()
    });
    index.get(&(group, resource)).copied().unwrap_or(&GENERIC)
}
