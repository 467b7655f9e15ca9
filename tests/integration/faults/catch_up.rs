//! How fast a processor catches up after an outage, beside the pace at which the load had come. It asserts no time.

use std::time::{Duration, Instant};

use crate::support::parts::Parts;
use crate::support::random;
use crate::support::space::Space;

use super::load::{EVENTS_OF_A_ROUND, Load};

/// Without `OUTAGE`: seconds without the engine, while the load goes on.
const OUTAGE_S: usize = 30;

/// Rounds of the load a second: some 2,500 events in batches of 20, and as many samples as batches.
const ROUNDS_A_SECOND: u32 = 10;

#[test]
#[ignore = "an outage's length: `make attack-test`"]
fn an_outage_is_caught_up_with() {
    let outage = Duration::from_secs(random::number("OUTAGE", OUTAGE_S) as u64);
    let mut parts = Parts::start();
    let space = Space::on(&parts.addresses());
    let mut load = Load::new("catch up", &space);
    let mut processor = space.processor(&[]);
    load.publish(1);
    load.wait_until_right(&space, &mut [&mut processor]);
    parts.engine.kill();
    let began = Instant::now();
    let mut n_rounds = 0_u32;
    while began.elapsed() < outage {
        load.publish(1);
        n_rounds += 1;
        let due = began + Duration::from_secs(1) / ROUNDS_A_SECOND * n_rounds;
        while let Some(left) = due.checked_duration_since(Instant::now()) {
            // the pace of the load, not a wait for something to have happened
            std::thread::park_timeout(left);
        }
    }
    let lasted = began.elapsed();
    parts.restart_engine();
    let back = Instant::now();
    space.wait_until_counted(&load.ends(), &mut [&mut processor]);
    let took = back.elapsed();
    load.wait_until_right(&space, &mut [&mut processor]);
    let live = f64::from(n_rounds) * EVENTS_OF_A_ROUND as f64 / lasted.as_secs_f64();
    let ratio = lasted.as_secs_f64() / took.as_secs_f64();
    println!(
        "catch up: {live:.0} events/s for {:.0} s, caught up with in {:.1} s: {ratio:.1} times as fast",
        lasted.as_secs_f64(),
        took.as_secs_f64()
    );
}
