//! A simulated process: the real intake, heads and delivery, and in small steps what the worker's loop, the engine and the
//! writer do between them. A step is what a crash, a pause or another process can come between.

mod looking;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;

use looking::{Found, Looking};

use super::log::{Entry, Log};
use super::tables::{Statement, Tables};
use super::{Defect, Failure};
use crate::bus::avro::SchemaRegistry;
use crate::bus::fetch::{FetchError, Message, Messages};
use crate::config::{KafkaArgs, TopicArgs};
use crate::core::delta::FlushKind;
use crate::core::ids::IdLimits;
use crate::core::ledger::Ledger;
use crate::core::table::{Source, Stream, Table};
use crate::processor::delivery::Delivery;
use crate::processor::heads::Heads;
use crate::processor::intake::Intake;
use crate::processor::protocol::{Report, WorkerSetup};
use crate::processor::share::{Share, ShareKind};
use crate::processor::status::Status;
use crate::replay::model::random::Random;
use crate::store::insert::InsertError;

/// Reports that may wait: a history has few, and a full queue only leaves a hint out.
const REPORTS: usize = 1024;

/// Messages of a partition in one fetch.
const MAX_FETCHED: usize = 6;

/// Producers that a partition remembers: fewer than send.
pub const MAX_PRODUCERS: usize = 4;

/// What is outside of a process.
pub struct World {
    pub logs: BTreeMap<Source, Log>,
    pub tables: Tables,
    /// Since 1970.
    pub today: i64,
    /// Nothing goes wrong any more.
    pub is_calm: bool,
    pub defect: Option<Defect>,
    pub random: Random,
    pub n_fenced: usize,
    pub n_cut: usize,
}

pub struct Process {
    intake: Intake,
    _reports: mpsc::Receiver<Report>,
    heads: Heads,
    /// The latest `ingested` that a read ledger had.
    days: BTreeMap<(Source, Table), i64>,
    owned: BTreeMap<Source, u64>,
    generation: u64,
    fetched: Option<(Fetched, usize)>,
    /// The worker waits for a flush of this kind and reads no further.
    wanted: Option<FlushKind>,
    /// What the group has decided, and the process has not yet heard.
    pub assigned: Option<Vec<Source>>,
    doing: Doing,
}

enum Doing {
    Nothing,
    /// Reads the ledgers of these partitions, a table a step.
    Looking(Looking),
    /// Sends the next insert.
    Sending(Delivery, After),
    /// It was answered; reads the ledger.
    Reading(Delivery, After, Result<(), InsertError>),
    /// The ledger has been read; others may write meanwhile.
    Judging(
        Delivery,
        After,
        Result<(), InsertError>,
        HashMap<i32, Ledger>,
    ),
}

/// What follows a delivery.
enum After {
    Flush(FlushKind, Vec<(Source, u64)>),
    /// The ledgers were dated; these were fenced before.
    Dating(Vec<Source>),
    HandOut(Vec<Found>),
    /// The last flush before partitions are given up.
    GiveUp(Vec<Source>),
}

/// What one fetch gave.
struct Fetched(Vec<(Source, Rc<Entry>)>);

impl Messages for Fetched {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, index: usize) -> Option<Result<Message<'_>, FetchError>> {
        let (source, entry) = self.0.get(index)?;
        Some(Ok(Message::simulated(
            *source,
            entry.offset,
            entry.append_ms,
            &entry.payload,
        )))
    }
}

impl Process {
    pub fn new(registry: &Arc<SchemaRegistry>, status: &Arc<Status>, random: &mut Random) -> Self {
        let (reports, received) = mpsc::channel(REPORTS);
        let limits = IdLimits::new(1000, 1000);
        // some have room for a few windows only, and flush early
        let window_memory = if random.is_hit(0.2) { 4096 } else { 1 << 30 };
        let intake = Intake::new(&WorkerSetup {
            kafka: KafkaArgs {
                bootstrap: String::new(),
                topics: topics(),
                options: Vec::new(),
            },
            group: String::new(),
            registry: registry.clone(),
            request_limits: limits.clone(),
            replica_limits: limits,
            max_producers: MAX_PRODUCERS,
            dead_letters_per_second: u32::MAX,
            status: status.clone(),
            reports,
            window_memory,
            fetch_ahead_kib: 0,
            core: None,
        });
        Self {
            intake,
            _reports: received,
            heads: Heads::default(),
            days: BTreeMap::new(),
            owned: BTreeMap::new(),
            generation: 0,
            fetched: None,
            wanted: None,
            assigned: None,
            doing: Doing::Nothing,
        }
    }

    /// Nothing is under way, nothing is to be heard, and everything that was folded is stored.
    pub fn is_at_rest(&self, world: &World) -> bool {
        let is_read = |source: &Source| {
            let mut positions = self.intake.owned().iter();
            positions.any(|owned| {
                owned.partition.source() == *source
                    && owned.partition.position() >= world.logs[source].ends().end
            })
        };
        matches!(self.doing, Doing::Nothing)
            && self.assigned.is_none()
            && self.owned.keys().all(is_read)
    }

