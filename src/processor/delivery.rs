//! How shares get into the tables, without the sending: which insert is next, what its guard expects, and what the
//! ledger says became of it.
//!
//! The caller sends what [`Delivery::next`] gives, reads that table's ledger whatever was answered, and tells
//! [`Delivery::judge`] both. No answer is believed here: it only says how to wait before the same statement is sent again.

use std::collections::{HashMap, VecDeque};

use super::heads::Heads;
use super::share::{Share, fits};
use crate::core::ledger::{Fate, Ledger};
use crate::core::table::{Source, Stream, Table};
use crate::store::insert::{Expected, InsertError};

/// How often a table that is busy is tried at once: some seconds. Whoever holds it longer hangs, and that is said.
const MAX_BUSY: u32 = 200;

/// A defect of this program that no retry mends.
#[derive(Debug, thiserror::Error)]
#[error("an insert into {} was refused for what is a defect of this program", table.name())]
pub struct Defect {
    table: Table,
    #[source]
    source: InsertError,
}

/// One insert into one table, until the ledger has an answer for each of its shares.
pub struct Insertion {
    pub table: Table,
    /// `ingested` of every row, the same in every try.
    pub ingested: i64,
    /// Those of which the ledger has not told yet; never none.
    pub shares: Vec<Share>,
    n_busy: u32,
}

impl Insertion {
    /// All shares of a table are of one stream.
    pub const fn stream(&self) -> Stream {
        self.table.stream()
    }

    pub fn partitions(&self) -> Vec<i32> {
        self.shares
            .iter()
            .map(|share| share.source.partition)
            .collect()
    }

    /// What the guard expects.
    pub fn expected(&self, heads: &Heads) -> Vec<Expected> {
        self.shares
            .iter()
            .map(|share| Expected {
                partition: share.source.partition,
                to: heads.expected(share.source, self.table),
            })
            .collect()
    }
}

/// What the ledger made of a try.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Judged {
    pub n_stored: usize,
    /// Somebody else has written these.
    pub fenced: Vec<Source>,
    /// To be sent again.
    pub n_missing: usize,
    pub wait: Wait,
}

/// What to wait for before the next try.
#[derive(Debug, Default, PartialEq, Eq)]
pub enum Wait {
    /// Nothing: the ledger moved.
    #[default]
    No,
    /// Another insert into the table, which takes milliseconds.
    Busy,
    /// Whatever keeps the store from taking it.
    Blocked(String),
}

/// Shares on their way into the tables: one insert a table, or a few where a block would pass a range's limits. A
/// partition that is fenced in one table is left out of the others.
pub struct Delivery {
    waiting: VecDeque<(Table, Share)>,
    current: Option<Insertion>,
    fenced: Vec<Source>,
}

impl Delivery {
    pub fn new(mut shares: Vec<(Table, Share)>) -> Self {
        // finest first, as the tables are declared
        shares.sort_by_key(|(table, _)| *table);
        Self {
            waiting: shares.into(),
            current: None,
            fenced: Vec::new(),
        }
    }

    /// The insert to send now; none once the ledger has told of every share. `today` dates one that begins.
    pub fn next(&mut self, heads: &Heads, today: i64) -> Option<&Insertion> {
        if self.current.is_none() {
            self.current = self.begin(heads, today);
        }
        self.current.as_ref()
    }

    fn begin(&mut self, heads: &Heads, today: i64) -> Option<Insertion> {
        let mut table = None;
        let mut shares: Vec<Share> = Vec::new();
        while let Some((of, share)) = self.waiting.pop_front() {
            if self.fenced.contains(&share.source) {
                continue;
            }
            if table.is_some_and(|table| table != of) || !fits(&shares, &share) {
                self.waiting.push_front((of, share));
                break;
            }
            table = Some(of);
            shares.push(share);
        }
        let table = table?;
        Some(Insertion {
            table,
            ingested: heads.ingest_day(table, &shares, today),
            shares,
            n_busy: 0,
        })
    }

