//! The tables that carry a ledger: their names, tiers and the stream that feeds each.

/// The two streams of messages, one topic each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    Requests,
    Replicas,
}

impl Stream {
    pub const ALL: [Self; 2] = [Self::Requests, Self::Replicas];

    /// The tables that this stream is folded into, finest first.
    pub const fn tables(self) -> &'static [Table] {
        match self {
            Self::Requests => &[
                Table::Requests10s,
                Table::Requests1m,
                Table::Requests1h,
                Table::RequestsByReplica1m,
                Table::RequestsByReplica1h,
            ],
            Self::Replicas => &[Table::Replicas10s, Table::Replicas1m, Table::Replicas1h],
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
    Replicas10s,
    Replicas1m,
    Replicas1h,
}

impl Table {
    pub const ALL: [Self; 8] = [
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
            Self::Replicas10s => "replicas_10s",
            Self::Replicas1m => "replicas_1m",
            Self::Replicas1h => "replicas_1h",
        }
    }

    pub const fn stream(self) -> Stream {
        match self {
            Self::Replicas10s | Self::Replicas1m | Self::Replicas1h => Stream::Replicas,
            _ => Stream::Requests,
        }
    }

    pub const fn tier(self) -> Tier {
        match self {
            Self::Requests10s | Self::Replicas10s => Tier::TenSeconds,
            Self::Requests1m | Self::RequestsByReplica1m | Self::Replicas1m => Tier::Minute,
            Self::Requests1h | Self::RequestsByReplica1h | Self::Replicas1h => Tier::Hour,
        }
    }

    /// The column that counts what `ledger_events` counts.
    pub const fn counted(self) -> &'static str {
        match self.stream() {
            Stream::Requests => "requests",
            Stream::Replicas => "samples",
        }
    }

    /// The value of `ingested` for a UTC day (days since 1970): the day itself, for the hourly tables the first of
    /// its month, since 730 day-partitions made the guard cost twenty times as much as 25 months.
    pub fn ingest_day(self, day: i64) -> i64 {
        match self.tier() {
            Tier::TenSeconds | Tier::Minute => day,
            Tier::Hour => first_of_month(day),
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
pub struct TableSet(u8);

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
    }
}
