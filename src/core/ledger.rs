//! What a ledger says, and what an answer of the store means. Pure decisions, so that a simulation can drive them.

use super::table::Table;

/// One partition's ledger in one table, as the store gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    /// The lowest offset that the table's rows cover.
    pub from: u64,
    /// The offset behind the last that the table's rows cover.
    pub to: u64,
    /// Kafka's leader epoch at `to`; −1 where unknown.
    pub epoch: i32,
    /// The latest `ingested` of its rows, days since 1970.
    pub ingested: i64,
}

/// What became of a range of messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerCounts {
    /// Events or samples that were accepted.
    pub events: u64,
    /// Events or samples refused for their time.
    pub late: u64,
    /// Messages refused whole.
    pub invalid: u64,
    /// Messages that could be read, those that came again among them.
    pub messages: u64,
    /// Messages that had come before, and of which nothing was counted again.
    pub repeated: u64,
}

impl LedgerCounts {
    /// What was counted since `base`.
    pub const fn since(self, base: Self) -> Self {
        Self {
            events: self.events - base.events,
            late: self.late - base.late,
            invalid: self.invalid - base.invalid,
            messages: self.messages - base.messages,
            repeated: self.repeated - base.repeated,
        }
    }
}

/// What the ledger tells about an insert, whatever its answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The rows are in.
    Stored,
    /// They are not: send the same statement again.
    Missing,
    /// Somebody else wrote: our windows of this partition are worth nothing.
    Fenced,
}

/// Judges one partition of an insert that covered `[from, to)` by the ledger as it now is (`None`: no ledger row).
pub fn fate_of(from: u64, to: u64, now: Option<u64>) -> Fate {
    match now.unwrap_or(0) {
        now if now == to => Fate::Stored,
        now if now == from => Fate::Missing,
        _ => Fate::Fenced,
    }
}

/// Judges a heartbeat `[at, at)` dated `day`, which moves no offset: it is in once a ledger row of that day is there.
pub fn fate_of_heartbeat(at: u64, day: i64, now: Option<Ledger>) -> Fate {
    match now {
        None => Fate::Missing,
        Some(ledger) if ledger.to != at => Fate::Fenced,
        Some(ledger) if ledger.ingested >= day => Fate::Stored,
        Some(_) => Fate::Missing,
    }
}

/// The value of `ingested` for an insert into `table`: never before the compared ledger's, so that it never goes back;
/// else the day of the broker's append time at `from`, but no older than yesterday. All days since 1970.
pub fn ingest_day(table: Table, ledger: Option<i64>, append_day: Option<i64>, today: i64) -> i64 {
    let day = append_day.unwrap_or(i64::MIN).max(today - 1);
    table.ingest_day(day).max(ledger.unwrap_or(i64::MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_decides_and_not_the_answer() {
        assert_eq!(fate_of(5, 9, Some(9)), Fate::Stored);
        assert_eq!(fate_of(5, 9, Some(5)), Fate::Missing);
        assert_eq!(fate_of(0, 9, None), Fate::Missing);
        assert_eq!(fate_of(5, 9, None), Fate::Fenced);
        assert_eq!(fate_of(5, 9, Some(7)), Fate::Fenced);
        assert_eq!(fate_of(5, 9, Some(12)), Fate::Fenced);
    }

    #[test]
    fn a_heartbeat_is_in_when_its_day_is() {
        let ledger = |to, ingested| {
            Some(Ledger {
                from: 0,
                to,
                epoch: -1,
                ingested,
            })
        };
        assert_eq!(fate_of_heartbeat(0, 20, None), Fate::Missing);
        assert_eq!(fate_of_heartbeat(4, 20, ledger(4, 19)), Fate::Missing);
        assert_eq!(fate_of_heartbeat(4, 20, ledger(4, 20)), Fate::Stored);
        assert_eq!(fate_of_heartbeat(4, 20, ledger(5, 20)), Fate::Fenced);
    }

    #[test]
    fn the_ingest_day_never_goes_back() {
        let day =
            |ledger, append_day, today| ingest_day(Table::Requests10s, ledger, append_day, today);
        assert_eq!(day(None, Some(100), 100), 100);
        assert_eq!(day(None, Some(50), 100), 99);
        assert_eq!(day(None, None, 100), 99);
        assert_eq!(day(Some(101), Some(50), 100), 101);
        // 1970-04-11 belongs to the partition of its month
        assert_eq!(ingest_day(Table::Requests1h, None, Some(100), 100), 90);
        assert_eq!(
            ingest_day(Table::Requests1h, Some(120), Some(100), 100),
            120
        );
    }
}
