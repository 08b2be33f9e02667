//! What tolerations of a pod say together: several plugins add some or restrict them.

use serde_json::Value;

use crate::resources::{
    same,
    value::{int_at, str_at},
};

/// Whether `wide` tolerates whatever `narrow` does.
pub(super) fn covers(wide: &Value, narrow: &Value) -> bool {
    if same(Some(wide), Some(narrow)) {
        return true;
    }
    let field = |toleration: &Value, name: &str| str_at(toleration, name).to_owned();
    let (key, operator, effect) = (field(wide, "key"), field(wide, "operator"), field(wide, "effect"));
    if field(narrow, "key") != key && !(key.is_empty() && operator == "Exists") {
        return false;
    }
    if field(narrow, "effect") != effect && !effect.is_empty() {
        return false;
    }
    let seconds = |toleration: &Value| int_at(toleration, "tolerationSeconds");
    if effect == "NoExecute"
        && let Some(limit) = seconds(wide)
        && seconds(narrow).is_none_or(|asked| asked > limit)
    {
        return false;
    }
    match operator.as_str() {
        "Equal" | "" => field(narrow, "operator") == "Equal" && field(narrow, "value") == field(wide, "value"),
        "Exists" => true,
        _ => false,
    }
}

/// Both lists as one, without those that another covers.
pub(super) fn merge(first: &[Value], second: &[Value]) -> Vec<Value> {
    let all: Vec<&Value> = first.iter().chain(second).collect();
    let mut merged: Vec<Value> = Vec::new();
    for (i, toleration) in all.iter().enumerate() {
        let later = |other: &&&Value| !same(Some(toleration), Some(other)) && covers(other, toleration);
        if !merged.iter().any(|other| covers(other, toleration)) && !all[i + 1..].iter().any(|other| later(&other)) {
            merged.push((*toleration).clone());
        }
    }
    merged
}

/// Whether every toleration is covered by one of the list; an empty list covers all.
pub(super) fn allowed(tolerations: &[Value], list: &[Value]) -> bool {
    list.is_empty() || tolerations.iter().all(|toleration| list.iter().any(|wide| covers(wide, toleration)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wide_ones_cover_narrow_ones() {
        let all = json!({"operator": "Exists"});
        let key = json!({"key": "a", "operator": "Exists"});
        let equal = json!({"key": "a", "operator": "Equal", "value": "1", "effect": "NoSchedule"});
        let short = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let long = json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 6});
        for (wide, narrow, want) in [
            (&all, &equal, true),
            (&key, &equal, true),
            (&equal, &key, false),
            (&long, &short, true),
            (&short, &long, false),
            (&short, &key, false),
            (&key, &json!({"key": "b", "operator": "Exists"}), false),
        ] {
            assert_eq!(covers(wide, narrow), want, "{wide} {narrow}");
        }
        let (equals, shorts, keys) = ([equal.clone()], [short.clone()], [key]);
        assert_eq!(merge(&[equal, short], &keys), keys);
        assert_eq!(merge(&shorts, &shorts), shorts);
        assert!(allowed(&equals, &[]) && !allowed(&[all], &keys));
    }
}
