//! The wire against its oracle: what `apache-avro` makes of the same bytes and schemas.

mod bombs;
mod examples;
mod fingerprints;
mod messages;
mod oracle;
mod refusals;
mod registry;
mod resolution;
mod writers;
