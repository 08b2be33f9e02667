//! The body of a server-side apply: YAML, and so JSON.

use common::{
    schema,
    wire::yaml::{self, Document},
};
use serde_json::{Map, Value};

use super::PatchError;

/// Reads a configuration.
///
/// # Errors
/// It is no YAML, or no object.
pub fn read_configuration(bytes: &[u8]) -> Result<Document, PatchError> {
    let refused = |error: String| PatchError::BadRequest(format!("error decoding YAML: {error}"));
    // Most clients send JSON.
    if let Ok(value @ Value::Object(_)) = serde_json::from_slice(bytes)
        && schema::duplicate_fields(bytes).is_empty()
    {
        return Ok(Document { value, twice: Vec::new() });
    }
    let mut document = yaml::read(bytes).map_err(|error| refused(format!("error converting YAML to JSON: {error}")))?;
    if document.value.is_null() {
        document.value = Value::Object(Map::new());
    }
    if !document.value.is_object() {
        let error = super::wrong_shape(&document.value, "map[string]interface {}");
        return Err(refused(format!("error unmarshaling JSON: while decoding JSON: {error}")));
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_objects_are_configurations() {
        assert_eq!(read_configuration(b"").unwrap().value, json!({}));
        assert_eq!(
            read_configuration(b"[1]").unwrap_err().to_string(),
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal array into Go value of type map[string]interface {}"
        );
        let error = read_configuration(b"{").unwrap_err().to_string();
        assert!(error.starts_with("error decoding YAML: error converting YAML to JSON: yaml: "), "{error}");
        let json = read_configuration(b"{\n\"a\": 1,\n\"a\": 2}").unwrap();
        assert_eq!(
            (json.value, json.twice),
            (json!({"a": 2}), vec!["line 3: key \"a\" already set in map".to_owned()])
        );
    }
}
