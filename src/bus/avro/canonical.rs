//! The fingerprint that a single-object frame names its schema by: CRC-64-AVRO of the schema's
//! parsing canonical form.
//!
//! The form is the specification's, which Java and fastavro compute alike. `apache-avro` 0.22
//! differs: it leaves `{"type":"long"}` where a logical type stood, and so do the frames that its
//! writer makes. Both can be computed here; only the specification's is ever written.

use serde_json::{Map, Value as Json};

/// The fingerprint of a schema by the specification.
///
/// # Errors
/// What is not an Avro schema.
pub fn fingerprint(schema: &str) -> Result<u64, String> {
    let json: Json = serde_json::from_str(schema).map_err(|e| e.to_string())?;
    Ok(crc64(&canonical_form(&json, Form::Specification)?))
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    Specification,
    /// Of a schema as `apache-avro` serialises it, where only logical types that it knows are
    /// left on a primitive.
    ApacheAvro022,
}

/// Transforms `json` as the specification's section "Parsing Canonical Form" says: names in
/// full, primitives bare, only what matters to a parser kept, in a fixed order, no white space.
pub(super) fn canonical_form(json: &Json, form: Form) -> Result<String, String> {
    let mut out = String::new();
    write_type(json, "", form, &mut out)?;
    Ok(out)
}

const PRIMITIVES: [&str; 8] = [
    "null", "boolean", "int", "long", "float", "double", "bytes", "string",
];

fn write_type(json: &Json, namespace: &str, form: Form, out: &mut String) -> Result<(), String> {
    match json {
        Json::String(name) if PRIMITIVES.contains(&name.as_str()) => write_string(name, out),
        Json::String(name) => write_string(&full_name(name, None, namespace), out),
        Json::Array(branches) => write_list(branches, out, |branch, out| {
            write_type(branch, namespace, form, out)
        })?,
        Json::Object(object) => match object.get("type") {
            Some(Json::String(kind)) => write_object(kind, object, namespace, form, out)?,
            Some(inner) => write_type(inner, namespace, form, out)?,
            None => return Err("a type without \"type\"".to_owned()),
        },
        other => return Err(format!("{other} is no type")),
    }
    Ok(())
}

fn write_object(
    kind: &str,
    object: &Map<String, Json>,
    namespace: &str,
    form: Form,
    out: &mut String,
) -> Result<(), String> {
    match kind {
        "array" => write_container("array", "items", object, namespace, form, out),
        "map" => write_container("map", "values", object, namespace, form, out),
        "record" | "error" | "enum" | "fixed" => write_named(kind, object, namespace, form, out),
        primitive
            if form == Form::ApacheAvro022
                && PRIMITIVES.contains(&primitive)
                && object.contains_key("logicalType") =>
        {
            out.push_str("{\"type\":");
            write_string(primitive, out);
            for key in ["precision", "scale"] {
                if let Some(number) = object.get(key).and_then(Json::as_u64) {
                    out.push_str(&format!(",\"{key}\":{number}"));
                }
            }
            out.push('}');
            Ok(())
        }
        other => write_type(&Json::String(other.to_owned()), namespace, form, out),
    }
}

fn write_container(
    kind: &str,
    part: &str,
    object: &Map<String, Json>,
    namespace: &str,
    form: Form,
    out: &mut String,
) -> Result<(), String> {
    let inner = object
        .get(part)
        .ok_or_else(|| format!("{kind} without {part}"))?;
    out.push_str(&format!("{{\"type\":\"{kind}\",\"{part}\":"));
    write_type(inner, namespace, form, out)?;
    out.push('}');
    Ok(())
}

fn write_named(
    kind: &str,
    object: &Map<String, Json>,
    namespace: &str,
    form: Form,
    out: &mut String,
) -> Result<(), String> {
    let name = text(object, "name")?;
    let own_namespace = object.get("namespace").and_then(Json::as_str);
    let name = full_name(name, own_namespace, namespace);
    let namespace = name.rsplit_once('.').map_or("", |(namespace, _)| namespace);
    out.push_str("{\"name\":");
    write_string(&name, out);
    // The specification has no canonical name for error records; they read as records.
    let kind = if kind == "error" { "record" } else { kind };
    out.push_str(&format!(",\"type\":\"{kind}\""));
    match kind {
        "record" => {
            out.push_str(",\"fields\":");
            write_list(list(object, "fields")?, out, |field, out| {
                let field = field.as_object().ok_or("a field that is no object")?;
                out.push_str("{\"name\":");
                write_string(text(field, "name")?, out);
                out.push_str(",\"type\":");
                let of = field.get("type").ok_or("a field without a type")?;
                write_type(of, namespace, form, out)?;
                out.push('}');
                Ok(())
            })?;
        }
        "enum" => {
            out.push_str(",\"symbols\":");
            write_list(list(object, "symbols")?, out, |symbol, out| {
                write_string(symbol.as_str().ok_or("a symbol that is no text")?, out);
                Ok(())
            })?;
        }
        _ => {
            let size = object.get("size").ok_or("a fixed without a size")?;
            let size = size
                .as_u64()
                .or_else(|| size.as_str()?.parse().ok())
                .ok_or("a size that is no number")?;
            out.push_str(&format!(",\"size\":{size}"));
        }
    }
    out.push('}');
    Ok(())
}

fn full_name(name: &str, own: Option<&str>, enclosing: &str) -> String {
    let namespace = own.unwrap_or(enclosing);
    if name.contains('.') || namespace.is_empty() {
        name.trim_start_matches('.').to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

fn text<'a>(object: &'a Map<String, Json>, key: &str) -> Result<&'a str, String> {
    object
        .get(key)
        .and_then(Json::as_str)
        .ok_or_else(|| format!("no {key}"))
}

fn list<'a>(object: &'a Map<String, Json>, key: &str) -> Result<&'a Vec<Json>, String> {
    object
        .get(key)
        .and_then(Json::as_array)
        .ok_or_else(|| format!("no list of {key}"))
}

fn write_list(
    items: &[Json],
    out: &mut String,
    mut write: impl FnMut(&Json, &mut String) -> Result<(), String>,
) -> Result<(), String> {
    out.push('[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write(item, out)?;
    }
    out.push(']');
    Ok(())
}

/// Names and symbols are letters, digits, dots and underscores: nothing to escape.
fn write_string(text: &str, out: &mut String) {
    out.push('"');
    out.push_str(text);
    out.push('"');
}

/// The fingerprint of nothing, and the polynomial: the specification's `EMPTY`.
const EMPTY: u64 = 0xc15d_213a_a4d7_a795;

/// CRC-64-AVRO. A bit at a time: it runs once a schema.
pub(super) fn crc64(text: &str) -> u64 {
    text.bytes().fold(EMPTY, |crc, byte| {
        let low = (0..8).fold((crc ^ u64::from(byte)) & 0xff, |fp, _| {
            (fp >> 1) ^ (EMPTY & (fp & 1).wrapping_neg())
        });
        (crc >> 8) ^ low
    })
}
