//! The sketch against the engine: states that the product writes, merged by ClickHouse, give percentiles
//! within 1 % of the exact ones, for any cut into windows and any order of merging.

use std::io::Read;

use modelmeter::core::sketch::Sketch;

use crate::support::expect::Expect;
use crate::support::parts;
use crate::support::random::{self, Random};
use crate::support::recount::{QUANTILES, percentile};
use crate::support::sql::Sql;

const STATE: &str = "AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64)";

/// Each a data set, a cut and an order of its own.
const N_CASES: usize = 120;

/// The YCSB trace: microseconds, and the second in which each was read.
fn ycsb() -> Vec<(u64, u64)> {
    let file = crate::support::root().join("tests/data/ycsb_read_latency_us.csv.gz");
    let file = std::fs::File::open(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut text = String::new();
    flate2::read::GzDecoder::new(file)
        .read_to_string(&mut text)
        .expect("gzip");
    let mut values = Vec::new();
    for line in text.lines().skip(1) {
        let mut columns = line.split(',');
        let mut number = || {
            columns
                .next()
                .expect("four columns")
                .parse::<f64>()
                .expect("a number")
        };
        let (second, _interval, value, count) = (number(), number(), number(), number());
        values.extend(std::iter::repeat_n(
            (second as u64, value as u64),
            count as usize,
        ));
    }
    assert_eq!(values.len(), 300_056, "the whole trace");
    values
}

/// Values of one case, and the window that each falls into.
fn values(random: &mut Random, trace: &[(u64, u64)], case: usize) -> Vec<(u64, u64)> {
    if case % 30 == 29 {
        // More in one bin than sixteen bits count, in one window and by merging; with what is beyond them
        // lost, the three values would weigh the same and the median would be another.
        let n_windows = random.between(1, 4).unsigned_abs();
        let value = |n| match n % 36 {
            0..20 => 1_000,
            20..28 => 50_000,
            _ => 900_000,
        };
        return (0..360_000).map(|n| (n % n_windows, value(n))).collect();
    }
    let n = *random.pick(&[1, 2, 3, 10, 100, 3000, 12_000]);
    let n_windows = random.between(1, 40).unsigned_abs();
    let mut draw: Box<dyn FnMut(&mut Random) -> u64> = match case % 5 {
        0 => Box::new(|r| r.log_normal(80_000.0, 1.0).unsigned_abs()),
        1 => Box::new(|r| {
            let median = if r.chance(0.7) { 900.0 } else { 2_500_000.0 };
            r.log_normal(median, 0.1).unsigned_abs()
        }),
        // Pareto with exponent 1: no mean at all, and values up to where an i64 ends.
        2 => Box::new(|r| (1_000.0 / (1.0 - r.unit())).min(9.2e18) as u64),
        3 => Box::new(|r| *r.pick(&[0, 1, 2, 3, 63, 64, 65, 1_000_000, i64::MAX as u64])),
        _ => return slice(random, trace),
    };
    (0..n)
        .map(|_| (random.next() % n_windows, draw(random)))
        .collect()
}

/// A stretch of the trace in windows of as many seconds as chance will have it.
fn slice(random: &mut Random, trace: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let length = random.between(100, 40_000) as usize;
    let from = random.between(0, (trace.len() - length) as i64) as usize;
    let window = random.between(1, 60).unsigned_abs();
    trace[from..from + length]
        .iter()
        .map(|(second, value)| (second / window, *value))
        .collect()
}

/// The windows' sketches: filled in any order, some of them merged beforehand, in any order.
fn sketches(random: &mut Random, values: &[(u64, u64)]) -> Vec<Sketch> {
    let mut shuffled = values.to_vec();
    random.shuffle(&mut shuffled);
    let mut windows: std::collections::BTreeMap<u64, Sketch> = std::collections::BTreeMap::new();
    for (window, value) in shuffled {
        windows.entry(window).or_default().insert(value);
    }
    let mut sketches: Vec<_> = windows.into_values().collect();
    random.shuffle(&mut sketches);
    let mut merged: Vec<Sketch> = Vec::new();
    for sketch in sketches {
        if !merged.is_empty() && random.chance(0.3) {
            let into = random.between(0, merged.len() as i64) as usize;
            merged[into].merge(&sketch);
        } else {
            merged.push(sketch);
        }
    }
    if random.chance(0.2) {
        merged.push(Sketch::default());
    }
    merged
}

/// One block in ClickHouse's Native format: a case's number and a state a row.
fn native_block(rows: &mut [(u32, Sketch)]) -> Vec<u8> {
    let mut block = Vec::new();
    let varint = |block: &mut Vec<u8>, mut n: usize| {
        while n >= 0x80 {
            block.push(n as u8 | 0x80);
            n >>= 7;
        }
        block.push(n as u8);
    };
    varint(&mut block, 2);
    varint(&mut block, rows.len());
    for (name, of) in [("number", "UInt32"), ("state", STATE)] {
        for text in [name, of] {
            varint(&mut block, text.len());
            block.extend(text.as_bytes());
        }
        match of {
            "UInt32" => rows
                .iter()
                .for_each(|(number, _)| block.extend(number.to_le_bytes())),
            _ => rows
                .iter_mut()
                .for_each(|(_, sketch)| sketch.encode_state(&mut block)),
        }
    }
    block
}

#[test]
fn merged_states_give_percentiles_within_one_percent() {
    let mut random = Random::new(random::seed("sketches"));
    let trace = ycsb();
    let database = "sketches";
    Sql::new(&parts::shared().clickhouse, "default")
        .execute(&format!("CREATE DATABASE {database}"));
    let sql = Sql::new(&parts::shared().clickhouse, database);
    sql.execute(&format!(
        "CREATE TABLE states (number UInt32, state {STATE}) ENGINE = MergeTree ORDER BY tuple()"
    ));
    let mut cases: Vec<_> = (0..N_CASES)
        .map(|case| values(&mut random, &trace, case))
        .collect();
    cases.push(trace);
    let mut rows: Vec<(u32, Sketch)> = Vec::new();
    for (number, values) in cases.iter().enumerate() {
        rows.extend(
            sketches(&mut random, values)
                .into_iter()
                .map(|sketch| (number as u32, sketch)),
        );
    }
    random.shuffle(&mut rows);
    for part in rows.chunks_mut(700) {
        sql.insert("INSERT INTO states FORMAT Native", &native_block(part));
    }
    let answers = sql.rows(
        "SELECT number, arrayMap(x -> toFloat64(x), quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(state)) AS q
         FROM states GROUP BY number ORDER BY number",
    );
    assert_eq!(answers.len(), cases.len());
    for (answer, values) in answers.iter().zip(cases) {
        let mut values: Vec<i64> = values.iter().map(|(_, value)| *value as i64).collect();
        for (index, (label, quantile)) in QUANTILES.iter().enumerate() {
            let expected: Expect = percentile(&mut values, *quantile);
            let got = &answer["q"][index];
            assert!(
                expected.met_by(got, 1.0),
                "case {}: {label} {got}, expected {expected:?}",
                answer["number"]
            );
        }
    }
}
