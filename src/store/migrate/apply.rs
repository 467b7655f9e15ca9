//! Migrations against a database: what was applied, what is missing, and what must not be touched.
//! Refuses a database that a newer build has migrated, a migration that is not the one that was
//! applied, and tables of another engine under our names.

use clickhouse::{Client, Row};
use serde::Deserialize;

use super::files::{BOOKKEEPING, MIGRATIONS, Migration, TABLE_SETTINGS, Target, created_objects};
use crate::config::StoreAddress;

/// The oldest server that was tried: what the store relies on was found out on this one.
pub const LEAST_SERVER: (u32, u32) = (26, 7);

/// A migration that the database remembers.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct Applied {
    pub version: u32,
    pub name: String,
    pub checksum: String,
    /// UTC, as `2026-01-31 12:00:00`.
    pub applied_at: String,
}

/// What `up` did.
#[derive(Debug, PartialEq, Eq)]
pub struct UpReport {
    pub database_created: bool,
    pub applied_now: Vec<String>,
    pub applied_before: usize,
    /// Table settings that the server does not know.
    pub settings_left_out: Vec<&'static str>,
}

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// ClickHouse is away or refuses; worth another try when it is there.
    #[error("ClickHouse: {doing} failed")]
    Query {
        doing: String,
        #[source]
        source: clickhouse::error::Error,
    },
    #[error("ClickHouse is {found}, but at least {}.{} is needed", LEAST_SERVER.0, LEAST_SERVER.1)]
    ServerTooOld { found: String },
    #[error(
        "the database was migrated to version {found} by a newer modelmeter; this one knows {known}: use the newer one"
    )]
    DatabaseNewer { found: u32, known: u32 },
    #[error(
        "migration {label} is not the one that was applied ({applied} then, {embedded} now): \
         use the modelmeter that applied it; an applied migration never changes"
    )]
    Changed {
        label: String,
        applied: String,
        embedded: String,
    },
    #[error(
        "{name} has the engine {found}, not {wanted}: replicated tables are not written yet, and other \
         people's are left alone; name another database"
    )]
    Engine {
        name: String,
        found: String,
        wanted: &'static str,
    },
    #[error("the database lacks migration {label}: run `modelmeter migrate up`")]
    Behind { label: String },
}

/// Creates the database where it is missing and applies what it lacks. Running it again, or in two
/// processes at once, is harmless: every statement is idempotent, and a migration is recorded after
/// its last statement, so that one cut short is run again from its start.
///
/// # Errors
/// See [`MigrateError`]; nothing is changed when the database is refused.
pub async fn up(address: &StoreAddress) -> Result<UpReport, MigrateError> {
    check_server(address).await?;
    let database_created = create_database(address).await?;
    let client = address.client();
    check_engines(&client).await?;
    let (target, settings_left_out) = single_target(&client).await?;
    let before = applied(&client).await?;
    let pending = pending(&before)?;
    run(&client, &BOOKKEEPING, &target).await?;
    for migration in &pending {
        run(&client, migration, &target).await?;
        record(&client, migration).await?;
    }
    Ok(UpReport {
        database_created,
        applied_now: pending.iter().map(|m| m.label()).collect(),
        applied_before: before.len(),
        settings_left_out,
    })
}

/// What a writer or reader asks before it starts: the schema is there, this build's, and not replicated.
///
/// # Errors
/// See [`MigrateError`].
pub async fn check(client: &Client) -> Result<(), MigrateError> {
    check_engines(client).await?;
    match pending(&applied(client).await?)?.first() {
        Some(migration) => Err(MigrateError::Behind {
            label: migration.label(),
        }),
        None => Ok(()),
    }
}

/// What the database remembers; nothing where it does not exist yet.
///
/// # Errors
/// [`MigrateError::Query`].
pub async fn status(address: &StoreAddress) -> Result<Vec<Applied>, MigrateError> {
    if database_exists(address).await? {
        applied(&address.client()).await
    } else {
        Ok(Vec::new())
    }
}

/// The migrations that an existing database remembers.
///
/// # Errors
/// [`MigrateError::Query`].
pub async fn applied(client: &Client) -> Result<Vec<Applied>, MigrateError> {
    let known: u64 = client
        .query("SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'modelmeter_migrations'")
        .fetch_one()
        .await
        .map_err(doing("looking for modelmeter_migrations"))?;
    if known == 0 {
        return Ok(Vec::new());
    }
    client
        .query(
            "SELECT version, name, checksum, toString(min(applied_at)) AS applied_at \
             FROM modelmeter_migrations GROUP BY version, name, checksum ORDER BY version",
        )
        .fetch_all()
        .await
        .map_err(doing("reading modelmeter_migrations"))
}

/// What `before` lacks, in order.
///
/// # Errors
/// When `before` holds a version that this build does not know, or another file under one it does.
pub fn pending(before: &[Applied]) -> Result<Vec<Migration>, MigrateError> {
    let newest = MIGRATIONS[MIGRATIONS.len() - 1].version;
    if let Some(newer) = before
        .iter()
        .map(|a| a.version)
        .max()
        .filter(|v| *v > newest)
    {
        return Err(MigrateError::DatabaseNewer {
            found: newer,
            known: newest,
        });
    }
    for migration in &MIGRATIONS {
        let embedded = migration.checksum();
        let same_version = before.iter().filter(|a| a.version == migration.version);
        if let Some(other) = same_version.clone().find(|a| a.checksum != embedded) {
            return Err(MigrateError::Changed {
                label: migration.label(),
                applied: other.checksum.clone(),
                embedded,
            });
        }
    }
    let lacks = |m: &&Migration| before.iter().all(|a| a.version != m.version);
    Ok(MIGRATIONS.iter().filter(lacks).copied().collect())
}