    /// Takes what was answered to the present insert and what the ledgers said afterwards.
    ///
    /// # Errors
    /// When the ledger has nothing of it and the answer says that it never will.
    pub fn judge(
        &mut self,
        heads: &mut Heads,
        answer: Result<(), InsertError>,
        now: &HashMap<i32, Ledger>,
    ) -> Result<Judged, Defect> {
        let Some(mut insertion) = self.current.take() else {
            return Ok(Judged::default());
        };
        let (table, ingested) = (insertion.table, insertion.ingested);
        let mut judged = Judged::default();
        insertion.shares.retain(|share| {
            let now = now.get(&share.source.partition).copied();
            match share.fate(ingested, now) {
                // where the ledger is not what the guard expects, no try ever lands: somebody else began it on another day
                Fate::Missing if to_of(now) == heads.expected(share.source, table) => return true,
                Fate::Stored => {
                    heads.stored(table, share, ingested, now);
                    judged.n_stored += 1;
                }
                Fate::Missing | Fate::Fenced => judged.fenced.push(share.source),
            }
            false
        });
        self.fenced.extend(&judged.fenced);
        judged.n_missing = insertion.shares.len();
        if judged.n_missing == 0 {
            return Ok(judged);
        }
        if judged.n_stored == 0 && judged.fenced.is_empty() {
            judged.wait = wait_for(&mut insertion, answer)?;
        }
        self.current = Some(insertion);
        Ok(judged)
    }

    /// The partitions that somebody else has written.
    pub fn into_fenced(self) -> Vec<Source> {
        self.fenced
    }
}

/// What a guard sees of this ledger.
fn to_of(ledger: Option<Ledger>) -> u64 {
    ledger.map_or(0, |ledger| ledger.to)
}

fn wait_for(insertion: &mut Insertion, answer: Result<(), InsertError>) -> Result<Wait, Defect> {
    let table = insertion.table;
    match answer {
        Err(source) if source.is_defect() => Err(Defect { table, source }),
        Err(error) if error.is_busy() && insertion.n_busy < MAX_BUSY => {
            insertion.n_busy += 1;
            Ok(Wait::Busy)
        }
        Err(error) => Ok(Wait::Blocked(format!("{}: {error}", table.name()))),
        Ok(()) => Ok(Wait::Blocked(format!(
            "{}: ClickHouse said ok, and the rows are not there",
            table.name()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::recovery::{Log, recover};

    const SOURCE: Source = Source {
        stream: Stream::Replicas,
        partition: 0,
    };
    const AT: u64 = 1000;

    /// A ledger that is to be begun in one table, and its delivery on this day.
    fn beginning(today: i64) -> (Heads, Delivery) {
        let log = Log {
            start: AT,
            end: AT,
            committed: None,
        };
        let recovery = recover(&[(Table::Replicas10s, None)], log).expect("fresh");
        let mut heads = Heads::default();
        heads.adopt(SOURCE, &recovery);
        let delivery = Delivery::new(heads.first_rows(&[(SOURCE, recovery)], today));
        (heads, delivery)
    }

    fn ledger(ingested: i64) -> HashMap<i32, Ledger> {
        let ledger = Ledger {
            from: AT,
            to: AT,
            epoch: -1,
            ingested,
        };
        HashMap::from([(SOURCE.partition, ledger)])
    }

    #[test]
    fn a_ledger_that_another_began_yesterday_is_not_begun_for_ever() {
        let (mut heads, mut delivery) = beginning(20_001);
        assert!(delivery.next(&heads, 20_001).is_some());
        let judged = delivery
            .judge(&mut heads, Err(InsertError::Timeout), &ledger(20_000))
            .expect("no defect");
        assert_eq!((judged.n_missing, judged.fenced), (0, vec![SOURCE]));
        assert!(delivery.next(&heads, 20_001).is_none());
        assert_eq!(delivery.into_fenced(), [SOURCE]);
    }

    #[test]
    fn only_the_ledger_says_that_a_row_is_in() {
        let (mut heads, mut delivery) = beginning(20_000);
        delivery.next(&heads, 20_000);
        let judged = delivery
            .judge(&mut heads, Ok(()), &HashMap::new())
            .expect("no defect");
        assert!(matches!(judged.wait, Wait::Blocked(_)) && judged.n_missing == 1);
        delivery.next(&heads, 20_000);
        let judged = delivery
            .judge(&mut heads, Err(InsertError::Timeout), &ledger(20_000))
            .expect("no defect");
        assert_eq!((judged.n_stored, judged.wait), (1, Wait::No));
        assert_eq!(heads.expected(SOURCE, Table::Replicas10s), AT);
    }
}
