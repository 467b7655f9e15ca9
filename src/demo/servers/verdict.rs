//! Holds what the clients saw against what SQL says of the same deployments: requests by class, in the public view and by
//! replica; how they ended; the states that the replicas went through.

use serde::Deserialize;

use super::load::Counted;
use super::play::Played;

#[derive(Debug, thiserror::Error)]
pub enum VerdictError {
    #[error("ClickHouse does not answer about the model servers")]
    Read(#[from] clickhouse::error::Error),
}

/// A relative error of 1 % that a percentile may have, and a little more.
const SKETCH_ERROR: f64 = 0.98;

/// Beyond every sample's and every request's time.
const UNTIL_S: i64 = 4_000_000_000;

/// Numbers of one row, in the order of the words that they are for.
#[derive(Debug, clickhouse::Row, Deserialize)]
struct Numbers {
    numbers: Vec<u64>,
}

#[derive(Debug, clickhouse::Row, Deserialize)]
struct OfReplica {
    replica: String,
    numbers: Vec<u64>,
}

#[derive(Debug, clickhouse::Row, Deserialize)]
struct Ratios {
    numbers: Vec<f64>,
}

/// What requests are counted by, as [`by_class`] gives it.
const CLASSES: [&str; 6] = ["requests", "2xx", "4xx", "5xx", "other", "client_gone"];

const fn by_class(seen: &Counted) -> [u64; 6] {
    [
        seen.requests,
        seen.status_2xx,
        seen.status_4xx,
        seen.status_5xx,
        seen.status_other,
        seen.client_gone,
    ]
}

/// How they ended, as [`by_end`] gives it.
const ENDS: [&str; 4] = ["completed", "timed_out", "aborted", "refused"];

const fn by_end(seen: &Counted) -> [u64; 4] {
    [seen.completed, seen.timed_out, seen.aborted, seen.refused]
}

/// Every number of SQL that is not what was seen, in words.
///
/// # Errors
/// When ClickHouse does not answer.
pub async fn differences(
    client: &clickhouse::Client,
    played: &[Played],
    began_s: i64,
) -> Result<Vec<String>, VerdictError> {
    let mut all = Vec::new();
    for one in played {
        let found = of_deployment(client, one, began_s).await?;
        all.extend(
            found
                .into_iter()
                .map(|text| format!("{}: {text}", one.deployment.id)),
        );
    }
    Ok(all)
}

async fn of_deployment(
    client: &clickhouse::Client,
    played: &Played,
    began_s: i64,
) -> Result<Vec<String>, VerdictError> {
    let mut wrong = Wrong(Vec::new());
    let total = total(played);
    if !played.is_whole {
        wrong.say("it was not played to its end");
    }
    if let Some(why) = &total.unanswered {
        wrong.say(&format!("a request had no answer: {why}"));
    }
    wrong.numbers(
        "inference_volume",
        &CLASSES,
        &volume(client, played, began_s).await?,
        &by_class(&total),
    );
    wrong.numbers(
        "requests_10s",
        &ENDS,
        &ends(client, played, began_s).await?,
        &by_end(&total),
    );
    for (replica, seen) in &played.counted {
        let found = of_replica(client, played, replica).await?;
        wrong.numbers(replica, &CLASSES, &found, &by_class(seen));
    }
    wrong.states(&states(client, played).await?, played);
    wrong.whole(&whole(client, played, began_s).await?, played);
    Ok(wrong.0)
}

fn total(played: &Played) -> Counted {
    let mut total = Counted::default();
    for one in played.counted.values() {
        for (sum, n) in [
            (&mut total.requests, one.requests),
            (&mut total.status_2xx, one.status_2xx),
            (&mut total.status_4xx, one.status_4xx),
            (&mut total.status_5xx, one.status_5xx),
            (&mut total.status_other, one.status_other),
            (&mut total.client_gone, one.client_gone),
            (&mut total.completed, one.completed),
            (&mut total.timed_out, one.timed_out),
            (&mut total.aborted, one.aborted),
            (&mut total.refused, one.refused),
        ] {
            *sum += n;
        }
        total.unanswered = total.unanswered.or_else(|| one.unanswered.clone());
    }
    total
}

/// Says what was seen, and is in every table.
pub fn tell(played: &[Played]) {
    for one in played {
        let seen = total(one);
        println!(
            "demo: checked: {}: {} requests to {} replicas ({} 2xx, {} 4xx of which {} left, {} 5xx, {} cut off), and what their \
             servers went through, as their clients saw it",
            one.deployment.id,
            seen.requests,
            one.counted.len(),
            seen.status_2xx,
            seen.status_4xx,
            seen.client_gone,
            seen.status_5xx,
            seen.aborted
        );
    }
}

/// The public view: a rate times its seconds is a count again.
async fn volume(
    client: &clickhouse::Client,
    played: &Played,
    began_s: i64,
) -> Result<Vec<u64>, clickhouse::error::Error> {
    let count = |class: &str| format!("toUInt64(round(sum(rps_{class} * seconds)))");
    let query = format!(
        "SELECT [toUInt64(sum(requests)), {}, {}, {}, {}, toUInt64(sum(client_gone))] AS numbers \
         FROM inference_volume(deployment = ?, start = ?, stop = ?, step = 10)",
        count("2xx"),
        count("4xx"),
        count("5xx"),
        count("other")
    );
    let query = client.query(&query).bind(played.deployment.id);
    let found: Numbers = query.bind(began_s).bind(UNTIL_S).fetch_one().await?;
    Ok(found.numbers)
}

async fn of_replica(
    client: &clickhouse::Client,
    played: &Played,
    replica: &str,
) -> Result<Vec<u64>, clickhouse::error::Error> {
    let query = "SELECT [sum(requests), sum(status_2xx), sum(status_4xx), sum(status_5xx), sum(status_other), sum(client_gone)] \
                 AS numbers FROM requests_by_replica_1m WHERE deployment_id = ? AND replica_id = ?";
    let query = client.query(query).bind(played.deployment.id);
    let found: Numbers = query.bind(replica).fetch_one().await?;
    Ok(found.numbers)
}

async fn ends(
    client: &clickhouse::Client,
    played: &Played,
    began_s: i64,
) -> Result<Vec<u64>, clickhouse::error::Error> {
    let query = "SELECT [sum(completed), sum(timed_out), sum(aborted), sum(refused)] AS numbers \
                 FROM requests_10s WHERE deployment_id = ? AND window_start >= intDiv(?, 10) * 10";
    let query = client.query(query).bind(played.deployment.id);
    let found: Numbers = query.bind(began_s).fetch_one().await?;
    Ok(found.numbers)
}

/// Of each replica: restarts, samples, and microseconds in the four states.
async fn states(
    client: &clickhouse::Client,
    played: &Played,
) -> Result<Vec<OfReplica>, clickhouse::error::Error> {
    let query = "SELECT replica_id AS replica, [max(restarts_max), sum(samples), sum(waiting_us), sum(loading_us), \
                 sum(active_us), sum(stopping_us)] AS numbers \
                 FROM replicas_10s WHERE deployment_id = ? AND replica_id IN ? GROUP BY replica_id";
    let replicas: Vec<&str> = played.counted.keys().map(String::as_str).collect();
    let query = client.query(query).bind(played.deployment.id);
    query.bind(replicas).fetch_all().await
}

/// What charts show of the deployment as a whole: the most replicas that were active, memory, and the slowest p99.
async fn whole(
    client: &clickhouse::Client,
    played: &Played,
    began_s: i64,
) -> Result<[f64; 3], clickhouse::error::Error> {
    let mut found = [0.0; 3];
    for (number, (column, view)) in found.iter_mut().zip([
        ("active", "replicas"),
        ("memory_bytes_max", "cpu"),
        ("inference_p99_ms", "response_time"),
    ]) {
        let query = format!(
            "SELECT [toFloat64(ifNull(max({column}), 0))] AS numbers FROM {view}(deployment = ?, start = ?, stop = ?, step = 10)"
        );
        let query = client.query(&query).bind(played.deployment.id);
        let row: Ratios = query.bind(began_s).bind(UNTIL_S).fetch_one().await?;
        *number = row.numbers.first().copied().unwrap_or(0.0);
    }
    Ok(found)
}

/// What is wrong so far.
struct Wrong(Vec<String>);

impl Wrong {
    fn say(&mut self, what: &str) {
        self.0.push(what.to_owned());
    }

