//! Seeded histories of whole processes without I/O or a clock: messages, rebalances that somebody does not hear of,
//! crashes between any two steps, statements and answers that are lost, doubled, late or lies. Whatever happens, each
//! table ends with every message once.
//!
//! Real are all of `core`, the worker's intake, the rows as they are encoded, and the writer's decisions
//! ([`super::delivery`], [`super::heads`]); [`process`] does in steps what loops and tasks do around them. The store in
//! [`tables`] holds parts, evaluates guards and misbehaves; [`log`] knows the truth. A seed repeats its history exactly.
//!
//! [`Defect`]s put one bug in at a time: histories that do not find it would be worth nothing.

mod histories;
mod log;
mod process;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::log::Log;
use self::process::{Process, World, ledger_of, topics};
use self::tables::{Met, Tables};
use super::delivery;
use super::status::Status;
use crate::bus::avro::SchemaRegistry;
use crate::core::recovery::Stopped;
use crate::core::table::{Source, Stream, Table};
use crate::replay::model::random::Random;

/// Things that happen in a history before all goes well.
const STEPS: usize = 1000;

/// Steps in which a history must come to its end once all goes well: some hundred suffice. Past it somebody is stuck.
const MAX_CALM_STEPS: usize = 20_000;

const MAX_PROCESSES: usize = 3;
const MAX_PARTITIONS: usize = 2;

/// A bug that is put in on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// Inserts land wherever the ledger is.
    NoGuard,
    /// Some parts lack their ledger row.
    NoLedgerRow,
    /// An insert that was answered "ok" is taken as stored.
    BelieveTheAnswer,
    /// Every table takes rows from the lowest ledger on, not from its own.
    StartAtAnothersLedger,
    /// A flush's rows go in two inserts.
    SplitFlush,
    /// The guard is checked, and another insert lands before this one does.
    TwoWritersAtOnce,
    /// What came of the producers is forgotten with the process.
    NoMarks,
    /// It is taken as of the latest flush, wherever reading begins.
    MarksOfTheEnd,
}

/// What is wrong with the end of a history.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{table:?} of {source_:?} holds\n{found:?}\nand not\n{truth:?}")]
    Wrong {
        table: Table,
        source_: Source,
        found: Box<log::Counted>,
        truth: Box<log::Counted>,
    },
    #[error("an insert into {table:?} is dated before the ledger of {source_:?} that was read")]
    DatedBack { table: Table, source_: Source },
    #[error("{source_:?} is told to be stored further than {table:?} has it")]
    NotStored { table: Table, source_: Source },
    #[error("it does not come to an end")]
    Stuck,
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error(transparent)]
    Refused(#[from] delivery::Defect),
}

/// What a history went through.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    pub met: Met,
    pub n_fenced: usize,
    pub n_cut: usize,
    pub n_crashes: usize,
}

/// Runs one history.
///
/// # Errors
/// When its end is not the truth.
pub fn run(seed: u64, defect: Option<Defect>) -> Result<Seen, Failure> {
    let mut history = History::new(seed, defect);
    for _ in 0..STEPS {
        history.step()?;
    }
    history.calm_down()?;
    history.check()?;
    Ok(Seen {
        met: history.world.tables.met,
        n_fenced: history.world.n_fenced,
        n_cut: history.world.n_cut,
        n_crashes: history.n_crashes,
    })
}

struct History {
    world: World,
    processes: Vec<Process>,
    registry: Arc<SchemaRegistry>,
    status: Arc<Status>,
    n_crashes: usize,
}

