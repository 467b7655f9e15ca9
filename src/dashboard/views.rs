//! The statements that a panel is read with, and which columns each chart shows. The texts are constants: what a caller
//! asks for is bound by ClickHouse as a parameter of its type.

/// A view, the columns read of it, and its statement.
pub struct View {
    pub columns: &'static [&'static str],
    pub sql: &'static str,
}

/// One row a step: when it begins, and the columns in their order as numbers or NULL.
macro_rules! view {
    ($view:literal, $first:literal $(, $column:literal)* $(,)?) => {
        View {
            columns: &[$first $(, $column)*],
            sql: concat!(
                "SELECT toUnixTimestamp(t) AS at, [CAST(", $first, ", 'Nullable(Float64)')",
                $(", CAST(", $column, ", 'Nullable(Float64)')",)*
                "] AS numbers FROM ", $view,
                "(deployment = {deployment:String}, start = {start:DateTime}, stop = {stop:DateTime}, step = {step:UInt32})",
            ),
        }
    };
}

pub const VOLUME: View = view!(
    "inference_volume",
    "seconds",
    "requests",
    "rps_2xx",
    "rps_4xx",
    "rps_5xx",
    "rps_other",
    "rps_unclassified",
    "client_gone",
    "cold_starts",
);

pub const TIMES: View = view!(
    "response_time",
    "requests",
    "end_to_end_p50_ms",
    "end_to_end_p90_ms",
    "end_to_end_p95_ms",
    "end_to_end_p99_ms",
    "inference_p50_ms",
    "inference_p90_ms",
    "inference_p95_ms",
    "inference_p99_ms",
);

pub const REPLICAS: View = view!(
    "replicas", "seconds", "active", "starting", "waiting", "loading", "stopping",
);

pub const CPU: View = view!(
    "cpu",
    "replicas",
    "usage_cores_avg",
    "usage_cores_max",
    "limit_cores_avg",
    "usage_ratio_avg",
    "memory_bytes_avg",
    "memory_bytes_max",
    "memory_limit_bytes_avg",
    "memory_ratio_avg",
);

pub const GPU: View = view!(
    "gpu",
    "replicas",
    "gpus",
    "usage_ratio_avg",
    "usage_ratio_max",
    "sm_activity_avg",
    "memory_used_bytes_avg",
    "memory_used_bytes_max",
    "memory_total_bytes_avg",
    "memory_ratio_avg",
);

/// Which of the views a chart is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Volume,
    Times,
    Replicas,
    Cpu,
    Gpu,
}

/// A chart of the panel.
pub struct Chart {
    pub name: &'static str,
    pub source: Source,
    pub series: &'static [&'static str],
}

pub const CHARTS: [Chart; 8] = [
    Chart {
        name: "volume",
        source: Source::Volume,
        series: VOLUME.columns,
    },
    Chart {
        name: "end_to_end",
        source: Source::Times,
        series: &[
            "requests",
            "end_to_end_p50_ms",
            "end_to_end_p90_ms",
            "end_to_end_p95_ms",
            "end_to_end_p99_ms",
        ],
    },
    Chart {
        name: "inference",
        source: Source::Times,
        series: &[
            "requests",
            "inference_p50_ms",
            "inference_p90_ms",
            "inference_p95_ms",
            "inference_p99_ms",
        ],
    },
    Chart {
        name: "replicas",
        source: Source::Replicas,
        series: REPLICAS.columns,
    },
    Chart {
        name: "cpu",
        source: Source::Cpu,
        series: &[
            "replicas",
            "usage_cores_avg",
            "usage_cores_max",
            "limit_cores_avg",
            "usage_ratio_avg",
        ],
    },
    Chart {
        name: "memory",
        source: Source::Cpu,
        series: &[
            "replicas",
            "memory_bytes_avg",
            "memory_bytes_max",
            "memory_limit_bytes_avg",
            "memory_ratio_avg",
        ],
    },
    Chart {
        name: "gpu",
        source: Source::Gpu,
        series: &[
            "replicas",
            "gpus",
            "usage_ratio_avg",
            "usage_ratio_max",
            "sm_activity_avg",
        ],
    },
    Chart {
        name: "gpu_memory",
        source: Source::Gpu,
        series: &[
            "replicas",
            "gpus",
            "memory_used_bytes_avg",
            "memory_used_bytes_max",
            "memory_total_bytes_avg",
            "memory_ratio_avg",
        ],
    },
];

