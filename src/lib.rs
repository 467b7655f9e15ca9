//! modelmeter: metrics for served machine-learning models, from the replica to the chart, each request counted once.
//!
//! # The path of one request
//!
//! The [`agent`] passes the request on to its model server and measures it; or the server posts what it measured itself, or
//! has a producer of its own. The request goes into a batch, in Avro, which is published to Kafka, keyed by deployment.
//! [`bus::fetch`] hands the message to a worker of the [`processor`]; [`bus::avro`] finds the plan that was compiled from
//! the writer's schema and turns the bytes into a [`core::event::RequestEvent`]. [`core::partition`] checks
//! its time against the broker's and folds it into the 10 s window of its deployment and the 1 m window of its replica
//! ([`core::request_fold`], [`core::request_window`]); its durations become keys of a [`core::sketch`].
//!
//! Every few seconds [`processor::conductor`] asks the workers for a flush. The windows leave as deltas, each with the
//! offsets that it covers; the coarser tiers are merged from the finer on the way. [`store::rows`] writes them as columns,
//! with a ledger row that says which offsets these are. [`processor::writer`] sends one block a table behind a guard
//! ([`store::insert`]) and believes only the ledger that it then reads ([`store::ledger`], [`core::ledger`]).
//!
//! A chart asks what a view (`schemas/clickhouse/`) computes, which merges the deltas and sketches of the coarsest tier that
//! fits; the [`dashboard`] draws what is answered.
//!
//! After a crash or a rebalance [`core::recovery`] decides from the ledgers where each table goes on.
//! [`store::audit`] checks that nothing was lost or doubled. [`local`] brings the real broker and the real engine to one
//! machine; [`replay`] plays real traces as live load, and [`demo`] is all of it.
//!
//! # What never happens
//!
//! - `core` never reads a clock and does no I/O: times come in with messages.
//! - No answer of ClickHouse is believed; no table's rows depend on another table's ledger.
//! - No message is dropped in silence: it is folded, or counted by reason and sent to the dead letters, or its partition
//!   stops and says so.
//! - No queue is unbounded, and nothing from outside grows memory without a limit that has a name.
//! - No parameter reaches SQL as text. No secret reaches a log.
//!
//! # Unsafe code
//!
//! Only where C is called or a cache line is wished for, each block with its argument: [`bus::fetch`] and [`bus::broker`]
//! (librdkafka's batch call, leader epochs, topic ids), [`core::level`] (prefetch), [`processor::cores`] (CPU affinity), [`processor::memory`]
//! (allocator thresholds), [`local::clickhouse`] (the engine's C functions), [`local::process`]
//! (PDEATHSIG, signals), [`agent`] (clearing dead orphans away, letting go of its start's pages), [`demo`] (killing a server).
pub mod agent;
pub mod bus;
pub mod clock;
pub mod config;
pub mod core;
pub mod dashboard;
pub mod demo;
pub mod local;
pub mod probes;
pub mod processor;
pub mod replay;
pub mod rfc3339;
pub mod store;
pub mod telemetry;
