//! The statements that a panel is read with. The texts are constants: what a caller
//! asks for is bound by ClickHouse as a parameter of its type.
//!
//! They compute what the public views compute, under the same names; a test holds every series against its view. Planning
//! a view costs more than reading it, and each view plans three tiers: a panel asks a statement of volume, of times and of
//! samples, each for the tiers that its step needs.

use super::range::Tier;

/// The columns of a stream's `numbers`, and its statement for each tier.
pub struct Statement {
    pub columns: &'static [&'static str],
    of_tier: [&'static str; 3],
}

impl Statement {
    pub fn sql(&self, tier: Tier) -> &'static str {
        self.of_tier[tier as usize]
    }
}

/// A deployment's rows in the range. The bound of `ingested` opens only the partitions of days that can hold them: an event
/// is stored on its own day or later. A producer's clock may be 5 min ahead of the broker's, and that one ahead of the
/// processor's: an hour leaves room for both and opens one more day at most.
macro_rules! rows {
    ($columns:literal, $stream:literal, $width:literal, $ingested:literal) => {
        rows!($columns, $stream, $width, $ingested, "{start:DateTime}")
    };
    ($columns:literal, $stream:literal, $width:literal, $ingested:literal, $since:literal) => {
        concat!(
            "SELECT ", $columns, " FROM ", $stream, $width,
            " WHERE deployment_id = {deployment:String} AND window_start >= {start:DateTime} AND window_start < {stop:DateTime}",
            " AND ingested >= ", $ingested, "(", $since, " - 3600, 'UTC')",
        )
    };
}

/// `$head` over the rows of each tier and `$tail`. The newest windows come from the 10 s table, since a coarser one is
/// written each minute: the edge is the views', two minutes ago.
macro_rules! of_tiers {
    ($head:literal, $columns:literal, $stream:literal, $tail:literal) => {
        [
            concat!($head, rows!($columns, $stream, "_10s", "toDate"), $tail),
            concat!(
                $head,
                rows!($columns, $stream, "_1m", "toDate"),
                " AND window_start < toStartOfMinute(initialQueryStartTime() - 120, 'UTC') UNION ALL ",
                rows!(
                    $columns,
                    $stream,
                    "_10s",
                    "toDate",
                    "greatest({start:DateTime}, toStartOfMinute(initialQueryStartTime() - 120, 'UTC'))"
                ),
                " AND window_start >= toStartOfMinute(initialQueryStartTime() - 120, 'UTC')",
                $tail
            ),
            concat!(
                $head,
                // dated by the first day of the month
                rows!($columns, $stream, "_1h", "toStartOfMonth"),
                " AND window_start < toStartOfHour(initialQueryStartTime() - 120, 'UTC') UNION ALL ",
                rows!(
                    $columns,
                    $stream,
                    "_10s",
                    "toDate",
                    "greatest({start:DateTime}, toStartOfHour(initialQueryStartTime() - 120, 'UTC'))"
                ),
                " AND window_start >= toStartOfHour(initialQueryStartTime() - 120, 'UTC')",
                $tail
            ),
        ]
    };
}

/// `period` of the range's recent steps and of their total, and of the total of the whole range.
pub const RECENT: u8 = 2;
pub const WHOLE: u8 = 0;

/// View `inference_volume`; with `at` 0 the total of a period, in which a rate is meaningless. `last_us` is no later than
/// the last request: a coarse window counts as if it had ended 10 s after it began.
pub const VOLUME: Statement = Statement {
    columns: &[
        "seconds",
        "requests",
        "rps_2xx",
        "rps_4xx",
        "rps_5xx",
        "rps_other",
        "rps_unclassified",
        "client_gone",
        "rps_client_gone",
        "cold_starts",
        "share_5xx",
    ],
    of_tier: of_tiers!(
        "SELECT period, at, CAST([seconds, n_requests, n_2xx / seconds, n_4xx / seconds, n_5xx / seconds, n_other / seconds,
    n_unclassified / seconds, n_client_gone, n_client_gone / seconds, n_cold_starts, n_5xx / n_requests], 'Array(Nullable(Float64))') AS numbers,
    last_us
