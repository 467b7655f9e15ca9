//! What a client of the face may do, written as the engine's own configuration: grants and fixed settings.
//! It refuses, in the engine itself, whatever reads or writes the machine outside the database's directory:
//! source table functions, foreign table and database engines, dictionaries, named collections, backups.
//! What the engine does not refuse by a grant is refused by `reach`.

/// The engine's memory cap: a dashboard's machine has other things to do; a query past it gets error 241.
pub const MAX_MEMORY_BYTES: u64 = 4 << 30;

/// Engines that keep their data in the database's directory or in memory: the only ones that can be named.
pub const TABLE_ENGINES: &[&str] = &[
    "MergeTree",
    "AggregatingMergeTree",
    "SummingMergeTree",
    "ReplacingMergeTree",
    "CollapsingMergeTree",
    "VersionedCollapsingMergeTree",
    "CoalescingMergeTree",
    "Memory",
    "Null",
    "Log",
    "TinyLog",
    "StripeLog",
    "Set",
    "Join",
    "Buffer",
    "Merge",
    "View",
    "MaterializedView",
    "GenerateRandom",
    // Database engines are granted under the same heading.
    "Atomic",
    "Overlay",
];

const GRANTS: &str = "SHOW, SELECT, INSERT, ALTER, CREATE DATABASE, CREATE TABLE, CREATE VIEW, CREATE TEMPORARY TABLE, \
     DROP DATABASE, DROP TABLE, DROP VIEW, UNDROP TABLE, TRUNCATE, OPTIMIZE, CHECK, KILL QUERY, SYSTEM MERGES, \
     SYSTEM TTL MERGES, SYSTEM FLUSH, SYSTEM DROP CACHE";

/// Settings that a query cannot change: each names a file, or holds SQL or a query in a string.
const FIXED_SETTINGS: &[&str] = &[
    "format_schema",
    "format_schema_source",
    "format_schema_message_name",
    "format_template_row",
    "format_template_row_format",
    "format_template_resultset",
    "format_template_resultset_format",
    "additional_table_filters",
    "additional_result_filter",
    "parallel_replicas_custom_key",
    "allow_experimental_eval_table_function",
    "merge_tree_disk",
    "merge_tree_table_disk",
    "merge_tree_storage_policy",
];

/// The server's configuration; `users` is the path of the other file.
pub fn server_config(users: &str) -> String {
    format!(
        "<clickhouse>\n\
         <users_config>{users}</users_config>\n\
         <max_server_memory_usage>{MAX_MEMORY_BYTES}</max_server_memory_usage>\n\
         <access_control_improvements>\n\
         <table_engines_require_grant>true</table_engines_require_grant>\n\
         <enable_read_write_grants>true</enable_read_write_grants>\n\
         </access_control_improvements>\n\
         </clickhouse>\n"
    )
}

/// The one user, `default` without a password, and what it may do.
pub fn users_config() -> String {
    let fixed: String = FIXED_SETTINGS
        .iter()
        .map(|name| format!("<{name}><const/></{name}>"))
        .collect();
    let engines = TABLE_ENGINES
        .iter()
        .map(|name| format!("TABLE ENGINE ON {name}"))
        .collect::<Vec<_>>()
        .join(", ");
    format!(
        "<clickhouse>\n\
         <profiles><default><constraints>{fixed}</constraints></default></profiles>\n\
         <quotas><default/></quotas>\n\
         <users><default><password></password><networks><ip>::/0</ip></networks>\n\
         <profile>default</profile><quota>default</quota>\n\
         <grants><query>GRANT {GRANTS} ON *.*</query><query>GRANT {engines}</query></grants>\n\
         </default></users>\n\
         </clickhouse>\n"
    )
}
