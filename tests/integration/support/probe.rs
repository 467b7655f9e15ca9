//! What a processor says of itself at its probes.

use super::space::CATCH_UP;
use super::{sql, wait_for};

/// Status and body of a GET; none while nobody answers.
pub fn get(address: &str, path: &str) -> Option<(u16, String)> {
    sql::get(address.strip_prefix("http://")?, path).ok()
}

/// The sum of a metric over the lines that contain all of these labels.
pub fn metric(text: &str, name: &str, labels: &[&str]) -> f64 {
    text.lines()
        .filter(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// The same, asked now.
pub fn metric_of(address: &str, name: &str, labels: &[&str]) -> f64 {
    let (_, text) = get(address, "/metrics").expect("the processor answers");
    metric(&text, name, labels)
}

pub fn wait_until_ready(address: &str) {
    wait_for("the processor is ready", CATCH_UP, || {
        match get(address, "/readyz") {
            Some((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// Waits until it is not ready and says this; gives all that it says.
pub fn wait_for_alarm(address: &str, words: &str) -> String {
    wait_for("the alarm is told", CATCH_UP, || {
        match get(address, "/readyz") {
            Some((503, text)) if text.contains(words) => Ok(text),
            other => Err(format!("{other:?}")),
        }
    })
}
