//! Reads the ledgers back: the only answer to whether an insert is in.

use std::collections::HashMap;

use super::deadline::{StoreError, answer};
use crate::core::ledger::Ledger;
use crate::core::table::Table;

#[derive(clickhouse::Row, serde::Deserialize)]
struct LedgerRecord {
    kafka_partition: u32,
    ledger_from: u64,
    ledger_to: u64,
    ledger_epoch: i32,
    ingested: u16,
}

/// The ledger of each of these partitions in one table; one without a ledger row is absent. `ledger` is
/// `<topic>/<topic id>`.
///
/// # Errors
/// What the client says; nothing is known then, and the caller asks again.
pub async fn read(
    client: &clickhouse::Client,
    table: Table,
    ledger: &str,
    partitions: &[i32],
) -> Result<HashMap<i32, Ledger>, StoreError> {
    let partitions: Vec<u32> = partitions
        .iter()
        .map(|partition| partition.cast_unsigned())
        .collect();
    let name = table.name();
    // leader epochs only grow, so that the highest is the one at `to`
    let statement = format!(
        "SELECT kafka_partition, min(s.ledger_from) AS ledger_from, max(s.ledger_to) AS ledger_to, \
         max(s.ledger_epoch) AS ledger_epoch, max(s.ingested) AS ingested FROM {name} AS s \
         WHERE s.deployment_id = '' AND s.ledger = ? AND s.kafka_partition IN ? GROUP BY kafka_partition"
    );
    let query = client.query(&statement).bind(ledger).bind(partitions);
    let records = answer(query.fetch_all::<LedgerRecord>()).await?;
    Ok(records
        .into_iter()
        .map(|record| {
            let ledger = Ledger {
                from: record.ledger_from,
                to: record.ledger_to,
                epoch: record.ledger_epoch,
                ingested: i64::from(record.ingested),
            };
            (record.kafka_partition.cast_signed(), ledger)
        })
        .collect())
}
