//! Kafka: the wire format, the topics, the group's member, the workers' consumers, and the dead letters.
pub mod avro;
pub mod broker;
pub mod dead_letters;
pub mod fetch;
pub mod member;
pub mod topics;
