//! A flush's rows as columns: data rows and the ledger row that stands in the same part.

use std::sync::Arc;

use super::columns::{columns, has_status_codes, is_by_replica};
use super::native::{Chunk, RowWriter};
use crate::core::event::{Outcome, StatusClass};
use crate::core::partition::{Delta, Rows};
use crate::core::replica_window::{ReadingKind, ReplicaWindow};
use crate::core::request_fold::Row;
use crate::core::request_window::{ReplicaRequestWindow, RequestCounts, RequestWindow};
use crate::core::sketch::Sketch;
use crate::core::table::{Stream, Table};

/// What a ledger row says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerRow {
    pub from: u64,
    pub to: u64,
    pub epoch: i32,
    pub gap: u64,
    pub events: u64,
    pub late: u64,
    pub invalid: u64,
}

/// A delta ready to be sent.
pub struct EncodedDelta {
    pub table: Table,
    pub from: u64,
    pub to: u64,
    /// The broker's append time of the first message, ms since 1970.
    pub append_ms: Option<i64>,
    pub chunk: Chunk,
}

/// The rows of one delta, and its ledger row. `ledger` is `<topic>/<topic id>`.
pub fn encode_delta(delta: Delta, partition: i32, ledger: &str) -> EncodedDelta {
    let Delta {
        table,
        from,
        to,
        append_ms,
        ..
    } = delta;
    EncodedDelta {
        table,
        from,
        to,
        append_ms,
        chunk: encode_rows(delta, partition, ledger),
    }
}

fn encode_rows(delta: Delta, partition: i32, ledger: &str) -> Chunk {
    let table = delta.table;
    let partition = partition.cast_unsigned();
    let mut chunk = Chunk::new(columns(table).len());
    encode_ledger_row(
        table,
        partition,
        ledger,
        &LedgerRow {
            from: delta.from,
            to: delta.to,
            epoch: delta.epoch,
            gap: 0,
            events: delta.counts.events,
            late: delta.counts.late,
            invalid: delta.counts.invalid,
        },
        &mut chunk,
    );
    match delta.rows {
        Rows::Requests(rows) => encode_requests(table, partition, rows, &mut chunk),
        Rows::ReplicaRequests(rows) => encode_replica_requests(partition, rows, &mut chunk),
        Rows::Replicas(rows) => encode_replicas(partition, rows, &mut chunk),
    }
    chunk
}

/// A chunk of one ledger row `[at, at)`: it covers nothing and says that the table begins or goes on here.
pub fn encode_heartbeat(table: Table, partition: i32, ledger: &str, at: u64, epoch: i32) -> Chunk {
    let mut chunk = Chunk::new(columns(table).len());
    let row = LedgerRow {
        from: at,
        to: at,
        epoch,
        ..LedgerRow::default()
    };
    encode_ledger_row(table, partition.cast_unsigned(), ledger, &row, &mut chunk);
    chunk
}

fn encode_ledger_row(
    table: Table,
    partition: u32,
    ledger: &str,
    values: &LedgerRow,
    chunk: &mut Chunk,
) {
    let mut row = chunk.row();
    row.string("");
    if is_by_replica(table) {
        row.string("");
    }
    row.u32(0);
    row.u32(partition);
    row.string(ledger);
    match table.stream() {
        Stream::Requests if is_by_replica(table) => {
            encode_replica_request_values(&mut ReplicaRequestWindow::default(), &mut row)
        }
        Stream::Requests => encode_request_values(table, &mut RequestWindow::default(), &mut row),
        Stream::Replicas => encode_replica_values(&ReplicaWindow::default(), &mut row),
    }
    row.u64(values.from);
    row.u64(values.to);
    row.i32(values.epoch);
    for value in [
        values.to - values.from,
        values.gap,
        values.events,
        values.late,
        values.invalid,
        0,
    ] {
        row.u64(value);
    }
    row.end();
}

/// Ledger columns of a data row: the values that no merge notices.
fn encode_no_ledger(mut row: RowWriter<'_>) {
    row.u64(u64::MAX);
    row.u64(0);
    row.i32(-1);
    for _ in 0..6 {
        row.u64(0);
    }
    row.end();
}