impl Source {
    pub fn view(self) -> View {
        match self {
            Self::Volume => VOLUME,
            Self::Times => TIMES,
            Self::Replicas => REPLICAS,
            Self::Cpu => CPU,
            Self::Gpu => GPU,
        }
    }
}

/// The last state of the replicas in each step that has samples, and at 0 that before the range.
///
/// `last_sample` is a maximum that merges, so tiers may overlap and the finest need not be cut off where a coarser one
/// begins: the 10 s table is read for what the coarser ones may lack yet, 5 min. Before the range the 1 h table is
/// looked back into for 31 days; what was silent for longer counts as unknown. A replica that had been silent for three
/// intervals of 5 s when the last sample came was gone by then and says nothing.
pub const STATES: &str = "
SELECT at, intDiv(arrayMax(groupArray(last) AS lasts), 4) AS last_us,
    arrayExists(x -> x % 4 != 3 AND intDiv(x, 4) + 15000000 >= last_us, lasts) AS is_running
FROM
(
    SELECT replica_id, max(last_sample) AS last,
        if(window_start < {start:DateTime}, 0,
            toUInt32(intDiv(toUnixTimestamp(window_start), {step:UInt32}) * {step:UInt32})) AS at
    FROM
    (
        SELECT replica_id, window_start, last_sample
        FROM replicas_10s
        WHERE deployment_id = {deployment:String} AND window_start < {stop:DateTime}
            AND window_start >= {start:DateTime} - 300 AND ({step:UInt32} % 60 != 0
                OR window_start < {start:DateTime} OR window_start >= now() - 300)
        UNION ALL
        SELECT replica_id, window_start, last_sample
        FROM replicas_1m
        WHERE deployment_id = {deployment:String} AND if({step:UInt32} % 60 = 0 AND {step:UInt32} % 3600 != 0,
            window_start < {stop:DateTime}, window_start + 60 <= {start:DateTime})
            AND window_start >= {start:DateTime} - 7200
        UNION ALL
        SELECT replica_id, window_start, last_sample
        FROM replicas_1h
        WHERE deployment_id = {deployment:String} AND if({step:UInt32} % 3600 = 0,
            window_start < {stop:DateTime}, window_start + 3600 <= {start:DateTime})
            AND window_start >= {start:DateTime} - 2678400
    )
    GROUP BY at, replica_id
)
GROUP BY at
ORDER BY at";

/// When a deployment was first and last heard of, never later than now: a producer's clock may be ahead. What the last
/// hour says is exact; the table of deployments is written each minute.
pub const HEARD: &str = "
SELECT
    ifNull(toUInt32((SELECT min(first_seen) FROM deployments WHERE deployment_id = {deployment:String})), 0) AS first_seen,
    greatest(
        ifNull(toUInt32((SELECT max(last_seen) FROM deployments WHERE deployment_id = {deployment:String})), 0),
        ifNull(toUInt32((SELECT if(count() = 0, 0, least(max(intDiv(last_sample, 4000000)), toUnixTimestamp(now()))) FROM replicas_10s
            WHERE deployment_id = {deployment:String} AND window_start BETWEEN now() - 3600 AND now())), 0),
        ifNull(toUInt32((SELECT if(count() = 0, 0, least(toUnixTimestamp(max(window_start)) + 10, toUnixTimestamp(now()))) FROM requests_10s
            WHERE deployment_id = {deployment:String} AND window_start BETWEEN now() - 3600 AND now())), 0)) AS last_seen";

/// Every deployment with its facts. Rows without facts come from requests alone, and are hidden beside one with facts.
pub const DEPLOYMENTS: &str = "
SELECT deployment_id AS id, deployment_name AS name, model_id, model_name, environment, kind, instance_type,
    toUInt32(min(first_seen)) AS first_seen, toUInt32(max(last_seen)) AS last_seen
FROM deployments
WHERE deployment_id != ''
GROUP BY deployment_id, deployment_name, model_id, model_name, environment, kind, instance_type
ORDER BY id, last_seen DESC, first_seen DESC
LIMIT {limit:UInt32}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_a_column_of_its_view() {
        for chart in CHARTS {
            for series in chart.series {
                assert!(
                    chart.source.view().columns.contains(series),
                    "{}: {series}",
                    chart.name
                );
            }
        }
    }
}
