//! Where a simulated process begins: ledgers read a table a step, so that others write in between, and partitions handed
//! out from what they said.

use std::collections::{BTreeMap, HashMap};

use super::{After, Doing, Process, World, ledger_of};
use crate::core::ledger::Ledger;
use crate::core::marks::Mark;
use crate::core::recovery::{Log, Recovery, Stopped, recover};
use crate::core::table::{Source, Stream, Table};
use crate::processor::delivery::Delivery;
use crate::processor::protocol::Assignment;
use crate::processor::simulation::{Defect, Failure};

/// Ledgers that are being read.
pub(super) struct Looking {
    sources: Vec<Source>,
    /// Asked before the ledgers: whoever finds none must not find that somebody has committed since.
    logs: Option<BTreeMap<Source, Log>>,
    left: Vec<Table>,
    ledgers: Vec<(Table, HashMap<i32, Ledger>)>,
}

/// Where a partition begins.
pub(super) struct Found {
    pub source: Source,
    recovery: Recovery,
    marks: Vec<Mark>,
    log_end: u64,
}

impl Process {
    pub(super) fn hand_out(&mut self, found: Found, defect: Option<Defect>) {
        let Found {
            source,
            mut recovery,
            marks,
            log_end,
        } = found;
        if defect == Some(Defect::StartAtAnothersLedger) {
            for table in &mut recovery.tables {
                table.from = recovery.start;
            }
        }
        self.generation += 1;
        self.owned.insert(source, self.generation);
        self.intake.own(Assignment {
            source,
            generation: self.generation,
            recovery,
            marks,
            ledger: self.heads.ledger(source.stream),
            log_end,
        });
        self.outdate();
    }

    pub(super) fn look(&mut self, mut looking: Looking, world: &mut World) -> Result<(), Failure> {
        if !world.is_calm && world.random.is_hit(0.1) {
            self.doing = Doing::Looking(looking);
            return Ok(());
        }
        let logs = looking.logs.get_or_insert_with(|| {
            let of_source = |&source: &Source| (source, world.logs[&source].ends());
            looking.sources.iter().map(of_source).collect()
        });
        if let Some(table) = looking.left.pop() {
            let stream = table.stream();
            self.heads.set_ledger(stream, ledger_of(stream));
            let partitions = looking.partitions(stream);
            let found = world.tables.ledgers(table, &ledger_of(stream), &partitions);
            looking.ledgers.push((table, found));
            self.doing = Doing::Looking(looking);
            return Ok(());
        }
        let mut recovered = Vec::new();
        for &source in &looking.sources {
            let of_stream = looking
                .ledgers
                .iter()
                .filter(|(table, _)| table.stream() == source.stream);
            let ledgers: Vec<(Table, Option<Ledger>)> = of_stream
                .map(|(table, found)| (*table, found.get(&source.partition).copied()))
                .collect();
            let mut log = logs[&source];
            let mut recovery = recover(&ledgers, log);
            if let Err(Stopped::LogLost { .. }) = recovery {
                log.end = world.logs[&source].ends().end;
                recovery = recover(&ledgers, log);
            }
            let mut recovery = recovery?;
            let below = match world.defect {
                Some(Defect::MarksOfTheEnd) => u64::MAX,
                _ => recovery.start,
            };
            let mut marks = Vec::new();
            if let Some((boundary, stored)) = world.tables.marks(source, below) {
                recovery.begin_at(boundary, log);
                marks = stored;
            }
            if world.defect == Some(Defect::NoMarks) {
                marks.clear();
            }
            self.heads.adopt(source, &recovery);
            let of_tables = recovery.tables.iter();
            self.days.extend(
                of_tables.filter_map(|start| Some(((source, start.table), start.ingested?))),
            );
            recovered.push(Found {
                source,
                recovery,
                marks,
                log_end: log.end,
            });
        }
        let of_recovered: Vec<(Source, Recovery)> = recovered
            .iter()
            .map(|found| (found.source, found.recovery.clone()))
            .collect();
        let first = self.heads.first_rows(&of_recovered, world.today);
        self.doing = Doing::Sending(Delivery::new(first), After::HandOut(recovered));
        Ok(())
    }
}

impl Looking {
    pub(super) fn at(sources: Vec<Source>) -> Self {
        let mut left: Vec<Table> = Table::ALL.to_vec();
        left.retain(|table| sources.iter().any(|source| source.stream == table.stream()));
        Self {
            sources,
            logs: None,
            left,
            ledgers: Vec::new(),
        }
    }

    fn partitions(&self, stream: Stream) -> Vec<i32> {
        self.sources
            .iter()
            .filter(|source| source.stream == stream)
            .map(|source| source.partition)
            .collect()
    }
}
