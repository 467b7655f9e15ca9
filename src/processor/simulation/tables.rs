//! The simulated store: tables as lists of parts, the guard and the one-insert-at-a-time of each table, and a network that
//! loses, doubles and delays statements and answers what it likes.
//!
//! [`reading`] takes rows from the very columns that would be sent.

mod reading;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use super::Defect;
use super::log::Counted;
use crate::core::ledger::{Ledger, LedgerCounts};
use crate::core::marks::Mark;
use crate::core::recovery::Boundary;
use crate::core::table::{Source, Table};
use crate::replay::model::random::Random;
use crate::store::insert::{CODE_SAME_ID_RUNNING, Expected, InsertError};

/// What the guard answers.
const CODE_THROW_IF: u32 = 395;

/// One insert on its way.
#[derive(Clone)]
pub struct Statement {
    pub table: Table,
    ledger: Arc<str>,
    expected: Vec<Expected>,
    pub part: Part,
}

/// What one insert makes: all of it at once, or nothing.
#[derive(Clone, Default)]
pub struct Part {
    pub ingested: i64,
    pub ledgers: Vec<LedgerEntry>,
    pub rows: Vec<Row>,
    marks: Vec<MarkRow>,
}

#[derive(Debug, Clone)]
struct MarkRow {
    partition: u32,
    range_to: u64,
    mark: Mark,
}

#[derive(Debug, Clone)]
pub struct LedgerEntry {
    ledger: String,
    partition: u32,
    from: u64,
    to: u64,
    epoch: i32,
    span: u64,
    counts: LedgerCounts,
}

#[derive(Clone)]
pub struct Row {
    partition: u32,
    place: (String, String, u32),
    counted: u64,
}

/// A statement whose client has an answer already, or none any more.
enum InFlight {
    /// It has the table, and the guard has let it through or not.
    Running(Rc<Statement>),
    /// It has not arrived.
    Travelling(Rc<Statement>),
}

/// What the histories met, so that a test can say that they met it at all.
#[derive(Debug, Default, Clone, Copy)]
pub struct Met {
    pub landed: usize,
    pub refused: usize,
    pub busy: usize,
    pub lost: usize,
    pub doubled: usize,
    pub delayed: usize,
    pub lies: usize,
    pub set_back: usize,
}

#[derive(Default)]
pub struct Tables {
    parts: BTreeMap<Table, Vec<Part>>,
    in_flight: Vec<InFlight>,
    pub met: Met,
}

impl Tables {
    /// Takes a statement as the network and the server please, and answers likewise.
    pub fn send(
        &mut self,
        statement: Statement,
        is_calm: bool,
        defect: Option<Defect>,
        random: &mut Random,
    ) -> Result<(), InsertError> {
        let statement = Rc::new(statement);
        let fault = if is_calm { 9 } else { random.index(16) };
        match fault {
            0 => {
                self.met.lost += 1;
                Err(InsertError::Timeout)
            }
            1 => {
                // lost, and somebody on the way says that it is in
                self.met.lies += 1;
                Ok(())
            }
            2 => {
                // in, and somebody on the way says that it is not
                self.met.lies += 1;
                let _ = self.take(&statement, defect, random);
                Err(refused(60, "no such table"))
            }
            3 => {
                self.met.lost += 1;
                let _ = self.take(&statement, defect, random);
                Err(InsertError::Timeout)
            }
            4 => {
                self.met.doubled += 1;
                let _ = self.take(&statement, defect, random);
                self.take(&statement, defect, random)
            }
            5 => {
                self.met.delayed += 1;
                self.in_flight.push(InFlight::Travelling(statement));
                Err(InsertError::Timeout)
            }
            6 => self.start(statement, defect),
            _ => self.take(&statement, defect, random),
        }
    }

    /// Begins an insert that is still running when its client gives up.
    fn start(
        &mut self,
        statement: Rc<Statement>,
        defect: Option<Defect>,
    ) -> Result<(), InsertError> {
        self.refuse_if_busy(statement.table, defect)?;
        self.refuse_if_fenced(&statement, defect)?;
        self.met.delayed += 1;
        self.in_flight.push(InFlight::Running(statement));
        Err(InsertError::Timeout)
    }

    /// What the server does with a statement: all of it, now, or nothing.
    fn take(
        &mut self,
        statement: &Statement,
        defect: Option<Defect>,
        random: &mut Random,
    ) -> Result<(), InsertError> {
        self.refuse_if_busy(statement.table, defect)?;
        self.refuse_if_fenced(statement, defect)?;
        self.land(statement, defect, random);
        Ok(())
    }

    fn refuse_if_busy(&mut self, table: Table, defect: Option<Defect>) -> Result<(), InsertError> {
        let holds = |other: &InFlight| matches!(other, InFlight::Running(it) if it.table == table);
        if defect != Some(Defect::TwoWritersAtOnce) && self.in_flight.iter().any(holds) {
            self.met.busy += 1;
            return Err(refused(CODE_SAME_ID_RUNNING, "running"));
        }
        Ok(())
    }

    fn refuse_if_fenced(
        &mut self,
        statement: &Statement,
        defect: Option<Defect>,
    ) -> Result<(), InsertError> {
        let is_where = |expected: &Expected| {
            let now = self.ledger(statement.table, &statement.ledger, expected.partition);
            now.map_or(0, |ledger| ledger.to) == expected.to
        };
        if defect == Some(Defect::NoGuard) || statement.expected.iter().all(is_where) {
            return Ok(());
        }
        self.met.refused += 1;
        Err(refused(CODE_THROW_IF, "fenced"))
    }

