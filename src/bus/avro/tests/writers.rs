//! Made-up writers: a schema that may stand in for ours by the rules of resolution, and values of
//! any schema, both drawn from one seed so that a failure can be run again.

use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{Name, NamesRef, ResolvedSchema};
use apache_avro::types::Value;
use serde_json::{Value as Json, json};

/// A small source of choices (SplitMix64).
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at + 1));
        }
    }

    /// A long from 0 on of any magnitude.
    fn magnitude(&mut self, bits: u32) -> i64 {
        (self.roll() >> (64 - bits)) as i64 >> self.below(bits as usize)
    }
}

/// A writer's schema made from ours: fields in another order, left out where they have a
/// default, added, of a type that promotes, in or out of a union; enums in another order, with
/// symbols that we do not know.
pub(super) fn another_writer(ours: &str, dice: &mut Dice) -> String {
    let mut schema: Json = serde_json::from_str(ours).expect("JSON");
    change_record(&mut schema, dice, &mut 0);
    schema.to_string()
}

fn change_record(record: &mut Json, dice: &mut Dice, added: &mut usize) {
    let fields = record["fields"].as_array_mut().expect("fields");
    fields.retain(|field| field.get("default").is_none() || !dice.one_in(4));
    for field in fields.iter_mut() {
        let time = matches!(field["name"].as_str(), Some("finished_at" | "sampled_at"));
        let kind = change_type(field["type"].take(), dice, added);
        field["type"] = if time || !dice.one_in(6) {
            kind
        } else {
            in_union(kind, dice, added)
        };
        field.as_object_mut().expect("an object").remove("default");
    }
    while dice.one_in(2) {
        *added += 1;
        let kind = unknown_type(dice, added, 3);
        fields.push(json!({"name": format!("added_{added}"), "type": kind}));
    }
    dice.shuffle(fields);
}

fn change_type(kind: Json, dice: &mut Dice, added: &mut usize) -> Json {
    match kind {
        Json::String(name) => json!(match name.as_str() {
            "long" => ["long", "int"][dice.below(2)],
            "double" => ["double", "float", "long", "int"][dice.below(4)],
            "string" => ["string", "bytes"][dice.below(2)],
            other => other,
        }),
        Json::Array(branches) => {
            let value = change_type(branches[1].clone(), dice, added);
            match dice.below(3) {
                0 => value,
                1 => json!([value, "null"]),
                _ => json!(["null", value]),
            }
        }
        Json::Object(mut object) => {
            match object["type"].as_str() {
                Some("array") => {
                    change_record(&mut object["items"], dice, added);
                    if dice.one_in(4) {
                        object["items"] = in_union(object["items"].take(), dice, added);
                    }
                }
                Some("enum") => {
                    let symbols = object["symbols"].as_array_mut().expect("symbols");
                    symbols.push(json!("of_tomorrow"));
                    dice.shuffle(symbols);
                    object.remove("default");
                }
                Some("long") if dice.one_in(3) => return json!("int"),
                _ => {}
            }
            Json::Object(object)
        }
        other => other,
    }
}

/// A union with branches that our field cannot hold; values are only drawn from those it can.
fn in_union(kind: Json, dice: &mut Dice, added: &mut usize) -> Json {
    let mut branches = match kind {
        Json::Array(branches) => branches,
        kind => vec![kind],
    };
    *added += 1;
    branches.push(json!({"type": "fixed", "name": format!("Unfit{added}"), "size": 3}));
    dice.shuffle(&mut branches);
    Json::Array(branches)
}

/// A type of a field that we do not know.
fn unknown_type(dice: &mut Dice, added: &mut usize, depth: usize) -> Json {
    *added += 1;
    let name = format!("Added{added}");
    let kinds = if depth == 0 { 8 } else { 14 };
    match dice.below(kinds) {
        0 => json!("null"),
        1 => json!("boolean"),
        2 => json!("long"),
        3 => json!("float"),
        4 => json!("double"),
        5 => json!("string"),
        6 => json!({"type": "enum", "name": name, "symbols": ["A", "B"]}),
        7 => json!({"type": "fixed", "name": name, "size": dice.below(20)}),
        8 => json!({"type": "array", "items": unknown_type(dice, added, depth - 1)}),
        9 => json!({"type": "map", "values": unknown_type(dice, added, depth - 1)}),
        10 => json!(["null", {"type": "array", "items": unknown_type(dice, added, depth - 1)}]),
        11 => json!({"type": "record", "name": name.as_str(), "fields": [
            {"name": "value", "type": "int"}, {"name": "next", "type": ["null", name.as_str()]}]}),
        12 => json!({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}),
        _ => json!({"type": "record", "name": name, "fields": [
            {"name": "a", "type": unknown_type(dice, added, depth - 1)},
            {"name": "b", "type": unknown_type(dice, added, depth - 1)}]}),
    }
}