    fn number(&mut self, place: &str, name: &str, found: u64, seen: u64) {
        if found != seen {
            self.0
                .push(format!("{place}: {name} is {found}, seen were {seen}"));
        }
    }

    fn numbers(&mut self, place: &str, names: &[&str], found: &[u64], seen: &[u64]) {
        for (at, name) in names.iter().enumerate() {
            self.number(place, name, found[at], seen[at]);
        }
    }

    fn states(&mut self, found: &[OfReplica], played: &Played) {
        self.number(
            "replicas_10s",
            "replicas",
            found.len() as u64,
            played.counted.len() as u64,
        );
        for one in found {
            let crashes = played.crashes.get(&one.replica).copied().unwrap_or(0);
            let n = |at: usize| one.numbers.get(at).copied().unwrap_or(0);
            self.number(&one.replica, "restarts", n(0), crashes);
            // a replica under development is active while it loads
            let loads = !played.deployment.is_development();
            for (name, is_there, is_expected) in [
                ("samples", n(1) > 0, true),
                ("waiting", n(2) > 0, crashes > 0),
                ("loading", n(3) > 0, loads),
                ("active", n(4) > 0, true),
                ("stopping", n(5) > 0, true),
            ] {
                if is_there != is_expected {
                    let not = if is_expected { "was not" } else { "was" };
                    self.say(&format!("{}: {name} {not} to be seen", one.replica));
                }
            }
        }
    }

