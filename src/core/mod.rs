//! What the numbers are: events, windows, sketches, rollups and their merge laws. No clock, no I/O.
//!
//! A message becomes [`event`]s; a [`partition`] folds them into windows and knows which of its tables has covered
//! which offsets; [`timeliness`] and [`marks`] say what is not counted, for its time or because it came before; a flush hands
//! out [`delta`]s; [`ledger`] says what an answer of the store means and [`recovery`] where to begin.
pub mod delta;
pub mod deployment;
pub mod event;
pub mod ids;
pub mod ledger;
pub mod level;
pub mod marks;
pub mod partition;
pub mod recovery;
pub mod replica_fold;
pub mod replica_window;
pub mod request_fold;
pub mod request_window;
pub mod sketch;
pub mod table;
pub mod timeliness;