    /// Does one small thing.
    pub fn step(&mut self, world: &mut World) -> Result<(), Failure> {
        // the worker reads while the writer waits
        if !matches!(self.doing, Doing::Nothing) && world.random.is_hit(0.2) {
            self.read(world);
            return Ok(());
        }
        // the work under way did not end in time for the group
        if self.assigned.is_some()
            && !matches!(self.doing, Doing::Nothing)
            && world.random.is_hit(0.1)
        {
            self.drop_all();
            return Ok(());
        }
        match std::mem::replace(&mut self.doing, Doing::Nothing) {
            Doing::Nothing => self.begin(world),
            Doing::Looking(looking) => self.look(looking, world)?,
            Doing::Sending(delivery, after) => self.send(delivery, after, world)?,
            Doing::Reading(delivery, after, answer) => self.ask(delivery, after, answer, world),
            Doing::Judging(mut delivery, after, answer, now) => {
                let table = delivery.next(&self.heads, world.today).map(|it| it.table);
                let judged = delivery.judge(&mut self.heads, answer, &now)?;
                world.n_fenced += judged.fenced.len();
                // a try that is sent again keeps its day
                if let (Some(table), 0) = (table, judged.n_missing) {
                    self.note_days(table, &now);
                }
                self.doing = Doing::Sending(delivery, after);
            }
        }
        Ok(())
    }

    fn note_days(&mut self, table: Table, now: &HashMap<i32, Ledger>) {
        for (&partition, ledger) in now {
            let stream = table.stream();
            let place = (Source { stream, partition }, table);
            self.days.insert(place, ledger.ingested);
        }
    }

    fn begin(&mut self, world: &mut World) {
        // whoever does not hear of it goes on writing what is another's now
        let hears = if world.is_calm { 0.5 } else { 0.1 };
        if self.assigned.is_some() && world.random.is_hit(hears) {
            let sources = self.assigned.take().unwrap_or_default();
            if self.owned.is_empty() || world.random.is_hit(0.3) {
                self.drop_all();
                self.doing = Doing::Looking(Looking::at(sources));
            } else {
                let (delivery, _) = self.flush(FlushKind::Full);
                self.doing = Doing::Sending(delivery, After::GiveUp(sources));
            }
            return;
        }
        let kind = match (self.wanted, world.random.index(10)) {
            (Some(kind), _) => kind,
            (None, 0) => FlushKind::Full,
            (None, 1..3) => FlushKind::Fine,
            _ => return self.read(world),
        };
        let (delivery, positions) = self.flush(kind);
        self.doing = Doing::Sending(delivery, After::Flush(kind, positions));
    }

    /// The worker: takes what was fetched, until a flush is wanted.
    fn read(&mut self, world: &mut World) {
        if self.wanted.is_some() {
            return;
        }
        let (fetched, mut index) = match self.fetched.take() {
            Some(rest) => rest,
            None => (self.fetch(world), 0),
        };
        self.wanted = self.intake.take_from(&fetched, &mut index);
        if index < fetched.len() {
            world.n_cut += usize::from(self.wanted == Some(FlushKind::Full));
            self.fetched = Some((fetched, index));
        }
    }

    fn fetch(&self, world: &mut World) -> Fetched {
        let mut fetched = Vec::new();
        for owned in self.intake.owned() {
            let source = owned.partition.source();
            // librdkafka gives whole batches: some lie before what was asked for
            let from = owned
                .partition
                .position()
                .saturating_sub(world.random.index(3) as u64);
            let most = world.random.index(MAX_FETCHED + 1);
            let entries = world.logs[&source].read(from, most);
            fetched.extend(entries.map(|entry| (source, entry.clone())));
        }
        Fetched(fetched)
    }

    /// What the worker has, and the engine's look at whose it is.
    fn flush(&mut self, kind: FlushKind) -> (Delivery, Vec<(Source, u64)>) {
        let taken = self.intake.flush(kind);
        if self.wanted.is_some_and(|wanted| kind >= wanted) {
            self.wanted = None;
        }
        let (mut shares, mut positions) = (Vec::new(), Vec::new());
        for flush in taken.flushes {
            if self.owned.get(&flush.source) == Some(&flush.generation) {
                positions.push((flush.source, flush.position));
                let of_partition = flush.deltas.into_iter();
                shares.extend(of_partition.map(|delta| Share::of_delta(flush.source, delta)));
            }
        }
        (Delivery::new(shares), positions)
    }