    fn land(&mut self, statement: &Statement, defect: Option<Defect>, random: &mut Random) {
        self.met.landed += 1;
        let mut part = statement.part.clone();
        if defect == Some(Defect::NoLedgerRow) && random.is_hit(0.2) {
            part.ledgers.clear();
        }
        self.parts.entry(statement.table).or_default().push(part);
    }

    /// Lets one of the statements that are under way end.
    pub fn end_one(&mut self, defect: Option<Defect>, random: &mut Random) -> bool {
        if self.in_flight.is_empty() {
            return false;
        }
        let index = random.index(self.in_flight.len());
        match self.in_flight.swap_remove(index) {
            // a server that is killed has it or has it not
            InFlight::Running(_) if random.is_hit(0.2) => self.met.lost += 1,
            InFlight::Running(statement) => self.land(&statement, defect, random),
            InFlight::Travelling(statement) => {
                let _ = self.take(&statement, defect, random);
            }
        }
        true
    }

    /// A table is put back as an older copy has it: its latest part is gone, and what its ledgers said. A copy that lacks
    /// a ledger altogether is not made: what that loses is counted elsewhere.
    pub fn set_back(&mut self, random: &mut Random) {
        let table = Table::ALL[random.index(Table::ALL.len())];
        if let Some(parts) = self.parts.get_mut(&table) {
            let Some((latest, older)) = parts.split_last() else {
                return;
            };
            let is_left = |row: &LedgerEntry| {
                let mut rows = older.iter().flat_map(|part| &part.ledgers);
                rows.any(|other| other.partition == row.partition)
            };
            if latest.ledgers.iter().all(is_left) {
                parts.pop();
                // the server does not run meanwhile
                self.in_flight
                    .retain(|it| matches!(it, InFlight::Travelling(_)));
                self.met.set_back += 1;
            }
        }
    }

    pub fn is_quiet(&self) -> bool {
        self.in_flight.is_empty()
    }

    pub fn ledgers(&self, table: Table, ledger: &str, partitions: &[i32]) -> HashMap<i32, Ledger> {
        partitions
            .iter()
            .filter_map(|&partition| Some((partition, self.ledger(table, ledger, partition)?)))
            .collect()
    }

    fn ledger(&self, table: Table, ledger: &str, partition: i32) -> Option<Ledger> {
        let mut found: Option<Ledger> = None;
        for part in self.parts.get(&table)? {
            for row in &part.ledgers {
                if row.ledger != ledger || row.partition != partition.cast_unsigned() {
                    continue;
                }
                let known = found.get_or_insert(Ledger {
                    from: row.from,
                    to: row.to,
                    epoch: row.epoch,
                    ingested: part.ingested,
                });
                known.from = known.from.min(row.from);
                known.to = known.to.max(row.to);
                known.epoch = known.epoch.max(row.epoch);
                known.ingested = known.ingested.max(part.ingested);
            }
        }
        found
    }

    /// The highest offset at or below `below` as of which a partition's marks are stored, and the marks there.
    pub fn marks(&self, source: Source, below: u64) -> Option<(Boundary, Vec<Mark>)> {
        let parts = self.parts.get(&source.stream.marks())?;
        let partition = source.partition.cast_unsigned();
        let ledgers = parts.iter().flat_map(|part| &part.ledgers);
        let at_or_below = ledgers.filter(|row| row.partition == partition && row.to <= below);
        let row = at_or_below.max_by_key(|row| row.to)?;
        let boundary = Boundary {
            offset: row.to,
            epoch: row.epoch,
        };
        let mut latest: BTreeMap<_, &MarkRow> = BTreeMap::new();
        for row in parts.iter().flat_map(|part| &part.marks) {
            if row.partition == partition && row.range_to <= boundary.offset {
                let mark = &row.mark;
                let producer = (&mark.deployment_id, &mark.replica_id, mark.boot_id);
                let known = latest.entry(producer).or_insert(row);
                if known.range_to < row.range_to {
                    *known = row;
                }
            }
        }
        let marks = latest.into_values().map(|row| row.mark.clone()).collect();
        Some((boundary, marks))
    }

    /// All that a table has of a partition.
    pub fn counted(&self, table: Table, source: Source) -> Counted {
        let mut all = Counted {
            from: u64::MAX,
            ..Counted::default()
        };
        for part in self.parts.get(&table).into_iter().flatten() {
            let partition = source.partition.cast_unsigned();
            for row in part.ledgers.iter().filter(|row| row.partition == partition) {
                all.from = all.from.min(row.from);
                all.to = all.to.max(row.to);
                all.span += row.span;
                all.counts.events += row.counts.events;
                all.counts.late += row.counts.late;
                all.counts.invalid += row.counts.invalid;
            }
            for row in part.rows.iter().filter(|row| row.partition == partition) {
                *all.windows.entry(row.place.clone()).or_default() += row.counted;
            }
        }
        all
    }
}

fn refused(code: u32, text: &str) -> InsertError {
    InsertError::Refused {
        code,
        text: text.to_owned(),
    }
}
