//! Kafka: the wire format, the group's member, the workers' consumers, and the dead letters.
pub mod broker;
pub mod dead_letters;
pub mod fetch;
pub mod member;