async fn check_server(address: &StoreAddress) -> Result<(), MigrateError> {
    let found: String = without_database(address)
        .query("SELECT version()")
        .fetch_one()
        .await
        .map_err(doing("asking for the version"))?;
    if parse_version(&found) >= Some(LEAST_SERVER) {
        Ok(())
    } else {
        Err(MigrateError::ServerTooOld { found })
    }
}

/// `26.7.2.1` is (26, 7).
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.').map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
        _ => None,
    }
}

/// A client that names no database, for as long as ours may not exist.
fn without_database(address: &StoreAddress) -> Client {
    Client::default()
        .with_url(&address.origin)
        .with_user(&address.user)
        .with_password(&address.password)
}

async fn database_exists(address: &StoreAddress) -> Result<bool, MigrateError> {
    let n_present: u64 = without_database(address)
        .query("SELECT count() FROM system.databases WHERE name = ?")
        .bind(address.database.as_str())
        .fetch_one()
        .await
        .map_err(doing("looking for the database"))?;
    Ok(n_present > 0)
}

/// True when it was made just now. Asked for first: a user may be allowed to use it, not to make it.
async fn create_database(address: &StoreAddress) -> Result<bool, MigrateError> {
    if database_exists(address).await? {
        return Ok(false);
    }
    without_database(address)
        .query(&format!(
            "CREATE DATABASE IF NOT EXISTS {}",
            address.database
        ))
        .execute()
        .await
        .map_err(doing("creating the database"))?;
    Ok(true)
}

#[derive(Row, Deserialize)]
struct Object {
    name: String,
    engine: String,
}

/// A view is made by CREATE OR REPLACE, which would replace somebody's table of that name.
async fn check_engines(client: &Client) -> Result<(), MigrateError> {
    let present: Vec<Object> = client
        .query("SELECT name, engine FROM system.tables WHERE database = currentDatabase()")
        .fetch_all()
        .await
        .map_err(doing("listing the tables"))?;
    for (name, wanted) in created_objects() {
        let other = present
            .iter()
            .find(|o| o.name == name && o.engine != wanted);
        if let Some(Object { engine, .. }) = other {
            return Err(MigrateError::Engine {
                name,
                found: engine.clone(),
                wanted,
            });
        }
    }
    Ok(())
}

/// The table settings that this server knows, and those that it does not.
async fn single_target(client: &Client) -> Result<(Target, Vec<&'static str>), MigrateError> {
    let known: Vec<String> = client
        .query("SELECT name FROM system.merge_tree_settings")
        .fetch_all()
        .await
        .map_err(doing("reading the table settings"))?;
    let is_known = |name: &&str| known.iter().any(|k| k == name);
    let (settings, left_out): (Vec<_>, Vec<_>) = TABLE_SETTINGS
        .iter()
        .map(|(name, _)| *name)
        .partition(is_known);
    for setting in &left_out {
        tracing::warn!(
            setting,
            "table setting left out: the server does not know it"
        );
    }
    Ok((Target::Single { settings }, left_out))
}

async fn run(client: &Client, migration: &Migration, target: &Target) -> Result<(), MigrateError> {
    for statement in migration.statements(target) {
        client
            .query(&statement)
            .execute()
            .await
            .map_err(doing(&format!("migration {}", migration.label())))?;
    }
    Ok(())
}

async fn record(client: &Client, migration: &Migration) -> Result<(), MigrateError> {
    client
        .query(&record_statement(migration))
        .execute()
        .await
        .map_err(doing(&format!("recording migration {}", migration.label())))
}

/// Names and checksums are ours: letters, digits, underscores.
pub fn record_statement(migration: &Migration) -> String {
    format!(
        "INSERT INTO modelmeter_migrations (version, name, checksum) VALUES ({}, '{}', '{}')",
        migration.version,
        migration.name,
        migration.checksum()
    )
}

fn doing(what: &str) -> impl FnOnce(clickhouse::error::Error) -> MigrateError {
    let doing = what.to_owned();
    move |source| MigrateError::Query { doing, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remembered(migration: &Migration) -> Applied {
        Applied {
            version: migration.version,
            name: migration.name.to_owned(),
            checksum: migration.checksum(),
            applied_at: String::new(),
        }
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(parse_version("26.7.2.1"), Some((26, 7)));
        assert!(parse_version("26.10.1") >= Some(LEAST_SERVER));
        assert!(parse_version("25.12") < Some(LEAST_SERVER));
        assert_eq!(parse_version("head"), None);
    }

    #[test]
    fn what_is_missing_is_pending_in_order() {
        let before: Vec<Applied> = MIGRATIONS[..3].iter().map(remembered).collect();
        let labels: Vec<u32> = pending(&before)
            .expect("fits")
            .iter()
            .map(|m| m.version)
            .collect();
        assert_eq!(labels, [4, 5, 6, 7, 8, 9, 10, 11, 12]);
    }

    #[test]
    fn a_newer_database_is_refused() {
        let mut newer = remembered(&MIGRATIONS[0]);
        newer.version = 4711;
        let error = pending(&[newer]).expect_err("is newer");
        assert!(
            matches!(
                error,
                MigrateError::DatabaseNewer {
                    found: 4711,
                    known: 12
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_changed_migration_is_refused() {
        let mut changed = remembered(&MIGRATIONS[1]);
        changed.checksum = "0".repeat(32);
        let error = pending(&[remembered(&MIGRATIONS[0]), changed]).expect_err("is changed");
        assert!(
            error.to_string().contains("0002_requests_by_replica"),
            "{error}"
        );
    }
}