FROM
(
    SELECT if(at >= toUnixTimestamp({recent_start:DateTime}) AND at < toUnixTimestamp({recent_stop:DateTime}), 2, 1) AS period,
        toUInt32(intDiv(toUnixTimestamp(window_start), {step:UInt32}) * {step:UInt32}) AS at,
        greatest(1, least(at + {step:UInt32}, toUnixTimestamp(initialQueryStartTime())) - toInt64(at)) AS seconds,
        sum(requests) AS n_requests, sum(status_2xx) AS n_2xx, sum(status_4xx) AS n_4xx, sum(status_5xx) AS n_5xx,
        sum(status_other) AS n_other, sum(unclassified) AS n_unclassified, sum(client_gone) AS n_client_gone,
        sum(cold_starts) AS n_cold_starts, (toUInt64(toUnixTimestamp(max(window_start))) + 10) * 1000000 AS last_us
    FROM
    (
        ",
        "window_start, requests, status_2xx, status_4xx, status_5xx, status_other, unclassified, client_gone, cold_starts",
        "requests",
        "
    )
    GROUP BY period, at WITH ROLLUP
    HAVING n_requests > 0
)"
    ),
};

/// View `response_time` at the latency step, from and to whole ones of it (`start` and `stop`); with `at` 0 the totals of
/// the recent steps and of the whole range (`range_start` to `range_stop`). Sketches are merged to the parts of a step that
/// lie in a period, and these to steps and totals, so that each window's is read once.
pub const TIMES: Statement = Statement {
    columns: &[
        "requests",
        "end_to_end_p50_ms",
        "end_to_end_p90_ms",
        "end_to_end_p95_ms",
        "end_to_end_p99_ms",
        "inference_p50_ms",
        "inference_p90_ms",
        "inference_p95_ms",
        "inference_p99_ms",
        "queue_p50_ms",
        "queue_p90_ms",
        "queue_p95_ms",
        "queue_p99_ms",
    ],
    of_tier: of_tiers!(
        "SELECT period, at, arrayConcat(CAST([sum(n)], 'Array(Nullable(Float64))'), arrayMap(us -> if(isNaN(us), NULL, us / 1000), arrayConcat(
    quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(end_to_end_part), quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(inference_part),
    quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(queue_part)))) AS numbers
FROM
(
    SELECT intDiv(toUnixTimestamp(window_start), {latency_step:UInt32}) * {latency_step:UInt32} AS latency_at,
        multiIf(window_start < {range_start:DateTime} OR window_start >= {range_stop:DateTime}, [1],
            window_start >= {recent_start:DateTime} AND window_start < {recent_stop:DateTime}, [0, 1, 2], [0, 1]) AS periods,
        sum(requests) AS n, quantilesDDMergeState(0.01, 0.5, 0.9, 0.95, 0.99)(end_to_end) AS end_to_end_part,
        quantilesDDMergeState(0.01, 0.5, 0.9, 0.95, 0.99)(inference) AS inference_part,
        quantilesDDMergeState(0.01, 0.5, 0.9, 0.95, 0.99)(queue) AS queue_part
    FROM
    (
        ",
        "window_start, requests, end_to_end, inference, queue",
        "requests",
        "
    )
    GROUP BY latency_at, periods
)
ARRAY JOIN periods AS period
GROUP BY period, if(period = 1, toUInt32(latency_at), 0) AS at
HAVING sum(n) > 0"
    ),
};

