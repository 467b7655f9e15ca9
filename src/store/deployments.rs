//! The `deployments` table: what the dropdowns offer.

use super::deadline::{StoreError, answer};
use crate::core::deployment::DeploymentRow;

#[derive(clickhouse::Row, serde::Serialize)]
struct DeploymentRecord<'a> {
    deployment_id: &'a str,
    deployment_name: &'a str,
    model_id: &'a str,
    model_name: &'a str,
    environment: &'a str,
    kind: &'a str,
    instance_type: &'a str,
    first_seen: u32,
    last_seen: u32,
}

/// Writes what was seen. Idempotent, so that it needs no ledger: minima and maxima merge.
///
/// # Errors
/// What the client says; the rows may be in.
pub async fn insert(client: &clickhouse::Client, rows: &[DeploymentRow]) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    answer(write(client, rows)).await
}

async fn write(
    client: &clickhouse::Client,
    rows: &[DeploymentRow],
) -> Result<(), clickhouse::error::Error> {
    let mut insert = client.insert::<DeploymentRecord<'_>>("deployments").await?;
    for row in rows {
        let record = DeploymentRecord {
            deployment_id: &row.id,
            deployment_name: &row.facts.deployment_name,
            model_id: &row.facts.model_id,
            model_name: &row.facts.model_name,
            environment: &row.facts.environment,
            kind: row.facts.kind,
            instance_type: &row.facts.instance_type,
            first_seen: row.seen.first,
            last_seen: row.seen.last,
        };
        insert.write(&record).await?;
    }
    insert.end().await
}
