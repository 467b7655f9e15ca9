//! Holds what a view answers against the recount, and has what every comparison needs.

use super::expect::{self, Rows};
use super::generator::SECOND;
use super::recount::{Question, Truth};
use super::space::Space;
use super::sql::Record;

/// Differences that a failure shows; the first few say it all.
const SHOWN: usize = 12;

pub const VIEWS: [&str; 5] = [
    "inference_volume",
    "response_time",
    "replicas",
    "cpu",
    "gpu",
];

fn recounted(truth: &Truth<'_>, view: &str, question: &Question<'_>) -> Rows {
    match view {
        "inference_volume" => truth.inference_volume(question),
        "response_time" => truth.response_time(question),
        "replicas" => truth.replicas(question),
        "cpu" => truth.cpu(question),
        _ => truth.gpu(question),
    }
}

/// One view's answer to one question against the recount's.
///
/// # Errors
/// The differences, in words.
pub fn view(
    space: &Space,
    truth: &Truth<'_>,
    name: &str,
    question: &Question<'_>,
) -> Result<usize, String> {
    let Question {
        deployment,
        start,
        stop,
        step,
    } = question;
    let query = format!(
        "SELECT toUnixTimestamp(t) AS at, * FROM {name}(deployment = '{deployment}', start = {start}, stop = {stop}, step = {step})"
    );
    let before = modelmeter::clock::now_us() / SECOND;
    let rows = space
        .sql
        .try_rows(&query)
        .map_err(|e| format!("{query}: {e}"))?;
    let after = modelmeter::clock::now_us() / SECOND;
    let mut expected = recounted(truth, name, question);
    let mut wrong = Vec::new();
    let total = rows.len();
    for row in &rows {
        let t = integer(row, "at") as i64;
        let seconds = row["seconds"].as_f64().unwrap_or(f64::NAN);
        // The view reads the clock at a moment between ours.
        let span = |now: i64| ((t + step).min(now) - t).max(1) as f64;
        if !(span(before)..=span(after)).contains(&seconds) {
            wrong.push(format!(
                "{t}: {seconds} seconds, expected {} to {}",
                span(before),
                span(after)
            ));
        }
        match expected.remove(&t) {
            None => wrong.push(format!("{t} should not be there: {row:?}")),
            Some(expected) => {
                // Nothing may stand beside what the contract names.
                let known = |c: &&String| {
                    expected.contains_key(*c) || ["t", "at", "seconds"].contains(&c.as_str())
                };
                wrong.extend(
                    row.keys()
                        .filter(|c| !known(c))
                        .map(|c| format!("{t}: unknown column {c}")),
                );
                wrong.extend(
                    expect::compare(row, &expected, seconds)
                        .err()
                        .map(|e| format!("{t}: {e}")),
                );
            }
        }
    }
    wrong.extend(
        expected
            .iter()
            .map(|(t, row)| format!("{t} is missing: {row:?}")),
    );
    verdict(&query, &wrong)?;
    Ok(total)
}

pub(super) fn tier(table: &str) -> i64 {
    match table.rsplit('_').next() {
        Some("10s") => 10,
        Some("1m") => 60,
        _ => 3600,
    }
}

pub(super) fn integer(row: &Record, column: &str) -> u64 {
    row[column]
        .as_u64()
        .unwrap_or_else(|| panic!("{column} is {} in {row:?}", row[column]))
}

pub(super) fn text(row: &Record, column: &str) -> String {
    row.get(column)
        .and_then(|v| v.as_str())
        .unwrap_or_default()
        .to_owned()
}

pub(super) fn verdict(what: &str, wrong: &[String]) -> Result<(), String> {
    match wrong {
        [] => Ok(()),
        _ => Err(format!(
            "{what}: {} differences\n{}",
            wrong.len(),
            wrong[..wrong.len().min(SHOWN)].join("\n")
        )),
    }
}
