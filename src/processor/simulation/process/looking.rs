//! Where a simulated process begins: ledgers read a table a step, so that others write in between, and partitions handed
//! out from what they said.

use std::collections::HashMap;

use super::{After, Doing, Process, World, ledger_of};
use crate::core::ledger::Ledger;
use crate::core::recovery::{Recovery, recover};
use crate::core::table::{Source, Stream, Table};
use crate::processor::delivery::Delivery;
use crate::processor::protocol::Assignment;
use crate::processor::simulation::{Defect, Failure};

/// Ledgers that are being read.
pub(super) struct Looking {
    sources: Vec<Source>,
    left: Vec<Table>,
    ledgers: Vec<(Table, HashMap<i32, Ledger>)>,
}

impl Process {
    pub(super) fn hand_out(
        &mut self,
        source: Source,
        mut recovery: Recovery,
        log_end: u64,
        defect: Option<Defect>,
    ) {
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
            let log = world.logs[&source].ends();
            let recovery = recover(&ledgers, log)?;
            self.heads.adopt(source, &recovery);
            let of_tables = recovery.tables.iter();
            self.days.extend(
                of_tables.filter_map(|start| Some(((source, start.table), start.ingested?))),
            );
            recovered.push((source, recovery, log.end));
        }
        let of_recovered: Vec<(Source, Recovery)> = recovered
            .iter()
            .map(|(source, recovery, _)| (*source, recovery.clone()))
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
