//! Many seeds, and the bugs that they must find.

use std::time::Instant;

use super::{Defect, Seen, run};

/// Histories in every run of the tests: half a minute of CPU. `make simulate` runs as many as are wished for.
const SEEDS: u64 = 2_000;

/// A bug that is put in is found within this many histories.
const SEEDS_PER_DEFECT: u64 = 100;

/// Runs the seeds, on both halves of the machine at once.
fn run_all(first: u64, n: u64) -> Seen {
    let half = |from: u64| {
        let mut all = Seen::default();
        for seed in (first + from..first + n).step_by(2) {
            match run(seed, None) {
                Ok(seen) => all.add(&seen),
                Err(failure) => {
                    panic!("seed {seed}: {failure}\n`make simulate SEED={seed} SEEDS=1` repeats it")
                }
            }
        }
        all
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        let mut all = half(0);
        match other.join() {
            Ok(seen) => all.add(&seen),
            Err(panic) => std::panic::resume_unwind(panic),
        }
        all
    })
}

impl Seen {
    const fn add(&mut self, other: &Self) {
        self.n_fenced += other.n_fenced;
        self.n_cut += other.n_cut;
        self.n_crashes += other.n_crashes;
        self.met.landed += other.met.landed;
        self.met.refused += other.met.refused;
        self.met.busy += other.met.busy;
        self.met.lost += other.met.lost;
        self.met.doubled += other.met.doubled;
        self.met.delayed += other.met.delayed;
        self.met.lies += other.met.lies;
        self.met.set_back += other.met.set_back;
    }
}

#[test]
fn every_history_ends_with_each_message_once() {
    let Seen {
        met,
        n_fenced,
        n_cut,
        n_crashes,
    } = run_all(0, SEEDS);
    // histories in which nothing happens prove nothing
    let all = [
        ("crashes", n_crashes),
        ("fenced", n_fenced),
        ("cuts of a replay", n_cut),
        ("landed", met.landed),
        ("refused by a guard", met.refused),
        ("busy", met.busy),
        ("lost", met.lost),
        ("doubled", met.doubled),
        ("delayed", met.delayed),
        ("lies", met.lies),
        ("set back", met.set_back),
    ];
    for (what, n) in all {
        assert!(n as u64 > SEEDS / 10, "only {n} {what}");
    }
}

#[test]
fn a_seed_repeats_its_history() {
    let told = |seed| format!("{:?}", run(seed, None).expect("it ends well"));
    assert_eq!(told(11), told(11));
    assert_ne!(told(11), told(12));
}

/// As many as are asked for by the environment; for `make simulate`.
#[test]
#[ignore = "as long as is wished for; make simulate runs it"]
fn as_many_as_are_wished_for() {
    let (first, n) = (given("SEED").unwrap_or(0), given("SEEDS").unwrap_or(10_000));
    let started = Instant::now();
    let seen = run_all(first, n);
    println!(
        "{n} histories from seed {first} in {:.1?}: {seen:?}",
        started.elapsed()
    );
}

fn given(name: &str) -> Option<u64> {
    #[allow(
        clippy::disallowed_methods,
        reason = "a test's seed is no configuration of the product"
    )]
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

/// Some history fails with the defect, and only because of it.
fn is_found(defect: Defect) {
    let found = (0..SEEDS_PER_DEFECT).find_map(|seed| Some((seed, run(seed, Some(defect)).err()?)));
    let Some((seed, failure)) = found else {
        panic!("{defect:?} is not found by {SEEDS_PER_DEFECT} histories");
    };
    println!("{defect:?}: {failure}, at the seed {seed}");
    assert!(run(seed, None).is_ok(), "seed {seed} fails without it");
}

#[test]
fn a_dropped_guard_is_found() {
    is_found(Defect::NoGuard);
}

#[test]
fn a_dropped_ledger_row_is_found() {
    is_found(Defect::NoLedgerRow);
}

#[test]
fn a_believed_answer_is_found() {
    is_found(Defect::BelieveTheAnswer);
}

#[test]
fn a_table_that_starts_at_anothers_ledger_is_found() {
    is_found(Defect::StartAtAnothersLedger);
}

#[test]
fn a_flush_in_two_inserts_is_found() {
    is_found(Defect::SplitFlush);
}

#[test]
fn two_writers_at_once_are_found() {
    is_found(Defect::TwoWritersAtOnce);
}

#[test]
fn forgotten_marks_are_found() {
    is_found(Defect::NoMarks);
}

#[test]
fn marks_of_another_offset_are_found() {
    is_found(Defect::MarksOfTheEnd);
}