fn encode_keys(
    deployment: &str,
    replica: Option<&Arc<str>>,
    window_start: u32,
    partition: u32,
    row: &mut RowWriter<'_>,
) {
    row.string(deployment);
    if let Some(replica) = replica {
        row.string(replica);
    }
    row.u32(window_start);
    row.u32(partition);
    row.string("");
}

fn encode_requests(table: Table, partition: u32, rows: Vec<Row<RequestWindow>>, chunk: &mut Chunk) {
    for Row {
        deployment,
        replica,
        window_start,
        mut window,
    } in rows
    {
        let mut row = chunk.row();
        encode_keys(
            &deployment,
            replica.as_ref(),
            window_start,
            partition,
            &mut row,
        );
        encode_request_values(table, &mut window, &mut row);
        encode_no_ledger(row);
    }
}

fn encode_replica_requests(
    partition: u32,
    rows: Vec<Row<ReplicaRequestWindow>>,
    chunk: &mut Chunk,
) {
    for Row {
        deployment,
        replica,
        window_start,
        mut window,
    } in rows
    {
        let mut row = chunk.row();
        encode_keys(
            &deployment,
            replica.as_ref(),
            window_start,
            partition,
            &mut row,
        );
        encode_replica_request_values(&mut window, &mut row);
        encode_no_ledger(row);
    }
}

fn encode_replicas(partition: u32, rows: Vec<Row<ReplicaWindow>>, chunk: &mut Chunk) {
    for Row {
        deployment,
        replica,
        window_start,
        window,
    } in rows
    {
        let mut row = chunk.row();
        encode_keys(
            &deployment,
            replica.as_ref(),
            window_start,
            partition,
            &mut row,
        );
        encode_replica_values(&window, &mut row);
        encode_no_ledger(row);
    }
}

fn encode_classes(counts: &RequestCounts, row: &mut RowWriter<'_>) {
    row.u64(counts.requests());
    for class in [
        StatusClass::Success,
        StatusClass::ClientError,
        StatusClass::ServerError,
        StatusClass::Other,
        StatusClass::Unclassified,
    ] {
        row.u64(counts.class(class));
    }
}

fn encode_request_values(table: Table, window: &mut RequestWindow, row: &mut RowWriter<'_>) {
    let counts = &window.counts;
    encode_classes(counts, row);
    row.u64(counts.client_gone);
    for outcome in [
        Outcome::Completed,
        Outcome::TimedOut,
        Outcome::Aborted,
        Outcome::Refused,
    ] {
        row.u64(counts.outcome(outcome));
    }
    row.u64(counts.cold_starts);
    row.u64(counts.request_bytes);
    row.u64(counts.response_bytes);
    row.u32(counts.in_flight_max);
    for sketch in [
        &mut window.end_to_end,
        &mut window.inference,
        &mut window.first_byte,
        &mut window.queue,
    ] {
        sketch.encode_state(row.column());
    }
    match &mut window.cold_start {
        Some(sketch) => sketch.encode_state(row.column()),
        None => Sketch::default().encode_state(row.column()),
    }
    if has_status_codes(table) {
        row.map(window.status_codes.iter());
    }
}

fn encode_replica_request_values(window: &mut ReplicaRequestWindow, row: &mut RowWriter<'_>) {
    let counts = &window.counts;
    encode_classes(counts, row);
    row.u64(counts.client_gone);
    row.u64(counts.cold_starts);
    row.u32(counts.in_flight_max);
    window.end_to_end.encode_state(row.column());
    window.inference.encode_state(row.column());
}

fn encode_replica_values(window: &ReplicaWindow, row: &mut RowWriter<'_>) {
    row.u64(window.samples);
    for us in window.state_us {
        row.u64(us);
    }
    row.u64(window.last_sample);
    for kind in ReadingKind::ALL {
        let reading = window.reading(kind);
        row.f64(reading.integral);
        row.u64(reading.covered_us);
        if kind.has_max() {
            row.f64(reading.max);
        }
    }
    row.u32(window.gpus_max);
    row.u64(window.oldest_in_flight_us_max);
    row.u64(window.restarts_max);
    row.u64(window.load_us_max);
    row.u64(window.dropped_max);
}