impl History {
    fn new(seed: u64, defect: Option<Defect>) -> Self {
        let mut random = Random::of(seed, "simulation", 0);
        let mut logs = BTreeMap::new();
        for stream in Stream::ALL {
            for partition in 0..1 + random.index(MAX_PARTITIONS) {
                let partition = i32::try_from(partition).expect("few");
                let source = Source { stream, partition };
                logs.insert(source, Log::new(stream, &mut random));
            }
        }
        let registry = Arc::new(SchemaRegistry::built_in());
        let status = Arc::new(Status::new(&topics()));
        let n_processes = 1 + random.index(MAX_PROCESSES);
        let processes = (0..n_processes)
            .map(|_| Process::new(&registry, &status, &mut random))
            .collect();
        let mut history = Self {
            world: World {
                logs,
                tables: Tables::default(),
                today: 0,
                is_calm: false,
                defect,
                random,
                n_fenced: 0,
                n_cut: 0,
            },
            processes,
            registry,
            status,
            n_crashes: 0,
        };
        history.append();
        history.rebalance();
        history
    }

    /// Something happens.
    fn step(&mut self) -> Result<(), Failure> {
        match self.world.random.index(100) {
            0 => {
                let index = self.world.random.index(self.processes.len());
                let random = &mut self.world.random;
                self.processes[index] = Process::new(&self.registry, &self.status, random);
                self.n_crashes += 1;
                self.rebalance();
            }
            1..4 => self.rebalance(),
            4..8 => self.append(),
            8 if self.world.random.is_hit(0.5) => self.world.today += 1,
            8 => self.world.tables.set_back(&mut self.world.random),
            9..14 => {
                let World {
                    tables,
                    defect,
                    random,
                    ..
                } = &mut self.world;
                tables.end_one(*defect, random);
            }
            _ => {
                let index = self.world.random.index(self.processes.len());
                self.processes[index].step(&mut self.world)?;
            }
        }
        Ok(())
    }

    fn append(&mut self) {
        for log in self.world.logs.values_mut() {
            log.append(self.world.random.index(5));
            self.world.today = self.world.today.max(log.day());
        }
    }

    /// The group shares the partitions out anew; whoever had them hears of it sooner or later.
    fn rebalance(&mut self) {
        let mut shares = vec![Vec::new(); self.processes.len()];
        for &source in self.world.logs.keys() {
            shares[self.world.random.index(self.processes.len())].push(source);
        }
        for (process, share) in self.processes.iter_mut().zip(shares) {
            process.assigned = Some(share);
        }
    }

    /// Nothing goes wrong any more: everybody hears of everything and reads to the end.
    fn calm_down(&mut self) -> Result<(), Failure> {
        self.world.is_calm = true;
        for log in self.world.logs.values_mut() {
            log.append_all();
            self.world.today = self.world.today.max(log.day());
        }
        self.rebalance();
        for _ in 0..MAX_CALM_STEPS {
            let World {
                tables,
                defect,
                random,
                ..
            } = &mut self.world;
            tables.end_one(*defect, random);
            for process in &mut self.processes {
                process.step(&mut self.world)?;
            }
            if self.is_over() {
                return Ok(());
            }
        }
        Err(Failure::Stuck)
    }

    fn is_over(&self) -> bool {
        let is_whole = |source: &Source| {
            let end = self.world.logs[source].ends().end;
            source.stream.tables().iter().all(|&table| {
                let of_table = ledger_of(source.stream);
                let ledgers = (self.world.tables).ledgers(table, &of_table, &[source.partition]);
                // a ledger that is not of today would age out in the end
                let is_young = |day| day >= table.ingest_day(self.world.today);
                (ledgers.get(&source.partition))
                    .is_some_and(|ledger| ledger.to >= end && is_young(ledger.ingested))
            })
        };
        self.world.tables.is_quiet()
            && self.processes.iter().all(|it| it.is_at_rest(&self.world))
            && self.world.logs.keys().all(is_whole)
    }

    fn check(&self) -> Result<(), Failure> {
        for (&source, log) in &self.world.logs {
            for &table in source.stream.tables() {
                let (found, truth) = (self.world.tables.counted(table, source), log.truth(table));
                if found != truth {
                    return Err(Failure::Wrong {
                        table,
                        source_: source,
                        found: Box::new(found),
                        truth: Box::new(truth),
                    });
                }
            }
        }
        Ok(())
    }
}
