//! `GET /api/v1/deployments`: what the dropdown offers, one entry a deployment.

use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::http::Store;
use super::views::DEPLOYMENTS;

/// As many deployments as one processor tells apart, and their promotions. What comes behind it is left out and said.
const MAX_ROWS: u32 = 40_000;

#[derive(Debug, Clone, PartialEq, Eq, clickhouse::Row, Deserialize)]
struct Row {
    id: String,
    name: String,
    model_id: String,
    model_name: String,
    environment: String,
    kind: String,
    instance_type: String,
    first_seen: u32,
    last_seen: u32,
}

/// What a deployment was at a time.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Facts {
    name: String,
    model_id: String,
    model_name: String,
    environment: String,
    kind: String,
    instance_type: String,
    first_seen: u32,
    last_seen: u32,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Deployment {
    id: String,
    /// As last reported; empty where only requests were seen. Its times are those of the whole deployment.
    #[serde(flatten)]
    facts: Facts,
    /// What it was before, latest first: a promotion, a rename, another instance type.
    earlier: Vec<Facts>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Deployments {
    deployments: Vec<Deployment>,
    is_truncated: bool,
}

/// # Errors
/// When ClickHouse does not answer, or is too busy.
pub async fn list(store: &Store) -> Result<Deployments, ApiError> {
    let _turn = store.turn().await?;
    let query = store.query(DEPLOYMENTS).param("limit", MAX_ROWS);
    let rows: Vec<Row> = store.rows(query).await?;
    let is_truncated = rows.len() == MAX_ROWS as usize;
    Ok(Deployments {
        deployments: gather(rows),
        is_truncated,
    })
}

/// Rows of one id follow one another, the last seen first.
fn gather(rows: Vec<Row>) -> Vec<Deployment> {
    rows.chunk_by(|a, b| a.id == b.id)
        .map(|of_id| {
            let first_seen = of_id
                .iter()
                .map(|row| row.first_seen)
                .min()
                .unwrap_or_default();
            let last_seen = of_id
                .iter()
                .map(|row| row.last_seen)
                .max()
                .unwrap_or_default();
            let (named, bare): (Vec<&Row>, Vec<&Row>) =
                of_id.iter().partition(|row| row.has_facts());
            // beside a row with facts, one without is no promotion: it comes from requests
            let mut facts = if named.is_empty() { bare } else { named }
                .into_iter()
                .map(Row::facts);
            let current = facts.next().expect("a chunk has a row");
            Deployment {
                id: of_id[0].id.clone(),
                facts: Facts {
                    first_seen,
                    last_seen,
                    ..current
                },
                earlier: facts.collect(),
            }
        })
        .collect()
}

impl Row {
    fn has_facts(&self) -> bool {
        [
            &self.name,
            &self.model_id,
            &self.model_name,
            &self.environment,
            &self.kind,
            &self.instance_type,
        ]
        .iter()
        .any(|fact| !fact.is_empty())
    }

    fn facts(&self) -> Facts {
        Facts {
            name: self.name.clone(),
            model_id: self.model_id.clone(),
            model_name: self.model_name.clone(),
            environment: self.environment.clone(),
            kind: self.kind.clone(),
            instance_type: self.instance_type.clone(),
            first_seen: self.first_seen,
            last_seen: self.last_seen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::http::MAX_PANELS;
    use super::*;

    /// The discard port: nobody listens there.
    const NOBODY: &str = "http://127.0.0.1:9";

    #[tokio::test]
    async fn a_list_waits_its_turn_as_panels_do() {
        let store = Store::new(clickhouse::Client::default().with_url(NOBODY));
        let mut turns = Vec::new();
        for _ in 0..MAX_PANELS {
            turns.push(store.turn().await.expect("a free turn"));
        }
        let waited = list(&store).await.expect_err("nothing was read");
        assert!(matches!(waited, ApiError::Busy { .. }), "{waited}");
        drop(turns);
        let asked = list(&store).await.expect_err("nobody answers");
        assert!(matches!(asked, ApiError::Unreachable(_)), "{asked}");
    }

    fn row(id: &str, environment: &str, first_seen: u32, last_seen: u32) -> Row {
        Row {
            id: id.to_owned(),
            name: String::new(),
            model_id: String::new(),
            model_name: String::new(),
            environment: environment.to_owned(),
            kind: String::new(),
            instance_type: String::new(),
            first_seen,
            last_seen,
        }
    }

    #[test]
    fn a_row_without_facts_hides_beside_one_with_facts_and_its_times_count() {
        let rows = vec![
            row("a", "", 1, 90),
            row("a", "prod", 50, 80),
            row("a", "dev", 10, 50),
            row("b", "", 3, 4),
        ];
        let gathered = gather(rows);
        let told: Vec<_> = gathered
            .iter()
            .map(|d| {
                (
                    d.id.as_str(),
                    d.facts.environment.as_str(),
                    d.facts.first_seen,
                    d.facts.last_seen,
                    d.earlier.len(),
                )
            })
            .collect();
        assert_eq!(told, [("a", "prod", 1, 90, 1), ("b", "", 3, 4, 0)]);
        assert_eq!(
            (
                gathered[0].earlier[0].environment.as_str(),
                gathered[0].earlier[0].last_seen
            ),
            ("dev", 50)
        );
    }
}