/// Views `replicas`, `cpu` and `gpu`, and the last state of the replicas in each step. A step whose samples cover no part
/// of it has a state and no numbers. A replica that had been silent for three intervals of 5 s when the last sample came
/// was gone by then and says nothing. What is alike for many readings is said once, over arrays: a statement of twice as many words
/// takes twice as long to plan.
pub const SAMPLES: Statement = Statement {
    columns: &[
        "active",
        "starting",
        "waiting",
        "loading",
        "stopping",
        "seconds",
        "replicas",
        "gpus",
        "usage_cores_avg",
        "limit_cores_avg",
        "usage_ratio_avg",
        "memory_bytes_avg",
        "memory_limit_bytes_avg",
        "memory_ratio_avg",
        "gpu_usage_ratio_avg",
        "sm_activity_avg",
        "memory_used_bytes_avg",
        "memory_total_bytes_avg",
        "gpu_memory_ratio_avg",
        "usage_cores_max",
        "memory_bytes_max",
        "gpu_usage_ratio_max",
        "memory_used_bytes_max",
    ],
    of_tier: of_tiers!(
        "SELECT at, if(max(covered) = 0, [], arrayConcat(
    arrayMap(us -> us / 1e6 / seconds, sumForEach([us_active, us_waiting + us_loading, us_waiting, us_loading, us_stopping])),
    [toFloat64(greatest(1, least(at + {step:UInt32}, toUnixTimestamp(initialQueryStartTime())) - toInt64(at))) AS seconds,
        toFloat64(countIf(covered > 0)), toFloat64(sumIf(gpus, covered > 0))],
    avgForEach(arrayMap((total, us) -> if(us > 0, total * 1e6 / us, NULL),
        [cores, cores_limit, cores_ratio, memory, memory_limit, memory_ratio, gpu, sm, used, gpu_total, gpu_ratio],
        [cores_us, cores_limit_us, cores_ratio_us, memory_us, limit_of_memory_us, ratio_of_memory_us, gpu_us, sm_us, used_us,
            gpu_total_us, gpu_ratio_us])),
    maxForEach(arrayMap((top, us) -> if(us > 0, top, NULL),
        [cores_top, floor(memory_top), gpu_top, floor(used_top)], [cores_us, memory_us, gpu_us, used_us])))) AS numbers,
    intDiv(arrayMax(groupArray(last) AS lasts), 4) AS last_us,
    arrayExists(x -> x % 4 != 3 AND intDiv(x, 4) + 15000000 >= last_us, lasts) AS is_running
FROM
(
    SELECT toUInt32(intDiv(toUnixTimestamp(window_start), {step:UInt32}) * {step:UInt32}) AS at, replica_id,
        sum(waiting_us) AS us_waiting, sum(loading_us) AS us_loading, sum(active_us) AS us_active, sum(stopping_us) AS us_stopping,
        us_waiting + us_loading + us_active + us_stopping AS covered, max(last_sample) AS last,
        sum(cpu_cores_integral) AS cores, sum(cpu_cores_us) AS cores_us, max(cpu_cores_max) AS cores_top,
        sum(cpu_limit_integral) AS cores_limit, sum(cpu_limit_us) AS cores_limit_us,
        sum(cpu_ratio_integral) AS cores_ratio, sum(cpu_ratio_us) AS cores_ratio_us,
        sum(memory_bytes_integral) AS memory, sum(memory_bytes_us) AS memory_us, max(memory_bytes_max) AS memory_top,
        sum(memory_limit_integral) AS memory_limit, sum(memory_limit_us) AS limit_of_memory_us,
        sum(memory_ratio_integral) AS memory_ratio, sum(memory_ratio_us) AS ratio_of_memory_us, max(gpus_max) AS gpus,
        sum(gpu_utilization_integral) AS gpu, sum(gpu_utilization_us) AS gpu_us, max(gpu_utilization_max) AS gpu_top,
        sum(gpu_sm_activity_integral) AS sm, sum(gpu_sm_activity_us) AS sm_us,
        sum(gpu_memory_used_integral) AS used, sum(gpu_memory_used_us) AS used_us, max(gpu_memory_used_max) AS used_top,
        sum(gpu_memory_total_integral) AS gpu_total, sum(gpu_memory_total_us) AS gpu_total_us,
        sum(gpu_memory_ratio_integral) AS gpu_ratio, sum(gpu_memory_ratio_us) AS gpu_ratio_us
    FROM
    (
        ",
        "window_start, replica_id, waiting_us, loading_us, active_us, stopping_us, last_sample, \
         cpu_cores_integral, cpu_cores_us, cpu_cores_max, cpu_limit_integral, cpu_limit_us, cpu_ratio_integral, cpu_ratio_us, \
         memory_bytes_integral, memory_bytes_us, memory_bytes_max, memory_limit_integral, memory_limit_us, \
         memory_ratio_integral, memory_ratio_us, gpus_max, gpu_utilization_integral, gpu_utilization_us, gpu_utilization_max, \
         gpu_sm_activity_integral, gpu_sm_activity_us, gpu_memory_used_integral, gpu_memory_used_us, gpu_memory_used_max, \
         gpu_memory_total_integral, gpu_memory_total_us, gpu_memory_ratio_integral, gpu_memory_ratio_us",
        "replicas",
        "
    )
    GROUP BY at, replica_id
)
GROUP BY at"
    ),
};

