//! What the integration tests stand on: the real parts started once, a space of its own for each test,
//! a generator that knows the truth, the naive recount of it, and the comparison with what SQL says.

pub mod agent;
pub mod compare;
pub mod dead_letters;
pub mod expect;
pub mod fault_proxy;
pub mod flood;
pub mod generator;
pub mod group;
pub mod message;
pub mod parts;
pub mod ports;
pub mod probe;
pub mod process;
pub mod publish;
pub mod random;
pub mod readings;
pub mod recount;
pub mod rubbish;
pub mod space;
pub mod sql;
pub mod summaries;
pub mod tables;
pub mod wire;

use std::path::Path;
use std::time::{Duration, Instant};

/// The repository, wherever the test is run from.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Between two looks at a condition: short beside every flush interval, long beside a query.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Waits until `condition` gives something; the only pause in these tests.
///
/// # Panics
/// When the deadline passes first, with what was waited for and `state` as the condition left it.
pub fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<T, String>,
) -> T {
    let started = Instant::now();
    loop {
        match condition() {
            Ok(found) => return found,
            Err(state) if started.elapsed() > deadline => {
                panic!("{what}: not within {deadline:?}; last seen: {state}")
            }
            Err(_) => std::thread::park_timeout(LOOK_AGAIN),
        }
    }
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, deadline, || {
        condition().then_some(()).ok_or_else(String::new)
    });
}