    fn whole(&mut self, found: &[f64; 3], played: &Played) {
        let [active, memory, p99_ms] = *found;
        let n_replicas = played.counted.len();
        let together = if n_replicas > 1 { 1.0 } else { 0.0 };
        if active <= together {
            self.say(&format!(
                "{active} replicas were active at most, of {n_replicas}"
            ));
        }
        if memory <= 0.0 {
            self.say("no memory of it was read");
        }
        let slowest_ms = played.slowest.as_secs_f64() * 1e3;
        if p99_ms < slowest_ms * SKETCH_ERROR {
            self.say(&format!(
                "the slowest p99 is {p99_ms} ms, and {slowest_ms} ms were asked for"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::super::fleet;
    use super::*;

    fn played(crashes: u64) -> Played {
        Played {
            deployment: &fleet::ALL[0],
            counted: BTreeMap::from([("r".to_owned(), Counted::default())]),
            crashes: BTreeMap::from([("r".to_owned(), crashes)]),
            slowest: Duration::from_secs(2),
            is_whole: true,
        }
    }

    fn wrong(judge: impl FnOnce(&mut Wrong)) -> Vec<String> {
        let mut wrong = Wrong(Vec::new());
        judge(&mut wrong);
        wrong.0
    }

    #[test]
    fn states_are_those_that_were_to_be_seen() {
        // restarts, samples, waiting, loading, active, stopping
        let found = |numbers: [u64; 6]| {
            [OfReplica {
                replica: "r".to_owned(),
                numbers: numbers.to_vec(),
            }]
        };
        let none = wrong(|it| it.states(&found([1, 9, 1, 1, 1, 1]), &played(1)));
        assert_eq!(none, Vec::<String>::new());
        let unseen = wrong(|it| it.states(&found([0, 9, 0, 1, 1, 0]), &played(1)));
        assert_eq!(unseen.len(), 3, "{unseen:?}");
        let never_crashed = wrong(|it| it.states(&found([0, 9, 1, 1, 1, 1]), &played(0)));
        assert_eq!(never_crashed, ["r: waiting was to be seen"]);
        assert_eq!(wrong(|it| it.states(&[], &played(0))).len(), 1);
    }

    #[test]
    fn numbers_that_differ_are_told() {
        let seen = by_class(&Counted {
            requests: 2,
            ..Counted::default()
        });
        let told = wrong(|it| it.numbers("v", &CLASSES, &[3, 0, 0, 0, 0, 0], &seen));
        assert_eq!(told, ["v: requests is 3, seen were 2"]);
        // the slowest answer had been asked to take two seconds
        assert!(wrong(|it| it.whole(&[1.0, 1.0, 1990.0], &played(0))).is_empty());
        assert_eq!(
            wrong(|it| it.whole(&[0.0, 0.0, 1900.0], &played(0))).len(),
            3
        );
    }
}
