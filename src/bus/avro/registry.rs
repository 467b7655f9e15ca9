//! The schemas that messages may be written with, by fingerprint: those built in, and every
//! `*.avsc` of a directory. Each is compiled to a plan when it is loaded, so that a message costs
//! one look-up.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use apache_avro::Schema;
use serde_json::Value as Json;

use super::canonical::{Form, canonical_form, crc64};
use super::compile::{Field, compile};
use super::error::{DecodeError, SchemaError};
use super::limits::{MAX_MESSAGE_BYTES, MAX_SCHEMA_BYTES};
use super::plan::{Message, Plan};
use super::{replica_sample, request_batch};

/// The two bytes that a single-object frame begins with.
const MAGIC: [u8; 2] = [0xc3, 0x01];

/// Those and the fingerprint.
pub(super) const FRAME_BYTES: usize = 10;

/// The schemas that this program can read with.
#[derive(Debug)]
pub struct SchemaRegistry {
    /// By fingerprint; a schema stands here once for each of its forms.
    known: Vec<Known>,
    plans: Vec<Plan>,
}

#[derive(Debug)]
struct Known {
    fingerprint: u64,
    canonical: String,
    plan: usize,
}

impl SchemaRegistry {
    /// The schemas that this program was built with.
    pub fn built_in() -> Self {
        let mut registry = Self {
            known: Vec::new(),
            plans: Vec::new(),
        };
        for message in [Message::RequestBatch, Message::ReplicaSample] {
            registry
                .add(Path::new("(built in)"), built_in(message).text)
                .expect("the built-in schemas are read by a test");
        }
        registry
    }

    /// Those and every `*.avsc` in `directory`, in the order of their names.
    ///
    /// # Errors
    /// The first file that cannot be used, and why. A file whose canonical form is already known
    /// is no error: it describes the same bytes.
    pub fn with_directory(directory: &Path) -> Result<Self, SchemaError> {
        let unreadable = |source| SchemaError::Unreadable {
            path: directory.to_owned(),
            source,
        };
        let mut paths: Vec<PathBuf> = fs::read_dir(directory)
            .map_err(unreadable)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(unreadable)?;
        paths.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "avsc")
        });
        paths.sort();
        let mut registry = Self::built_in();
        for path in paths {
            let text = read_bounded(&path)?;
            registry.add(&path, &text)?;
        }
        Ok(registry)
    }

    /// Adds one schema; `path` names it in errors.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn add(&mut self, path: &Path, text: &str) -> Result<(), SchemaError> {
        let not_avro = |problem| SchemaError::NotAvro {
            path: path.to_owned(),
            problem,
        };
        let json: Json = serde_json::from_str(text).map_err(|e| not_avro(e.to_string()))?;
        let schema = Schema::parse(&json).map_err(|e| not_avro(e.to_string()))?;
        let message = message_of(&schema).map_err(|found| SchemaError::NoSuchMessage {
            path: path.to_owned(),
            found,
        })?;
        let ours = built_in(message);
        let plan = compile(message, &schema, &ours.schema, ours.fields).map_err(|problem| {
            SchemaError::NotResolvable {
                path: path.to_owned(),
                message,
                problem,
            }
        })?;
        let serialised = serde_json::to_value(&schema).map_err(|e| not_avro(e.to_string()))?;
        let plan_at = self.plans.len();
        self.plans.push(plan);
        for canonical in [
            canonical_form(&json, Form::Specification).map_err(not_avro)?,
            canonical_form(&serialised, Form::ApacheAvro022).map_err(not_avro)?,
        ] {
            self.know(path, canonical, plan_at)?;
        }
        Ok(())
    }

    fn know(&mut self, path: &Path, canonical: String, plan: usize) -> Result<(), SchemaError> {
        let fingerprint = crc64(&canonical);
        match self
            .known
            .binary_search_by_key(&fingerprint, |known| known.fingerprint)
        {
            Ok(at) if self.known[at].canonical == canonical => Ok(()),
            Ok(_) => Err(SchemaError::Duplicate {
                path: path.to_owned(),
                fingerprint,
            }),
            Err(at) => {
                self.known.insert(
                    at,
                    Known {
                        fingerprint,
                        canonical,
                        plan,
                    },
                );
                Ok(())
            }
        }
    }

    /// How to read a framed message, and its body.
    ///
    /// # Errors
    /// It is too large, not framed, or of a schema that is not known.
    pub fn plan<'a>(&self, framed: &'a [u8]) -> Result<(&Plan, &'a [u8]), DecodeError> {
        if framed.len() > MAX_MESSAGE_BYTES {
            return Err(DecodeError::TooLarge {
                bytes: framed.len(),
            });
        }
        let Some((frame, body)) = framed.split_first_chunk::<FRAME_BYTES>() else {
            return Err(DecodeError::BadFraming);
        };
        let [m0, m1, fingerprint @ ..] = *frame;
        if [m0, m1] != MAGIC {
            return Err(DecodeError::BadFraming);
        }
        let fingerprint = u64::from_le_bytes(fingerprint);
        match self
            .known
            .binary_search_by_key(&fingerprint, |known| known.fingerprint)
        {
            Ok(at) => Ok((&self.plans[self.known[at].plan], body)),
            Err(_) => Err(DecodeError::UnknownSchema { fingerprint }),
        }
    }
}

/// The ten bytes before a body that was written with the schema of this fingerprint.
pub fn frame(fingerprint: u64) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    frame[..2].copy_from_slice(&MAGIC);
    frame[2..].copy_from_slice(&fingerprint.to_le_bytes());
    frame
}

/// One of our own schemas.
pub(super) struct BuiltIn {
    pub(super) text: &'static str,
    pub(super) schema: Schema,
    pub(super) fields: &'static [Field],
    frame: [u8; FRAME_BYTES],
}

impl BuiltIn {
    fn new(text: &'static str, fields: &'static [Field]) -> Self {
        let fingerprint = super::fingerprint(text).expect("a built-in schema is one, says a test");
        Self {
            text,
            schema: Schema::parse_str(text).expect("a built-in schema is one, says a test"),
            fields,
            frame: frame(fingerprint),
        }
    }

    pub(super) fn put_frame(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.frame);
    }
}

pub(super) fn built_in(message: Message) -> &'static BuiltIn {
    static REQUEST_BATCH: LazyLock<BuiltIn> =
        LazyLock::new(|| BuiltIn::new(request_batch::SCHEMA, request_batch::FIELDS));
    static REPLICA_SAMPLE: LazyLock<BuiltIn> =
        LazyLock::new(|| BuiltIn::new(replica_sample::SCHEMA, replica_sample::FIELDS));
    match message {
        Message::RequestBatch => &REQUEST_BATCH,
        Message::ReplicaSample => &REPLICA_SAMPLE,
    }
}

/// Which message a schema is of, by its record's full name, or what it is instead.
fn message_of(schema: &Schema) -> Result<Message, String> {
    let Schema::Record(record) = schema else {
        return Err("a schema that is no record".to_owned());
    };
    match record.name.fullname(None).as_str() {
        "modelmeter.RequestBatch" => Ok(Message::RequestBatch),
        "modelmeter.ReplicaSample" => Ok(Message::ReplicaSample),
        other => Err(other.to_owned()),
    }
}

fn read_bounded(path: &Path) -> Result<String, SchemaError> {
    let unreadable = |source| SchemaError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    let read = file
        .take(MAX_SCHEMA_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    if read as u64 > MAX_SCHEMA_BYTES {
        return Err(SchemaError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(text)
}
