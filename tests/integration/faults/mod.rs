//! Faults that strike once and at a known moment, each with the truth beside it: after every one of them each table holds
//! each message once, or a counter or an alarm says why not. What strikes at random is [`crate::crash`]'s.

mod cardinality;
mod catch_up;
mod history;
mod ledgers;
mod load;
mod outages;
mod store;
mod syscalls;
mod topics;
