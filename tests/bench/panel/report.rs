//! What is printed and kept: rows and parts of the tables, then a line a measurement with the aims beside.

use std::path::Path;

use modelmeter::core::table::Table;
use serde::{Deserialize, Serialize};

use super::measure::Row;

/// What a panel should take at most, in ms of wall time.
const AIM_P50_MS: f64 = 25.0;
const AIM_P99_MS: f64 = 60.0;

#[derive(Debug, clickhouse::Row, Serialize, Deserialize)]
struct TableSize {
    table: String,
    rows: u64,
    parts: u64,
    partitions: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Aims {
    p50_ms: f64,
    p99_ms: f64,
}

#[derive(Serialize)]
pub struct Report {
    aims: Aims,
    fill_s: f64,
    merges_had_ended: bool,
    tables: Vec<TableSize>,
    measured: Vec<Row>,
}

impl Report {
    pub async fn new(
        client: &clickhouse::Client,
        fill_s: f64,
        merges_had_ended: bool,
    ) -> anyhow::Result<Self> {
        let tables = client
            .query(
                "SELECT table, sum(rows) AS rows, count() AS parts, uniqExact(partition) AS partitions, \
                 sum(bytes_on_disk) AS bytes FROM system.parts \
                 WHERE active AND database = currentDatabase() AND table IN ? GROUP BY table ORDER BY table",
            )
            .bind(Table::ALL.map(Table::name).as_slice())
            .fetch_all()
            .await?;
        Ok(Self {
            aims: Aims {
                p50_ms: AIM_P50_MS,
                p99_ms: AIM_P99_MS,
            },
            fill_s,
            merges_had_ended,
            tables,
            measured: Vec::new(),
        })
    }

    pub fn print_tables(&self) {
        println!(
            "30 days written in {:.0} s; merges {}",
            self.fill_s,
            if self.merges_had_ended {
                "had ended"
            } else {
                "were still running"
            }
        );
        for size in &self.tables {
            println!(
                "{:24} {:>9} rows {:>4} parts in {:>2} partitions {:>7.1} MB",
                size.table,
                size.rows,
                size.parts,
                size.partitions,
                size.bytes as f64 / 1e6
            );
        }
        println!(
            "\n{:5} {:38} {:>8} {:>8} {:>10} {:>9}   aims {AIM_P50_MS} and {AIM_P99_MS} ms",
            "range", "what", "p50 ms", "p99 ms", "engine CPU", "bytes"
        );
    }

    pub fn add(&mut self, rows: Vec<Row>) {
        self.measured.extend(rows);
    }

    pub fn write(&self) -> anyhow::Result<()> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
        std::fs::create_dir_all(&target)?;
        let file = target.join("panel.json");
        std::fs::write(&file, serde_json::to_vec_pretty(self)?)?;
        println!("\nwritten to {}", file.display());
        Ok(())
    }
}

pub fn print_row(row: &Row) {
    let verdict = match (row.p50_ms <= AIM_P50_MS, row.p99_ms <= AIM_P99_MS) {
        (true, true) => "within both",
        (false, true) => "p50 above",
        (true, false) => "p99 above",
        (false, false) => "both above",
    };
    println!(
        "{:5} {:38} {:>8.1} {:>8.1} {:>10.1} {:>9}   {verdict}",
        row.range, row.what, row.p50_ms, row.p99_ms, row.engine_cpu_ms, row.answer_bytes
    );
}
