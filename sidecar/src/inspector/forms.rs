//! The fields of an event's args, from the JSON Schema of its type.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// A field of args.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    pub name: String,
    pub kind: FieldKind,
    pub is_required: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum FieldKind {
    Text,
    Number,
    Boolean,
    /// One of these texts.
    Choice(Vec<String>),
    /// Anything else, as JSON.
    Json,
}

/// The fields that a schema names. `None` if it is not one of an object with known fields: its args are typed in as JSON.
pub fn fields(schema: &str) -> Option<Vec<Field>> {
    let whole: Value = serde_json::from_str(schema).ok()?;
    let schema = resolve(&whole, &whole);
    let properties = schema.get("properties")?.as_object()?;
    let required = schema.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|names| names.iter().any(|other| other == name));
    let field = |(name, schema): (&String, &Value)| Field {
        name: name.clone(),
        kind: kind(resolve(schema, &whole)),
        is_required: is_required(name),
    };
    Some(properties.iter().map(field).collect())
}

/// Follows a reference within the schema.
fn resolve<'a>(schema: &'a Value, whole: &'a Value) -> &'a Value {
    let target = schema.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
    target.and_then(|pointer| whole.pointer(pointer)).unwrap_or(schema)
}

fn kind(schema: &Value) -> FieldKind {
    if let Some(choices) = schema.get("enum").and_then(Value::as_array) {
        let texts: Option<Vec<_>> = choices.iter().map(|choice| choice.as_str().map(str::to_owned)).collect();
        return texts.map_or(FieldKind::Json, FieldKind::Choice);
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => FieldKind::Text,
        Some("number" | "integer") => FieldKind::Number,
        Some("boolean") => FieldKind::Boolean,
        _ => FieldKind::Json,
    }
}

/// The args that were typed into these fields. Each value has the name of its field behind `arg.`. Fields that are not required and
/// empty are left out. The error is for the person who typed.
pub fn args(fields: &[Field], form: &HashMap<String, String>) -> Result<String, String> {
    let mut args = Map::new();
    for Field { name, kind, is_required } in fields {
        let typed = form.get(&format!("arg.{name}")).map(String::as_str).unwrap_or_default();
        if typed.is_empty() && !is_required && *kind != FieldKind::Boolean {
            continue;
        }
        let value = match kind {
            FieldKind::Text | FieldKind::Choice(_) => typed.into(),
            FieldKind::Boolean if typed.is_empty() && !is_required => continue,
            FieldKind::Boolean => (typed == "true").into(),
            FieldKind::Number => match serde_json::from_str(typed.trim()) {
                Ok(Value::Number(number)) => Value::Number(number),
                _ => return Err(format!("{name} is not a number: {typed}")),
            },
            FieldKind::Json => serde_json::from_str(typed).map_err(|error| format!("{name} is not JSON: {error}"))?,
        };
        args.insert(name.clone(), value);
    }
    Ok(Value::Object(args).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r##"{"$ref":"#/$defs/Todo","$defs":{"Todo":{"type":"object","required":["id","done","n"],"properties":{
        "id":{"$ref":"#/$defs/Id"},"done":{"type":"boolean"},"n":{"type":"integer"},"note":{"type":"string"},
        "kind":{"enum":["a","b"]},"tags":{"type":"array"}}},"Id":{"type":"string"}}}"##;

    #[test]
    fn fields_are_those_of_the_schema() {
        let fields = fields(SCHEMA).unwrap();
        let of =
            |name: &str| fields.iter().find(|field| field.name == name).map(|field| (&field.kind, field.is_required));
        assert_eq!(of("id"), Some((&FieldKind::Text, true)));
        assert_eq!(of("done"), Some((&FieldKind::Boolean, true)));
        assert_eq!(of("kind"), Some((&FieldKind::Choice(vec!["a".into(), "b".into()]), false)));
        assert_eq!(of("tags"), Some((&FieldKind::Json, false)));
        assert_eq!(super::fields(r#"{"type":"array"}"#), None);
    }

    #[test]
    fn args_are_what_was_typed() {
        let fields = fields(SCHEMA).unwrap();
        let form = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| (format!("arg.{name}"), (*value).to_owned())).collect::<HashMap<_, _>>()
        };
        let typed = form(&[("id", "\"x\""), ("n", " 12 "), ("done", "true"), ("note", ""), ("tags", "[1, \"two\"]")]);
        assert_eq!(args(&fields, &typed).unwrap(), r#"{"done":true,"id":"\"x\"","n":12,"tags":[1,"two"]}"#);
        assert_eq!(args(&fields, &form(&[("n", "many")])).unwrap_err(), "n is not a number: many");
        assert!(args(&fields, &form(&[("n", "1"), ("tags", "[")])).unwrap_err().starts_with("tags is not JSON"));
    }
}
