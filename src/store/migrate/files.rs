//! The numbered SQL files, embedded: their text, checksums, statements, and the holes that a single
//! server or a cluster fills. Pure; a hole that nobody fills is a defect that a test finds.

/// One file of `schemas/clickhouse/`.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    pub version: u32,
    /// What stands between the number and `.sql`.
    pub name: &'static str,
    pub sql: &'static str,
    /// Rows of a granule of its tables: what is read or skipped at a time.
    pub granule_rows: u32,
}

/// Of 8,192 rows, most are another deployment's. Fewer than this would make the marks of a table of replicas, which has
/// most rows and columns, too many to be read quickly.
const GRANULE_ROWS: u32 = 1024;

/// Where each row has five sketches: ClickHouse takes some 7 us for one that it reads only to pass over. Six hours of a
/// deployment's response times are read in two thirds of the time that granules of 1,024 rows take.
const SKETCHES_GRANULE_ROWS: u32 = 256;

macro_rules! migration {
    ($version:literal, $name:literal, $file:literal) => {
        migration!($version, $name, $file, GRANULE_ROWS)
    };
    ($version:literal, $name:literal, $file:literal, $granule_rows:expr) => {
        Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../../schemas/clickhouse/", $file)),
            granule_rows: $granule_rows,
        }
    };
}

/// The table that remembers what was applied: made first, itself never remembered.
pub const BOOKKEEPING: Migration = migration!(0, "migrations", "0000_migrations.sql");

/// All migrations in order. Files are only ever added: an applied one never changes again.
pub const MIGRATIONS: [Migration; 12] = [
    migration!(1, "requests", "0001_requests.sql", SKETCHES_GRANULE_ROWS),
    migration!(2, "requests_by_replica", "0002_requests_by_replica.sql"),
    migration!(3, "replicas", "0003_replicas.sql"),
    migration!(4, "deployments", "0004_deployments.sql"),
    migration!(5, "inference_volume", "0005_inference_volume.sql"),
    migration!(6, "response_time", "0006_response_time.sql"),
    migration!(7, "replicas_view", "0007_replicas_view.sql"),
    migration!(8, "cpu", "0008_cpu.sql"),
    migration!(9, "gpu", "0009_gpu.sql"),
    migration!(10, "producers", "0010_producers.sql"),
    migration!(11, "request_views_by_day", "0011_request_views_by_day.sql"),
    migration!(12, "replica_views_by_day", "0012_replica_views_by_day.sql"),
];

/// Settings of every table but its granules: (name, value). A merge syncs nothing by default, and the embedded engine
/// removes a merge's sources at once, so that power loss would take acknowledged rows with it.
pub const TABLE_SETTINGS: [(&str, &str); 10] = [
    ("ttl_only_drop_parts", "1"),
    ("fsync_after_insert", "1"),
    ("fsync_part_directory", "1"),
    ("min_rows_to_fsync_after_merge", "1"),
    ("min_compressed_bytes_to_fsync_after_merge", "1"),
    ("old_parts_lifetime", "480"),
    ("max_suspicious_broken_parts", "0"),
    ("max_suspicious_broken_parts_bytes", "0"),
    (SINGLE_SERVER_DEDUPLICATION, "0"),
    ("default_compression_codec", "'ZSTD(1)'"),
];

/// Deduplicating by a block's hash would drop a heartbeat that looks like an earlier one; replicated
/// tables deduplicate by token instead, with a window of their own.
const SINGLE_SERVER_DEDUPLICATION: &str = "non_replicated_deduplication_window";

/// For whom the SQL is written out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One server, with the table settings that it knows.
    Single { settings: Vec<&'static str> },
    /// `ON CLUSTER`, replicated.
    Cluster(ClusterName),
}

/// A cluster's name as it may stand between quotes in SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterName(String);

impl std::str::FromStr for ClusterName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.{}".contains(&b);
        if !text.is_empty() && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a cluster's name is letters, digits, and any of _ - . { }".to_owned())
        }
    }
}

/// The path by which replicas of a table find each other: the server's macros fill it.
const REPLICATED_ENGINE: &str =
    "ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')";

/// (hole, one server, cluster). A replicated 10 s table keeps its ledger two days longer than Kafka
/// its log, since there the ingest day is that of the log.
const HOLES: [(&str, &str, &str); 4] = [
    ("{engine}", "AggregatingMergeTree", REPLICATED_ENGINE),
    ("{keep_10s}", "3 DAY", "9 DAY"),
    ("{keep_1m}", "31 DAY", "31 DAY"),
    ("{keep_1h}", "25 MONTH", "25 MONTH"),
];

impl Migration {
    /// 32 hexadecimal digits over the file as it stands, holes and comments included.
    pub fn checksum(&self) -> String {
        format!(
            "{:032x}",
            cityhash_rs::cityhash_110_128(self.sql.as_bytes())
        )
    }

    /// `0001_requests`, as the file is called.
    pub fn label(&self) -> String {
        format!("{:04}_{}", self.version, self.name)
    }

    /// The file's statements for `target`, without their semicolons.
    pub fn statements(&self, target: &Target) -> Vec<String> {
        split(&self.filled(target))
    }

    fn filled(&self, target: &Target) -> String {
        let on_cluster = match target {
            Target::Single { .. } => String::new(),
            Target::Cluster(ClusterName(name)) => format!(" ON CLUSTER '{name}'"),
        };
        let settings = format!(
            "{}, index_granularity = {}",
            target.settings(),
            self.granule_rows
        );
        let mut text = self
            .sql
            .replace(" {on_cluster}", &on_cluster)
            .replace("{settings}", &settings);
        for (hole, single, cluster) in HOLES {
            let value = if matches!(target, Target::Single { .. }) {
                single
            } else {
                cluster
            };
            text = text.replace(hole, value);
        }
        text
    }
}

