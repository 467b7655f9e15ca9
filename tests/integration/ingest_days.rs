//! Which days' partitions a view opens: none before its range, and all after, where late events lie. A row in a partition
//! that no processor would have put it in tells whether that one was opened.

use clickhouse::Client;
use modelmeter::store::migrate::apply::{self, record_statement};
use modelmeter::store::migrate::files::{BOOKKEEPING, MIGRATIONS, Target};

use crate::engine::{execute, migrated, new_database, number, rows, whole};

const DAY: u64 = 86_400;

/// Windows of one width, and what their rows are dated by.
#[derive(Debug, Clone, Copy)]
struct Tier {
    name: &'static str,
    width: u64,
    dated: &'static str,
}

const TIERS: [Tier; 3] = [
    Tier {
        name: "10s",
        width: 10,
        dated: "toDate",
    },
    Tier {
        name: "1m",
        width: 60,
        dated: "toDate",
    },
    Tier {
        name: "1h",
        width: 3600,
        dated: "toStartOfMonth",
    },
];

impl Tier {
    /// The beginning of a past partition: young enough to be kept, old enough to lie before the edge to the 10 s windows.
    async fn midnight(self, client: &Client) -> u64 {
        let of_past = format!(
            "{}(now('UTC') - INTERVAL {})",
            self.dated,
            if self.width == 3600 {
                "1 MONTH"
            } else {
                "1 DAY"
            }
        );
        let sql = format!("SELECT toUnixTimestamp(toDateTime({of_past}, 'UTC')) AS at");
        whole(&rows(client, &sql).await[0], "at")
    }
}

/// One window of a tier, stored on the day of `stored_at`: `n` requests, and `n` replicas that were active all the time.
async fn store(client: &Client, tier: Tier, at: u64, stored_at: u64, n: u64) {
    let Tier { name, width, dated } = tier;
    let window = at / width * width;
    let day = format!("{dated}(toDateTime({stored_at}, 'UTC'))");
    execute(
        client,
        &format!(
            "INSERT INTO requests_{name} (ingested, deployment_id, window_start, kafka_partition, ledger, requests, end_to_end) \
             SELECT {day}, 'd', {window}, 0, '', {n}, arrayReduce('quantilesDDState(0.01, 0.5, 0.9, 0.95, 0.99)', [1000.])"
        ),
    )
    .await;
    execute(
        client,
        &format!(
            "INSERT INTO replicas_{name} (ingested, deployment_id, replica_id, window_start, kafka_partition, ledger, active_us) \
             SELECT {day}, 'd', concat('{n}-', toString(number)), {window}, 0, '', {width} * 1000000 FROM numbers({n})"
        ),
    )
    .await;
}

/// What each view counts in the whole of the range.
async fn counted(client: &Client, start: u64, stop: u64, step: u64) -> [u64; 5] {
    let mut found = [0; 5];
    for (of_view, (view, sum)) in found.iter_mut().zip([
        ("inference_volume", "sum(requests)"),
        ("response_time", "sum(requests)"),
        ("replicas", "round(sum(active))"),
        ("cpu", "sum(replicas)"),
        ("gpu", "sum(replicas)"),
    ]) {
        let sql = format!(
            "SELECT toUInt64({sum}) AS n FROM {view}(deployment = 'd', start = {start}, stop = {stop}, step = {step})"
        );
        *of_view = whole(&rows(client, &sql).await[0], "n");
    }
    found
}

#[tokio::test]
async fn late_rows_are_read_from_later_days_and_earlier_days_stay_shut() {
    for tier in TIERS {
        let client = migrated().await;
        let midnight = tier.midnight(&client).await;
        let noon = midnight + DAY / 2;
        // a day later is the same month's, so that the 1 h rows of both stand in one partition
        for (stored_at, n) in [(noon - DAY, 1), (noon, 2), (noon + DAY, 4)] {
            store(&client, tier, noon, stored_at, n).await;
        }
        if tier.width == 3600 {
            store(&client, tier, noon, noon + 40 * DAY, 8).await;
        } else {
            store(&client, tier, noon, noon + 2 * DAY, 8).await;
        }
        let found = counted(&client, noon, noon + 1, tier.width).await;
        assert_eq!(found, [14; 5], "{tier:?}");
    }
}

/// A step that begins in the month before may hold rows of that month.
#[tokio::test]
async fn a_range_is_aligned_before_it_is_bounded() {
    let client = migrated().await;
    let tier = TIERS[2];
    let midnight = tier.midnight(&client).await;
    let step = (2..10)
        .map(|n| n * DAY)
        .find(|step| midnight / step * step < midnight);
    let step = step.expect("no day is a multiple of all");
    store(&client, tier, midnight - DAY / 2, midnight - DAY / 2, 3).await;
    let found = counted(&client, midnight, midnight + 1, step).await;
    assert_eq!(
        [found[0], found[1], found[3], found[4]],
        [3; 4],
        "{found:?}"
    );
}

#[tokio::test]
async fn an_event_of_a_clock_ahead_is_found_on_the_day_before_its_own() {
    for tier in TIERS {
        let client = migrated().await;
        let midnight = tier.midnight(&client).await;
        // 5 min ahead of the broker's clock, and that one half an hour ahead of the processor's
        store(&client, tier, midnight + 290, midnight - 1800, 3).await;
        let found = counted(&client, midnight + 290, midnight + 300, tier.width).await;
        assert_eq!(found, [3; 5], "{tier:?}");
    }
}

#[tokio::test]
async fn a_range_may_begin_with_1970() {
    let client = migrated().await;
    let midnight = TIERS[2].midnight(&client).await;
    store(&client, TIERS[2], midnight, midnight, 5).await;
    // ten days as a step align the start to 0
    let found = counted(&client, 10_000, midnight + DAY, 10 * DAY).await;
    assert_eq!(
        [found[0], found[1], found[3], found[4]],
        [5; 4],
        "{found:?}"
    );
}

#[tokio::test]
async fn an_older_database_gets_the_views_anew_and_keeps_its_rows() {
    let address = new_database();
    let client = address.client();
    let server = client.clone().with_database("default");
    execute(&server, &format!("CREATE DATABASE {}", address.database)).await;
    let target = Target::single_with_all_settings();
    for migration in [BOOKKEEPING].iter().chain(&MIGRATIONS[..10]) {
        for statement in migration.statements(&target) {
            execute(&client, &statement).await;
        }
        if migration.version > 0 {
            execute(&client, &record_statement(migration)).await;
        }
    }
    let at = TIERS[0].midnight(&client).await;
    store(&client, TIERS[0], at, at, 5).await;
    let report = apply::up(&address).await.expect("applies");
    assert_eq!(
        report.applied_now,
        ["0011_request_views_by_day", "0012_replica_views_by_day"]
    );
    assert_eq!(counted(&client, at, at + 10, 10).await, [5; 5]);
    let view = format!(
        "inference_volume(deployment = 'd', start = {at}, stop = {}, step = 10)",
        at + 10
    );
    let row = &rows(&client, &format!("SELECT rps_client_gone FROM {view}")).await[0];
    assert_eq!(number(row, "rps_client_gone"), Some(0.0));
}