/// A value of a writer's schema, valid for us wherever a field is one of ours.
pub(super) fn value(schema: &Schema, dice: &mut Dice) -> Value {
    let resolved = ResolvedSchema::try_from(schema).expect("a schema without outside names");
    let drawer = Drawer {
        names: resolved.get_names(),
    };
    drawer.draw(schema, "", dice, 0)
}

struct Drawer<'s> {
    names: &'s NamesRef<'s>,
}

impl Drawer<'_> {
    fn draw(&self, schema: &Schema, field: &str, dice: &mut Dice, depth: usize) -> Value {
        let ratio = matches!(field, "utilization" | "sm_activity");
        match schema {
            Schema::Null => Value::Null,
            Schema::Boolean => Value::Boolean(dice.one_in(2)),
            Schema::Int if field == "status" => Value::Int(dice.below(1200) as i32 - 300),
            Schema::Int if ratio => Value::Int(dice.below(2) as i32),
            Schema::Int => Value::Int(dice.magnitude(28) as i32),
            Schema::Long if ratio => Value::Long(dice.below(2) as i64),
            Schema::Long if field.starts_with("cpu") || field.starts_with("in_flight") => {
                Value::Long(dice.magnitude(49))
            }
            Schema::Long if field == "interval_us" => Value::Long(dice.magnitude(28)),
            Schema::Long => Value::Long(dice.magnitude(63)),
            Schema::TimestampMicros => Value::TimestampMicros(dice.roll() as i64 >> dice.below(64)),
            Schema::Float => Value::Float(dice.below(1_000_001) as f32 / 1e6),
            Schema::Double => Value::Double(dice.below(1_000_001) as f64 / 1e6),
            Schema::String => Value::String(text(field, dice)),
            Schema::Bytes => Value::Bytes(text(field, dice).into_bytes()),
            Schema::Decimal(_) => Value::Decimal(vec![1, 2, 3, 4].into()),
            Schema::Fixed(fixed) => Value::Fixed(
                fixed.size,
                (0..fixed.size).map(|_| dice.roll() as u8).collect(),
            ),
            Schema::Enum(symbols) => {
                let at = dice.below(symbols.symbols.len());
                Value::Enum(at as u32, symbols.symbols[at].clone())
            }
            Schema::Array(array) => {
                let n = dice.below(4) + usize::from(field == "events");
                let items = (0..n).map(|_| self.draw(&array.items, "", dice, depth + 1));
                Value::Array(items.collect())
            }
            Schema::Map(map) => {
                let items = (0..dice.below(4))
                    .map(|at| (at.to_string(), self.draw(&map.types, "", dice, depth + 1)));
                Value::Map(items.collect::<HashMap<_, _>>())
            }
            Schema::Union(union) => {
                let fits = |branch: &&(usize, &Schema)| match branch.1 {
                    Schema::Fixed(fixed) => fixed.size == 16,
                    // Ends recursive types, and keeps null from what may not be null.
                    Schema::Null => depth > 6 || !union.variants().iter().any(is_unfit),
                    _ => depth <= 6 || union.variants().len() != 2,
                };
                let branches: Vec<_> = union.variants().iter().enumerate().collect();
                let branches: Vec<_> = branches.iter().filter(fits).collect();
                let &(at, branch) = branches[dice.below(branches.len())];
                Value::Union(
                    at as u32,
                    Box::new(self.draw(branch, field, dice, depth + 1)),
                )
            }
            Schema::Record(record) => Value::Record(
                record
                    .fields
                    .iter()
                    .map(|f| {
                        (
                            f.name.clone(),
                            self.draw(&f.schema, &f.name, dice, depth + 1),
                        )
                    })
                    .collect(),
            ),
            Schema::Ref { name } => self.draw(self.named(name), field, dice, depth + 1),
            other => panic!("{other:?} is not drawn"),
        }
    }

    fn named(&self, name: &Name) -> &Schema {
        self.names.get(name).expect("a name of this schema")
    }
}

fn is_unfit(schema: &Schema) -> bool {
    matches!(schema, Schema::Fixed(fixed) if fixed.size == 3)
}

fn text(field: &str, dice: &mut Dice) -> String {
    if field.ends_with("_id") {
        let length = 1 + dice.below(128);
        let letters = b"abcXYZ019._:-";
        return (0..length)
            .map(|_| char::from(letters[dice.below(letters.len())]))
            .collect();
    }
    (0..dice.below(20))
        .map(|_| char::from_u32(dice.below(0x2000) as u32).unwrap_or('?'))
        .collect()
}
