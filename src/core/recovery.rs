//! Where a partition begins after an assignment, from what its tables' ledgers, Kafka's log and the committed offset
//! say. Pure: the store and the broker are asked by the caller.

use super::ledger::Ledger;
use super::table::Table;

/// Kafka's side of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    /// The first offset that the log still has.
    pub start: u64,
    /// The offset that the next message will get.
    pub end: u64,
    /// The group's committed offset: advisory, but its presence says that somebody read here before.
    pub committed: Option<u64>,
}

/// Where one table goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableStart {
    pub table: Table,
    /// The first offset that the table lacks.
    pub from: u64,
    /// `ingested` of its ledger; none for a table whose first ledger row is still to be written.
    pub ingested: Option<i64>,
    pub epoch: i32,
    /// The table has no ledger yet: write `[from, from)` before any data.
    pub needs_heartbeat: bool,
}

/// How a partition begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Read from here: the lowest of the tables' offsets.
    pub start: u64,
    /// The leader epoch of the ledger at `start`, for Kafka to check that its log was not cut; −1 where unknown.
    pub epoch: i32,
    pub tables: Vec<TableStart>,
    /// Tables that lacked a ledger while others had one: their rows below `start` are missing, which someone counts.
    pub n_started_late: u32,
}

impl Recovery {
    /// Reads from `boundary` on, where the marks of producers are known: at or below the start. Nothing is taken twice by
    /// that, since each table takes rows from its own offset on. Where the log begins above the boundary, the marks of the
    /// messages between are not to be had, and the start stays.
    pub fn begin_at(&mut self, boundary: Boundary, log: Log) {
        if (log.start..self.start).contains(&boundary.offset) {
            self.start = boundary.offset;
            self.epoch = boundary.epoch;
        }
    }
}

/// An offset as of which the marks of producers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    pub offset: u64,
    /// Kafka's leader epoch there; −1 where unknown.
    pub epoch: i32,
}

/// Why a partition cannot go on by itself. The others do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    #[error(
        "no table has a ledger, yet the group has committed offset {committed}: the tables are not those that were written; \
         restore them, or delete the group's offsets to count the log from its start"
    )]
    LedgerLost { committed: u64 },
    #[error("messages {from} to {log_start} left the log before they were counted in {}", table.name())]
    LogTruncated {
        table: Table,
        from: u64,
        log_start: u64,
    },
    #[error(
        "{} is at offset {to}, behind the log's end {log_end}: the log lost messages that were counted, and others will take their \
         offsets; delete the topic and make it again once its other partitions are counted",
        table.name()
    )]
    LogLost { table: Table, to: u64, log_end: u64 },
}

/// Decides where a partition begins. `ledgers` gives each of the stream's tables and what it says.
///
/// # Errors
/// When going on would lose or double something without saying so.
pub fn recover(ledgers: &[(Table, Option<Ledger>)], log: Log) -> Result<Recovery, Stopped> {
    let Some(lowest) = ledgers
        .iter()
        .filter_map(|(_, ledger)| *ledger)
        .min_by_key(|ledger| ledger.to)
    else {
        if let Some(committed) = log.committed {
            return Err(Stopped::LedgerLost { committed });
        }
        let tables = ledgers
            .iter()
            .map(|&(table, _)| TableStart {
                table,
                from: log.start,
                ingested: None,
                epoch: -1,
                needs_heartbeat: true,
            })
            .collect();
        return Ok(Recovery {
            start: log.start,
            epoch: -1,
            tables,
            n_started_late: 0,
        });
    };
    let mut n_started_late = 0;
    let mut tables = Vec::with_capacity(ledgers.len());
    for &(table, ledger) in ledgers {
        let start = match ledger {
            Some(ledger) => TableStart {
                table,
                from: ledger.to,
                ingested: Some(ledger.ingested),
                epoch: ledger.epoch,
                needs_heartbeat: false,
            },
            None => {
                // a process that died between its first heartbeats left nothing out
                n_started_late += u32::from(lowest.to > lowest.from);
                TableStart {
                    table,
                    from: lowest.to,
                    ingested: None,
                    epoch: lowest.epoch,
                    needs_heartbeat: true,
                }
            }
        };
        if start.from < log.start {
            return Err(Stopped::LogTruncated {
                table,
                from: start.from,
                log_start: log.start,
            });
        }
        if start.from > log.end {
            return Err(Stopped::LogLost {
                table,
                to: start.from,
                log_end: log.end,
            });
        }
        tables.push(start);
    }
    Ok(Recovery {
        start: lowest.to,
        epoch: lowest.epoch,
        tables,
        n_started_late,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Log = Log {
        start: 10,
        end: 100,
        committed: Some(50),
    };

    fn ledger(to: u64) -> Option<Ledger> {
        Some(Ledger {
            from: 10,
            to,
            epoch: 3,
            ingested: 20_000,
        })
    }

    #[test]
    fn a_fresh_partition_begins_at_the_logs_start() {
        let fresh = Log {
            committed: None,
            ..LOG
        };
        let recovery = recover(
            &[(Table::Replicas10s, None), (Table::Replicas1m, None)],
            fresh,
        )
        .expect("goes on");
        assert_eq!((recovery.start, recovery.n_started_late), (10, 0));
        assert!(
            recovery
                .tables
                .iter()
                .all(|t| t.from == 10 && t.needs_heartbeat && t.ingested.is_none())
        );
    }

    #[test]
    fn a_replay_begins_at_the_lowest_ledger_and_each_table_at_its_own() {
        let ledgers = [
            (Table::Replicas10s, ledger(70)),
            (Table::Replicas1m, ledger(40)),
            (Table::Replicas1h, None),
        ];
        let recovery = recover(&ledgers, LOG).expect("goes on");
        assert_eq!(
            (recovery.start, recovery.n_started_late, recovery.epoch),
            (40, 1, 3)
        );
        let froms: Vec<_> = recovery
            .tables
            .iter()
            .map(|t| (t.from, t.needs_heartbeat))
            .collect();
        assert_eq!(froms, [(70, false), (40, false), (40, true)]);
    }

    #[test]
    fn reading_begins_where_the_marks_are_known() {
        let ledgers = [
            (Table::Replicas10s, ledger(70)),
            (Table::ReplicasMarks, ledger(90)),
        ];
        let begun = |offset| {
            let mut recovery = recover(&ledgers, LOG).expect("goes on");
            recovery.begin_at(Boundary { offset, epoch: 2 }, LOG);
            (recovery.start, recovery.epoch)
        };
        assert_eq!(begun(40), (40, 2));
        assert_eq!(begun(70), (70, 3));
        // the log begins at 10
        assert_eq!(begun(9), (70, 3));
    }

    #[test]
    fn what_would_lose_or_double_stops() {
        let table = Table::Replicas10s;
        assert_eq!(
            recover(&[(table, None)], LOG),
            Err(Stopped::LedgerLost { committed: 50 })
        );
        assert_eq!(
            recover(&[(table, ledger(9))], LOG),
            Err(Stopped::LogTruncated {
                table,
                from: 9,
                log_start: 10
            })
        );
        assert_eq!(
            recover(&[(table, ledger(101))], LOG),
            Err(Stopped::LogLost {
                table,
                to: 101,
                log_end: 100
            })
        );
        assert!(recover(&[(table, ledger(10))], LOG).is_ok());
    }
}