impl Target {
    /// One server that knows every setting.
    pub fn single_with_all_settings() -> Self {
        Self::Single {
            settings: TABLE_SETTINGS.iter().map(|(name, _)| *name).collect(),
        }
    }

    fn settings(&self) -> String {
        let has = |name: &&str| match self {
            Self::Single { settings } => settings.contains(name),
            Self::Cluster(_) => **name != *SINGLE_SERVER_DEDUPLICATION,
        };
        let kept: Vec<String> = TABLE_SETTINGS
            .iter()
            .filter(|(name, _)| has(name))
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        kept.join(", ")
    }
}

/// Cuts at semicolons that stand neither in a string nor in a comment.
fn split(sql: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut start = 0;
    let (mut in_string, mut in_comment) = (false, false);
    let bytes = sql.as_bytes();
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' => in_comment = false,
            _ if in_comment => {}
            b'\'' => in_string = !in_string,
            _ if in_string => {}
            b'-' if bytes.get(i + 1) == Some(&b'-') => in_comment = true,
            b';' => {
                statements.push(sql[start..i].trim().to_owned());
                start = i + 1;
            }
            _ => {}
        }
    }
    statements
}

/// What the files create, by the engine that it has on one server: what must not be something else. Once each, in the
/// order in which they were first made: a view is made anew when it changes.
pub fn created_objects() -> Vec<(String, &'static str)> {
    let mut objects: Vec<(String, &'static str)> = Vec::new();
    for statement in MIGRATIONS.iter().flat_map(|m| split(m.sql)) {
        if let Some(object) = created(&statement)
            && !objects.contains(&object)
        {
            objects.push(object);
        }
    }
    objects
}

fn created(statement: &str) -> Option<(String, &'static str)> {
    let line = statement.lines().find(|l| l.starts_with("CREATE "))?;
    let (rest, engine) = match line.strip_prefix("CREATE TABLE IF NOT EXISTS ") {
        Some(rest) => (rest, "AggregatingMergeTree"),
        None => (line.strip_prefix("CREATE OR REPLACE VIEW ")?, "View"),
    };
    Some((rest.split_whitespace().next()?.to_owned(), engine))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_target() -> [Target; 2] {
        [
            Target::single_with_all_settings(),
            Target::Cluster("prod".parse().expect("a plain name")),
        ]
    }

    #[test]
    fn versions_count_from_one_and_files_stay_embedded_in_order() {
        let versions: Vec<u32> = MIGRATIONS.iter().map(|m| m.version).collect();
        assert_eq!(versions, (1..=12).collect::<Vec<u32>>());
    }

    #[test]
    fn every_hole_is_filled_for_every_target() {
        for target in every_target() {
            for migration in [BOOKKEEPING].iter().chain(&MIGRATIONS) {
                for statement in migration.statements(&target) {
                    // What is left in braces has a colon (a view's parameter) or is a server's macro.
                    for part in statement.split('{').skip(1) {
                        let inside = part.split('}').next().unwrap_or_default();
                        let is_macro = ["shard", "database", "table", "replica"].contains(&inside);
                        assert!(
                            inside.contains(':') || is_macro,
                            "{{{inside}}} in {}",
                            migration.label()
                        );
                    }
                    // The client takes a question mark for a value to bind.
                    assert!(!statement.contains('?'), "{}", migration.label());
                }
            }
        }
    }

    #[test]
    fn a_statement_ends_outside_strings_and_comments_only() {
        let sql = "-- one; two 'three\nSELECT ';--' -- four;\n;\n\nSELECT 2;\n";
        assert_eq!(
            split(sql),
            ["-- one; two 'three\nSELECT ';--' -- four;", "SELECT 2"]
        );
    }

    #[test]
    fn objects_are_the_tables_and_the_views() {
        let objects = created_objects();
        let views: Vec<&str> = objects
            .iter()
            .filter(|(_, e)| *e == "View")
            .map(|(n, _)| n.as_str())
            .collect();
        assert_eq!(
            views,
            [
                "inference_volume",
                "response_time",
                "replicas",
                "cpu",
                "gpu",
                "producers"
            ]
        );
        assert_eq!(objects.len() - views.len(), 11);
    }

    #[test]
    fn a_cluster_is_replicated_and_keeps_the_single_servers_setting_out() {
        let [single, cluster] = every_target();
        let text = |target| MIGRATIONS[0].statements(target).join("\n");
        assert!(text(&cluster).contains("requests_10s ON CLUSTER 'prod'\n"));
        assert!(text(&cluster).contains("ENGINE = ReplicatedAggregatingMergeTree("));
        assert!(text(&cluster).contains("INTERVAL 9 DAY"));
        assert!(!text(&cluster).contains(SINGLE_SERVER_DEDUPLICATION));
        assert!(text(&single).contains("non_replicated_deduplication_window = 0"));
        assert!(!text(&single).contains("CLUSTER"));
    }

    #[test]
    fn a_clusters_name_cannot_leave_its_quotes() {
        assert!("a'b".parse::<ClusterName>().is_err());
        assert!("".parse::<ClusterName>().is_err());
        assert!("{cluster}".parse::<ClusterName>().is_ok());
    }
}
