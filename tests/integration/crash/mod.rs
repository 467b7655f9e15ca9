//! The fault bench: a load that knows the truth, two processors that each reach the engine by a proxy of their own,
//! and in each round one fault or two. After each, every table is right and the audit agrees.
//!
//! `ROUNDS` and `SEED` of the environment make it longer and repeat it (`make crash-test`).

mod bench;
mod load;
mod report;
mod strike;

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::support::parts::Parts;
use crate::support::random::{self, Random};

use bench::Bench;
use load::StopOnDrop;
use report::Report;

/// Without `ROUNDS`: each of the faults nearly once.
const ROUNDS: usize = 20;

/// Rounds on the same tables: the recount after each costs more, the longer the log is.
const ROUNDS_A_CHAPTER: usize = 10;

#[test]
fn whatever_dies_nothing_is_lost_and_nothing_doubled() {
    let mut random = Random::new(random::seed("crash"));
    let n_rounds = random::rounds(ROUNDS);
    let is_long = n_rounds > ROUNDS;
    let rounds = strike::rounds(&mut random, n_rounds, is_long);
    let mut report = Report::default();
    let mut parts = Parts::start();
    let started = Instant::now();
    for (chapter, rounds) in rounds.chunks(ROUNDS_A_CHAPTER).enumerate() {
        let load_random = Random::new(random.next());
        let is_named = chapter % 2 == 0;
        let mut bench = Bench::new(&mut parts, &mut random, &mut report, is_named, is_long);
        let stop = AtomicBool::new(false);
        let publisher = bench.publisher();
        std::thread::scope(|scope| {
            scope.spawn(|| load::keep_loading(&publisher, load_random, &stop));
            let _stop = StopOnDrop(&stop);
            bench.begin(&publisher);
            for (n, strikes) in rounds.iter().enumerate() {
                let round = chapter * ROUNDS_A_CHAPTER + n + 1;
                let began = Instant::now();
                bench.round(strikes, &publisher);
                println!(
                    "crash: {round:3} {strikes:?}: right after {:.1} s",
                    began.elapsed().as_secs_f64()
                );
            }
        });
        bench.compare_at_the_end(&publisher);
    }
    report.say(format!(
        "{n_rounds} rounds in {:.0} s",
        started.elapsed().as_secs_f64()
    ));
}
