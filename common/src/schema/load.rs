//! Reads the text form of the type table (its grammar stands at the top of `types.txt`).
//!
//! The text is compiled in and covered by tests, so what does not parse is a bug of the generator: it becomes a type
//! without constraints instead of a panic.

use std::collections::HashMap;

use super::table::{FieldRow, GoFacts, ListKind, MapKind, Node, PatchStrategy, Scalar, Span, Table, TypeId, WireForm};

pub(super) fn parse(text: &'static str) -> Table {
    let mut loader = Loader { text, table: Table::default(), packages: HashMap::new(), anonymous: HashMap::new() };
    loader.packages = text.lines().filter_map(|line| line.strip_prefix("p ")?.split_once(' ')).collect();
    loader.table.text = text.into();
    loader.run();
    loader.table.fields.shrink_to_fit();
    loader.table.nodes.shrink_to_fit();
    loader.table
}

struct Loader {
    text: &'static str,
    table: Table,
    packages: HashMap<&'static str, &'static str>,
    /// Lists, maps and scalars by package and text, so that equal ones are one type.
    anonymous: HashMap<(&'static str, &'static str), TypeId>,
}

impl Loader {
    fn run(&mut self) {
        let mut package = "";
        let mut current: Option<TypeId> = None;
        for line in self.text.lines() {
            if line.starts_with('#') {
                continue;
            }
            if let Some((_, name)) = line.strip_prefix("p ").and_then(|rest| rest.split_once(' ')) {
                package = name;
            } else if let Some(rest) = line.strip_prefix("t ") {
                current = self.definition(package, rest);
            } else if let (Some(id), Some(row)) = (current, self.field(package, line)) {
                self.table.fields.push(row);
                if let Some(Node::Struct { count, .. }) = self.table.nodes.get_mut(id.0 as usize) {
                    *count += 1;
                }
            }
        }
    }

    fn definition(&mut self, package: &'static str, line: &'static str) -> Option<TypeId> {
        let mut words = line.split(' ');
        let (short, form) = (words.next()?, words.next()?);
        let id = self.named(package, short);
        let (mut kind, mut kinds, mut unions) = (MapKind::Unstated, "", None);
        for word in words {
            match word.split_once('=')? {
                ("map", word) => kind = map_kind(word),
                ("kinds", list) => kinds = list,
                ("unions", json) => unions = Some(self.span(json)),
                ("wire", word) => drop(wire_form(word).map(|form| self.table.wire_forms.insert(id, form))),
                _ => {}
            }
        }
        let node = match form {
            "struct" => Node::Struct { first: self.table.fields.len() as u32, count: 0, kind },
            word => plain(word),
        };
        self.table.nodes[id.0 as usize] = node;
        for kind in kinds.split(',').filter(|kind| !kind.is_empty()) {
            self.table.by_kind.insert(kind.into(), id);
            let span = self.span(kind);
            self.table.kinds_of.entry(id).or_default().push(span);
        }
        if let Some(span) = unions {
            self.table.unions.insert(id, span);
        }
        Some(id)
    }

    fn field(&mut self, package: &'static str, line: &'static str) -> Option<FieldRow> {
        let (rest, default) = match line.split_once(" default=") {
            Some((rest, json)) => (rest, Some(self.span(json))),
            None => (line, None),
        };
        let mut words = rest.split(' ');
        let (name, expression) = (words.next()?, words.next()?);
        let (name, required) = name.strip_suffix('!').map_or((name, false), |name| (name, true));
        let ty = self.expression(package, expression);
        let mut row = FieldRow { name: self.span(name), ty, required, default, ..FieldRow::default() };
        for word in words {
            if let Some(facts) = word.strip_prefix('#') {
                let numbers = facts.trim_end_matches(|c: char| c.is_ascii_lowercase());
                row.numbers = self.span(numbers);
                row.facts = Some(go_facts(&facts[numbers.len()..]));
                continue;
            }
            let (key, value) = word.split_once('=')?;
            let span = Some(self.span(value));
            match key {
                "patch" => row.strategy = strategy(value),
                "key" => row.merge_key = span,
                "go" => row.go_type = span,
                "map" => row.map_kind = span,
                "list" => row.list_kind = span,
                "bare" => row.bare = true,
                "enum" => row.enumeration = self.enumeration(value),
                _ => {}
            }
        }
        Some(row)
    }