/// The last state of the replicas before the range, if any; asked only where the range's first step has none.
///
/// `last_sample` is a maximum that merges, so tiers may overlap and the finest need not be cut off where a coarser one
/// begins: the 10 s table is read for what the coarser ones may lack yet, 5 min. The 1 h table is looked back into for 31
/// days; what was silent for longer counts as unknown.
pub const BEFORE: &str = "
SELECT intDiv(arrayMax(groupArray(last) AS lasts), 4) AS last_us,
    arrayExists(x -> x % 4 != 3 AND intDiv(x, 4) + 15000000 >= last_us, lasts) AS is_running
FROM
(
    SELECT replica_id, max(last_sample) AS last
    FROM
    (
        SELECT replica_id, last_sample
        FROM replicas_10s
        WHERE deployment_id = {deployment:String} AND window_start < {start:DateTime} AND window_start >= {start:DateTime} - 300
            AND ingested >= toDate({start:DateTime} - 3900, 'UTC')
        UNION ALL
        SELECT replica_id, last_sample
        FROM replicas_1m
        WHERE deployment_id = {deployment:String} AND window_start + 60 <= {start:DateTime} AND window_start >= {start:DateTime} - 7200
            AND ingested >= toDate({start:DateTime} - 10800, 'UTC')
        UNION ALL
        SELECT replica_id, last_sample
        FROM replicas_1h
        WHERE deployment_id = {deployment:String} AND window_start + 3600 <= {start:DateTime} AND window_start >= {start:DateTime} - 2678400
            AND ingested >= toStartOfMonth({start:DateTime} - 2682000, 'UTC')
    )
    GROUP BY replica_id
)
HAVING count() > 0";

/// When a deployment was first and last heard of, as the table of deployments has it, which is written each minute.
pub const HEARD: &str = "
SELECT toUInt32(min(first_seen)) AS first_seen, toUInt32(max(last_seen)) AS last_seen
FROM deployments
WHERE deployment_id = {deployment:String}
HAVING count() > 0";

/// Every deployment with its facts. Rows without facts come from requests alone, and are hidden beside one with facts.
pub const DEPLOYMENTS: &str = "
SELECT deployment_id AS id, deployment_name AS name, model_id, model_name, environment, kind, instance_type,
    toUInt32(min(first_seen)) AS first_seen, toUInt32(max(last_seen)) AS last_seen
FROM deployments
WHERE deployment_id != ''
GROUP BY deployment_id, deployment_name, model_id, model_name, environment, kind, instance_type
ORDER BY id, last_seen DESC, first_seen DESC
LIMIT {limit:UInt32}";
