//! What the numbers are: events, windows, sketches, rollups and their merge laws. No clock, no I/O.
pub mod sketch;
