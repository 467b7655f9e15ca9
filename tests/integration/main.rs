//! The one integration binary: every test here runs against the real broker and the real engine.

mod support;

mod crash;
mod evolution;
mod hand_counted;
mod producer;
mod queries;
mod sketches;
mod truth;
mod wire_agreement;