    fn expression(&mut self, package: &'static str, text: &'static str) -> TypeId {
        if let Some(reference) = text.strip_prefix('@') {
            return match reference.rsplit_once('.') {
                Some((alias, short)) => {
                    let owner = self.packages.get(alias).copied().unwrap_or(package);
                    self.named(owner, short)
                }
                None => self.named(package, reference),
            };
        }
        if let Some(&id) = self.anonymous.get(&(package, text)) {
            return id;
        }
        let node = if let Some((merge, element)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            let (kind, keys) = merge.split_once(':').unwrap_or((merge, ""));
            let keys = self.keys(keys);
            Node::List { element: self.expression(package, element), kind: list_kind(kind), keys }
        } else if let Some((merge, value)) = text.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Node::Map { value: self.expression(package, value), kind: map_kind(merge) }
        } else {
            plain(text)
        };
        let id = self.push(node, None);
        self.anonymous.insert((package, text), id);
        id
    }

    fn named(&mut self, package: &'static str, short: &'static str) -> TypeId {
        let full = format!("{package}.{short}");
        if let Some(&id) = self.table.by_name.get(full.as_str()) {
            return id;
        }
        let name = (self.span(package), self.span(short));
        let id = self.push(Node::Any { object: false }, Some(name));
        self.table.by_name.insert(full.into(), id);
        id
    }

    fn push(&mut self, node: Node, name: Option<(Span, Span)>) -> TypeId {
        let id = TypeId(self.table.nodes.len() as u32);
        self.table.nodes.push(node);
        self.table.names.push(name);
        id
    }

    fn keys(&mut self, text: &'static str) -> u32 {
        let parts = || text.split(',').filter(|key| !key.is_empty());
        let same = |keys: &Vec<Span>| keys.iter().map(|key| self.table.str(*key)).eq(parts());
        if let Some(found) = self.table.keys.iter().position(same) {
            return found as u32;
        }
        self.table.keys.push(parts().map(|key| self.span(key)).collect());
        self.table.keys.len() as u32 - 1
    }

    fn enumeration(&mut self, values: &'static str) -> u16 {
        let same = |span: &Span| self.table.str(*span) == values;
        let place = self.table.enums.iter().position(same).unwrap_or_else(|| {
            self.table.enums.push(self.span(values));
            self.table.enums.len() - 1
        });
        u16::try_from(place + 1).unwrap_or_default()
    }

    /// Where a slice of the text is in the text.
    fn span(&self, part: &'static str) -> Span {
        let at = part.as_ptr() as usize - self.text.as_ptr() as usize;
        Span { at: at as u32, len: part.len() as u32 }
    }
}

fn plain(word: &str) -> Node {
    let scalar = match word {
        "string" => Scalar::String,
        "bytes" => Scalar::Bytes,
        "bool" => Scalar::Bool,
        "int32" => Scalar::Int32,
        "int64" => Scalar::Int64,
        "double" => Scalar::Double,
        "time" => Scalar::Time,
        "microtime" => Scalar::MicroTime,
        "duration" => Scalar::Duration,
        "quantity" => Scalar::Quantity,
        "intstr" => Scalar::IntOrString,
        other => return Node::Any { object: other == "object" },
    };
    Node::Scalar(scalar)
}

fn wire_form(word: &str) -> Option<WireForm> {
    Some(match word {
        "raw" => WireForm::Raw,
        "empty" => WireForm::Empty,
        "array" => WireForm::SchemaOrArray,
        "bool" => WireForm::SchemaOrBool,
        "strings" => WireForm::SchemaOrStrings,
        _ => return None,
    })
}

fn go_facts(letters: &str) -> GoFacts {
    let has = |letter| letters.contains(letter);
    GoFacts { pointer: has('p'), omitempty: has('o'), omitzero: has('z'), wrapped: has('w') }
}

fn list_kind(word: &str) -> ListKind {
    match word {
        "atomic" => ListKind::Atomic,
        "set" => ListKind::Set,
        "map" => ListKind::Map,
        _ => ListKind::Unstated,
    }
}

fn map_kind(word: &str) -> MapKind {
    match word {
        "atomic" => MapKind::Atomic,
        "granular" => MapKind::Granular,
        _ => MapKind::Unstated,
    }
}

fn strategy(words: &str) -> PatchStrategy {
    let has = |wanted| words.split(',').any(|word| word == wanted);
    PatchStrategy { merge: has("merge"), retain_keys: has("retainKeys"), replace: has("replace") }
}