    fn send(
        &mut self,
        mut delivery: Delivery,
        after: After,
        world: &mut World,
    ) -> Result<(), Failure> {
        let Some(insertion) = delivery.next(&self.heads, world.today) else {
            return self.finish(delivery.into_fenced(), after, world);
        };
        let table = insertion.table;
        for source_ in insertion.shares.iter().map(|share| share.source) {
            let read = self.days.get(&(source_, table));
            if read.is_some_and(|&day| insertion.ingested < day) {
                return Err(Failure::DatedBack { table, source_ });
            }
        }
        let statement = Statement::of(insertion, &self.heads);
        let statements = if world.defect == Some(Defect::SplitFlush) {
            statement.split().to_vec()
        } else {
            vec![statement]
        };
        let mut answer = Ok(());
        for statement in statements {
            if answer.is_ok() {
                let (defect, random) = (world.defect, &mut world.random);
                answer = world.tables.send(statement, world.is_calm, defect, random);
            }
        }
        self.doing = Doing::Reading(delivery, after, answer);
        Ok(())
    }

    fn ask(
        &mut self,
        mut delivery: Delivery,
        after: After,
        answer: Result<(), InsertError>,
        world: &mut World,
    ) {
        let Some(insertion) = delivery.next(&self.heads, world.today) else {
            unreachable!("the insert that was sent is not judged yet");
        };
        if !world.is_calm && world.random.is_hit(0.1) {
            self.doing = Doing::Reading(delivery, after, answer);
            return;
        }
        let ledger = self.heads.ledger(insertion.stream());
        let (table, partitions) = (insertion.table, insertion.partitions());
        let mut now = world.tables.ledgers(table, &ledger, &partitions);
        if world.defect == Some(Defect::BelieveTheAnswer) && answer.is_ok() {
            for share in &insertion.shares {
                let (ShareKind::Data { to, .. } | ShareKind::Heartbeat { at: to }) = share.kind;
                let told = Ledger {
                    from: 0,
                    to,
                    epoch: -1,
                    ingested: insertion.ingested,
                };
                now.insert(share.source.partition, told);
            }
        }
        self.doing = Doing::Judging(delivery, after, answer, now);
    }

    fn finish(
        &mut self,
        fenced: Vec<Source>,
        after: After,
        world: &mut World,
    ) -> Result<(), Failure> {
        match after {
            After::Flush(kind, positions) => {
                for (source, position) in positions {
                    if !fenced.contains(&source) {
                        commit(source, position, kind, world)?;
                    }
                }
                if kind == FlushKind::Full {
                    let dating = Delivery::new(self.heads.rows_of_today(world.today));
                    self.doing = Doing::Sending(dating, After::Dating(fenced));
                } else {
                    self.begin_again(fenced);
                }
            }
            After::Dating(mut before) => {
                before.extend(fenced);
                self.begin_again(before);
            }
            After::GiveUp(sources) => {
                self.drop_all();
                self.doing = Doing::Looking(Looking::at(sources));
            }
            After::HandOut(recovered) => {
                for found in recovered {
                    if !fenced.contains(&found.source) {
                        self.hand_out(found, world.defect);
                    }
                }
                if !fenced.is_empty() {
                    self.doing = Doing::Looking(Looking::at(fenced));
                }
            }
        }
        Ok(())
    }

    /// The worker's batch belongs to the assignment before.
    fn outdate(&mut self) {
        self.fetched = None;
        self.wanted = None;
    }

    fn begin_again(&mut self, mut sources: Vec<Source>) {
        sources.sort_unstable();
        sources.dedup();
        if sources.is_empty() {
            return;
        }
        for &source in &sources {
            self.owned.remove(&source);
            self.heads.forget(source);
            self.intake.disown(source);
        }
        self.outdate();
        self.doing = Doing::Looking(Looking::at(sources));
    }

    fn drop_all(&mut self) {
        self.doing = Doing::Nothing;
        self.owned.clear();
        self.heads.forget_all();
        self.days.clear();
        self.intake.disown_all();
        self.outdate();
    }
}

/// Tells the group how far a partition is stored, which must be so in every table that the flush was for.
fn commit(
    source: Source,
    position: u64,
    kind: FlushKind,
    world: &mut World,
) -> Result<(), Failure> {
    for &table in source.stream.tables() {
        let is_covered = kind == FlushKind::Full || table.is_fine();
        let ledgers = (world.tables).ledgers(table, &ledger_of(source.stream), &[source.partition]);
        let to = ledgers.get(&source.partition).map_or(0, |ledger| ledger.to);
        // what an older copy lacks was stored all the same
        if is_covered && to < position && world.tables.met.set_back == 0 {
            return Err(Failure::NotStored {
                table,
                source_: source,
            });
        }
    }
    world.logs.get_mut(&source).expect("a log").committed = Some(position);
    Ok(())
}

pub fn topics() -> TopicArgs {
    TopicArgs {
        requests: "requests".to_owned(),
        replicas: "replicas".to_owned(),
        dead_letters: "dead".to_owned(),
    }
}

pub fn ledger_of(stream: Stream) -> Arc<str> {
    Arc::from(match stream {
        Stream::Requests => "requests/id",
        Stream::Replicas => "replicas/id",
    })
}
