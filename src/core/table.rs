//! The tables that carry a ledger: their names, tiers and the stream that feeds each.

/// The two streams of messages, one topic each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    Requests,
    Replicas,
}

impl Stream {
    pub const ALL: [Self; 2] = [Self::Requests, Self::Replicas];

    /// The tables that this stream is folded into, finest first, the marks of its producers last.
    pub const fn tables(self) -> &'static [Table] {
        match self {
            Self::Requests => &[
                Table::Requests10s,
                Table::Requests1m,
                Table::Requests1h,
                Table::RequestsByReplica1m,
                Table::RequestsByReplica1h,
                Table::RequestsMarks,
            ],
            Self::Replicas => &[
                Table::Replicas10s,
                Table::Replicas1m,
                Table::Replicas1h,
                Table::ReplicasMarks,
            ],
        }
    }

    /// Where the producers' sequences of this stream are kept.
    pub const fn marks(self) -> Table {
        match self {
            Self::Requests => Table::RequestsMarks,
            Self::Replicas => Table::ReplicasMarks,
        }
    }
}

/// Which partition of which topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    pub stream: Stream,
    pub partition: i32,
}

/// The length of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    TenSeconds,
    Minute,
    Hour,
}

impl Tier {
    /// How many there are: what is fine becomes a row in each.
    pub const N: usize = 3;

    pub const fn seconds(self) -> u32 {
        match self {
            Self::TenSeconds => 10,
            Self::Minute => 60,
            Self::Hour => 3600,
        }
    }

    /// The window that holds this second.
    pub const fn floor(self, second: u32) -> u32 {
        second - second % self.seconds()
    }
}

/// A table with a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    Requests10s,
    Requests1m,
    Requests1h,
    RequestsByReplica1m,
    RequestsByReplica1h,
    RequestsMarks,
    Replicas10s,
    Replicas1m,
    Replicas1h,
    ReplicasMarks,
}

impl Table {
    pub const ALL: [Self; 10] = [
        Self::Requests10s,
        Self::Requests1m,
        Self::Requests1h,
        Self::RequestsByReplica1m,
        Self::RequestsByReplica1h,
        Self::RequestsMarks,
        Self::Replicas10s,
        Self::Replicas1m,
        Self::Replicas1h,
        Self::ReplicasMarks,
    ];

    /// Those that hold windows.
    pub const ROLLUPS: [Self; 8] = [
        Self::Requests10s,
        Self::Requests1m,
        Self::Requests1h,
        Self::RequestsByReplica1m,
        Self::RequestsByReplica1h,
        Self::Replicas10s,
        Self::Replicas1m,
        Self::Replicas1h,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests10s => "requests_10s",
            Self::Requests1m => "requests_1m",
            Self::Requests1h => "requests_1h",
            Self::RequestsByReplica1m => "requests_by_replica_1m",
            Self::RequestsByReplica1h => "requests_by_replica_1h",
            Self::RequestsMarks => "requests_marks",
            Self::Replicas10s => "replicas_10s",
            Self::Replicas1m => "replicas_1m",
            Self::Replicas1h => "replicas_1h",
            Self::ReplicasMarks => "replicas_marks",
        }
    }

    pub const fn stream(self) -> Stream {
        match self {
            Self::Replicas10s | Self::Replicas1m | Self::Replicas1h | Self::ReplicasMarks => {
                Stream::Replicas
            }
            _ => Stream::Requests,
        }
    }

    /// The length of its windows; none where it holds marks.
    pub const fn tier(self) -> Option<Tier> {
        match self {
            Self::Requests10s | Self::Replicas10s => Some(Tier::TenSeconds),
            Self::Requests1m | Self::RequestsByReplica1m | Self::Replicas1m => Some(Tier::Minute),
            Self::Requests1h | Self::RequestsByReplica1h | Self::Replicas1h => Some(Tier::Hour),
            Self::RequestsMarks | Self::ReplicasMarks => None,
        }
    }

    /// A fine flush covers it; the others wait for a full one.
    pub const fn is_fine(self) -> bool {
        matches!(self.tier(), Some(Tier::TenSeconds))
    }

    /// It holds the marks of producers, and no windows.
    pub const fn holds_marks(self) -> bool {
        self.tier().is_none()
    }

    /// The column that counts what `ledger_events` counts.
    pub const fn counted(self) -> &'static str {
        match (self.holds_marks(), self.stream()) {
            (true, _) => "messages",
            (false, Stream::Requests) => "requests",
            (false, Stream::Replicas) => "samples",
        }
    }

    /// The value of `ingested` for a UTC day (days since 1970): the day itself, for the hourly tables the first of
    /// its month, since 730 day-partitions made the guard cost twenty times as much as 25 months.
    pub fn ingest_day(self, day: i64) -> i64 {
        match self.tier() {
            Some(Tier::Hour) => first_of_month(day),
            _ => day,
        }
    }
}

/// The first day of the month that holds `day` (days since 1970), by Howard Hinnant's `civil_from_days`.
fn first_of_month(day: i64) -> i64 {
    let z = day + 719_468;
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5;
    day - day_of_month
}

/// Some of the tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableSet(u16);

impl TableSet {
    pub const fn contains(self, table: Table) -> bool {
        self.0 & (1 << table as u8) != 0
    }
}

impl FromIterator<Table> for TableSet {
    fn from_iter<I: IntoIterator<Item = Table>>(tables: I) -> Self {
        Self(
            tables
                .into_iter()
                .fold(0, |bits, table| bits | 1 << table as u8),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_begin_on_their_first_day() {
        // 2026-11-24, 2024-02-29, 1970-01-01, 2000-03-01
        for (day, first) in [
            (20_781, 20_758),
            (19_782, 19_754),
            (0, 0),
            (11_017, 11_017),
            (11_016, 10_988),
        ] {
            assert_eq!(first_of_month(day), first, "{day}");
        }
    }

    #[test]
    fn every_table_belongs_to_its_stream() {
        for stream in Stream::ALL {
            for table in stream.tables() {
                assert_eq!(table.stream(), stream);
            }
        }
        assert_eq!(
            Stream::ALL.iter().map(|s| s.tables().len()).sum::<usize>(),
            Table::ALL.len()
        );
        let rollups = Table::ALL.into_iter().filter(|table| !table.holds_marks());
        assert!(rollups.eq(Table::ROLLUPS));
    }
}
