//! Reads the marks of producers back as they were at an offset.

use std::collections::HashMap;

use super::deadline::{StoreError, answer};
use crate::core::ids::OTHER;
use crate::core::marks::{MAX_PRODUCERS, Mark, Sequences};
use crate::core::recovery::Boundary;
use crate::core::table::Stream;

/// What is known of a partition's producers below an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    pub boundary: Boundary,
    pub marks: Vec<Mark>,
}

#[derive(clickhouse::Row, serde::Deserialize)]
struct BoundaryRecord {
    kafka_partition: u32,
    range_to: u64,
    ledger_epoch: i32,
}

#[derive(clickhouse::Row, serde::Deserialize)]
struct MarkRecord {
    kafka_partition: u32,
    deployment_id: String,
    replica_id: String,
    boot_id: [u8; 16],
    producer: String,
    first_sequence: u64,
    last_sequence: u64,
    seen: u64,
    last_offset: u64,
    last_append_ms: u64,
}

/// For each of these partitions the highest offset, at or below the one given, as of which marks are stored, and the marks
/// as they were there. A partition without such an offset is absent. `ledger` is `<topic>/<topic id>`.
///
/// # Errors
/// What the client says; nothing is known then, and the caller asks again.
pub async fn read(
    client: &clickhouse::Client,
    stream: Stream,
    ledger: &str,
    starts: &[(i32, u64)],
) -> Result<HashMap<i32, Marked>, StoreError> {
    let table = stream.marks().name();
    let mut known = HashMap::new();
    if starts.is_empty() {
        return Ok(known);
    }
    let statement = format!(
        "SELECT s.kafka_partition AS kafka_partition, max(s.range_to) AS range_to, \
         argMax(s.ledger_epoch, s.range_to) AS ledger_epoch FROM {table} AS s \
         WHERE s.deployment_id = '' AND s.ledger = ? AND ({}) GROUP BY kafka_partition",
        below(starts)
    );
    let query = client.query(&statement).bind(ledger);
    for record in answer(query.fetch_all::<BoundaryRecord>()).await? {
        let boundary = Boundary {
            offset: record.range_to,
            epoch: record.ledger_epoch,
        };
        let marked = Marked {
            boundary,
            marks: Vec::new(),
        };
        known.insert(record.kafka_partition.cast_signed(), marked);
    }
    if known.is_empty() {
        return Ok(known);
    }
    let boundaries: Vec<(i32, u64)> = known
        .iter()
        .map(|(&partition, marked)| (partition, marked.boundary.offset))
        .collect();
    // a row a producer and flush: the last at or below the boundary is the mark there
    let statement = format!(
        "SELECT s.kafka_partition AS kafka_partition, s.deployment_id AS deployment_id, s.replica_id AS replica_id, \
         s.boot_id AS boot_id, argMax(s.producer, s.range_to) AS producer, \
         argMax(s.first_sequence, s.range_to) AS first_sequence, argMax(s.last_sequence, s.range_to) AS last_sequence, \
         argMax(s.seen, s.range_to) AS seen, max(s.last_offset) AS last_offset, \
         argMax(s.last_append_ms, s.range_to) AS last_append_ms FROM {table} AS s \
         WHERE s.deployment_id NOT IN ('', '{OTHER}') AND s.ledger = ? AND ({}) \
         GROUP BY kafka_partition, deployment_id, replica_id, boot_id \
         ORDER BY last_offset DESC LIMIT {MAX_PRODUCERS} BY kafka_partition",
        below(&boundaries)
    );
    let query = client.query(&statement).bind(ledger);
    for record in answer(query.fetch_all::<MarkRecord>()).await? {
        if let Some(marked) = known.get_mut(&record.kafka_partition.cast_signed()) {
            marked.marks.push(mark(record));
        }
    }
    Ok(known)
}

fn mark(record: MarkRecord) -> Mark {
    Mark {
        deployment_id: record.deployment_id.into(),
        replica_id: record.replica_id.into(),
        boot_id: record.boot_id,
        producer: record.producer.into(),
        sequences: Sequences {
            first: record.first_sequence,
            last: record.last_sequence,
            seen: record.seen,
        },
        last_offset: record.last_offset,
        last_append_ms: i64::try_from(record.last_append_ms).unwrap_or(i64::MAX),
    }
}

/// The rows of these partitions up to an offset each.
fn below(offsets: &[(i32, u64)]) -> String {
    let of_one = |&(partition, offset): &(i32, u64)| {
        format!("s.kafka_partition = {partition} AND s.range_to <= {offset}")
    };
    offsets.iter().map(of_one).collect::<Vec<_>>().join(" OR ")
}
