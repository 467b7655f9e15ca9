//! A flush's rows as columns: data rows and the ledger row that stands in the same part.

use super::columns::{columns, has_status_codes, is_by_replica};
use super::native::{Chunk, Columns, RowWriter};
use crate::core::delta::{Delta, Rows, Windows};
use crate::core::event::{Outcome, StatusClass};
use crate::core::ids::OTHER;
use crate::core::marks::{Came, Changes, Mark};
use crate::core::replica_window::{ReadingKind, ReplicaWindow};
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
pub fn encode_delta(delta: Delta<'_>, partition: i32, ledger: &str) -> EncodedDelta {
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

fn encode_rows(delta: Delta<'_>, partition: i32, ledger: &str) -> Chunk {
    let table = delta.table;
    let partition = partition.cast_unsigned();
    let n_rows = match &delta.rows {
        Rows::Requests(windows) => windows.open.len(),
        Rows::ReplicaRequests(windows) => windows.open.len(),
        Rows::Replicas(windows) => windows.open.len(),
        Rows::Marks(changes) => changes.n() + usize::from(changes.forgotten().is_some()),
    };
    let mut building = Columns::new(columns(table), n_rows + 1);
    let counts = delta.counts;
    // a table of marks counts messages, and what of them was late is another's business
    let (events, late) = if table.holds_marks() {
        (counts.messages, 0)
    } else {
        (counts.events, counts.late)
    };
    let values = LedgerRow {
        from: delta.from,
        to: delta.to,
        epoch: delta.epoch,
        gap: 0,
        events,
        late,
        invalid: counts.invalid,
    };
    encode_ledger_row(table, partition, ledger, &values, &mut building);
    match delta.rows {
        Rows::Requests(windows) => encode_requests(table, partition, windows, &mut building),
        Rows::ReplicaRequests(windows) => {
            encode_replica_requests(partition, windows, &mut building);
        }
        Rows::Replicas(windows) => encode_replicas(partition, windows, &mut building),
        Rows::Marks(changes) => {
            encode_marks((partition, ledger, delta.to), changes, &mut building);
        }
    }
    building.fill_last(n_rows, &NO_LEDGER);
    building.finish()
}

/// A chunk of one ledger row `[at, at)`: it covers nothing and says that the table begins or goes on here.
pub fn encode_heartbeat(table: Table, partition: i32, ledger: &str, at: u64, epoch: i32) -> Chunk {
    let row = LedgerRow {
        from: at,
        to: at,
        epoch,
        ..LedgerRow::default()
    };
    encode_ledger_alone(table, partition, ledger, &row)
}

/// A chunk of one ledger row that counts `[from, to)` as lost: what an operator says when the messages are gone.
pub fn encode_gap(
    table: Table,
    partition: i32,
    ledger: &str,
    (from, to): (u64, u64),
    epoch: i32,
) -> Chunk {
    let row = LedgerRow {
        from,
        to,
        epoch,
        gap: to - from,
        ..LedgerRow::default()
    };
    encode_ledger_alone(table, partition, ledger, &row)
}

fn encode_ledger_alone(table: Table, partition: i32, ledger: &str, row: &LedgerRow) -> Chunk {
    let mut building = Columns::new(columns(table), 1);
    encode_ledger_row(table, partition.cast_unsigned(), ledger, row, &mut building);
    building.finish()
}

/// Ledger columns of a data row, as (bytes, byte): the values that no merge notices. `ledger_from` is the highest number,
/// `ledger_epoch` is −1, the others are 0.
const NO_LEDGER: [(usize, u8); 9] = [
    (8, 0xFF),
    (8, 0),
    (4, 0xFF),
    (8, 0),
    (8, 0),
    (8, 0),
    (8, 0),
    (8, 0),
    (8, 0),
];

fn encode_ledger_row(
    table: Table,
    partition: u32,
    ledger: &str,
    values: &LedgerRow,
    building: &mut Columns,
) {
    let mut row = building.row();
    row.string("");
    if is_by_replica(table) || table.holds_marks() {
        row.string("");
    }
    if !table.holds_marks() {
        row.u32(0);
        row.u32(partition);
        row.string(ledger);
    }
    match table.stream() {
        _ if table.holds_marks() => {
            // an offset as of which marks are stored, whether any changed or not
            let place = (partition, ledger, values.to);
            encode_mark_values(place, None, Came::default(), &mut row);
        }
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
        values.to - values.from - values.gap,
        values.gap,
        values.events,
        values.late,
        values.invalid,
        0,
    ] {
        row.u64(value);
    }
    row.end(0);
}

fn encode_keys(
    deployment: &str,
    replica: Option<&str>,
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

fn encode_requests(
    table: Table,
    partition: u32,
    windows: Windows<'_, RequestWindow>,
    building: &mut Columns,
) {
    for open in windows.open {
        let mut row = building.row();
        let deployment = windows.ids.deployment_id(open.owner);
        encode_keys(deployment, None, open.start, partition, &mut row);
        encode_request_values(table, &mut open.window, &mut row);
        row.end(NO_LEDGER.len());
    }
}

fn encode_replica_requests(
    partition: u32,
    windows: Windows<'_, ReplicaRequestWindow>,
    building: &mut Columns,
) {
    for open in windows.open {
        let mut row = building.row();
        let (deployment, replica) = windows.ids.replica_ids(open.owner);
        encode_keys(deployment, Some(replica), open.start, partition, &mut row);
        encode_replica_request_values(&mut open.window, &mut row);
        row.end(NO_LEDGER.len());
    }
}

fn encode_replicas(partition: u32, windows: Windows<'_, ReplicaWindow>, building: &mut Columns) {
    for open in windows.open {
        let mut row = building.row();
        let (deployment, replica) = windows.ids.replica_ids(open.owner);
        encode_keys(deployment, Some(replica), open.start, partition, &mut row);
        encode_replica_values(&open.window, &mut row);
        row.end(NO_LEDGER.len());
    }
}

/// Unlike other rows a mark names the ledger that it belongs to: in a topic made anew the same offsets mean other messages.
fn encode_marks(place: (u32, &str, u64), changes: Changes<'_>, building: &mut Columns) {
    for (mark, came) in changes.iter() {
        let mut row = building.row();
        row.string(&mark.deployment_id);
        row.string(&mark.replica_id);
        encode_mark_values(place, Some(mark), came, &mut row);
        row.end(NO_LEDGER.len());
    }
    let Some(forgotten) = changes.forgotten() else {
        return;
    };
    // under no producer's name: nobody reads it back as a mark
    let mut row = building.row();
    row.string(OTHER);
    row.string(OTHER);
    encode_mark_values(place, None, forgotten, &mut row);
    row.end(NO_LEDGER.len());
}

/// From `boot_id` to `missing`.
fn encode_mark_values(
    (partition, ledger, range_to): (u32, &str, u64),
    mark: Option<&Mark>,
    came: Came,
    row: &mut RowWriter<'_>,
) {
    let boot_id = mark.map_or([0; 16], |mark| mark.boot_id);
    row.column().extend_from_slice(&boot_id);
    row.u32(partition);
    row.string(ledger);
    row.u64(range_to);
    row.string(mark.map_or("", |mark| &mark.producer));
    let sequences = mark.map(|mark| mark.sequences);
    row.u64(sequences.map_or(0, |sequences| sequences.first));
    row.u64(sequences.map_or(0, |sequences| sequences.last));
    row.u64(sequences.map_or(0, |sequences| sequences.seen));
    row.u64(mark.map_or(0, |mark| mark.last_offset));
    row.u64(mark.map_or(0, |mark| mark.last_append_ms.max(0).cast_unsigned()));
    row.u64(came.messages);
    row.u64(came.repeated);
    row.u64(came.missing.cast_unsigned());
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
