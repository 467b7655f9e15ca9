//! ClickHouse: its tables, the one insert that exactness rests on, and what is read back.
//!
//! [`migrate`] makes the tables; [`columns`] names their columns, [`rows`] and [`native`] make a block of a flush,
//! [`insert`] sends it behind its guard, [`ledger`] reads what really is there and [`marks`] what came of each producer, [`audit`] checks it all. [`deployments`] is the one
//! table without a ledger; [`deadline`] is how long any answer is waited for.
pub mod audit;
pub mod columns;
pub mod deadline;
pub mod deployments;
pub mod gap;
pub mod insert;
pub mod ledger;
pub mod marks;
pub mod migrate;
pub mod native;
pub mod rows;
