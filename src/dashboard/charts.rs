//! The charts of a panel: which statement each is read from, and which of its columns it shows. It asks nothing.

use super::views::{SAMPLES, Statement, TIMES, VOLUME};

/// Which of the statements a chart is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Volume,
    Times,
    Samples,
}

/// A chart of the panel.
pub struct Chart {
    pub name: &'static str,
    pub source: Source,
    /// Name in the answer, which is the view's, and in `numbers`, where two views share a name.
    pub series: &'static [(&'static str, &'static str)],
    /// No replica is a count of zero, and no request a rate of zero; without either there is no time and no usage.
    pub is_counted: bool,
}

pub const CHARTS: [Chart; 8] = [
    Chart {
        name: "volume",
        source: Source::Volume,
        is_counted: true,
        series: &[
            ("seconds", "seconds"),
            ("requests", "requests"),
            ("rps_2xx", "rps_2xx"),
            ("rps_4xx", "rps_4xx"),
            ("rps_5xx", "rps_5xx"),
            ("rps_other", "rps_other"),
            ("rps_unclassified", "rps_unclassified"),
            ("client_gone", "client_gone"),
            ("rps_client_gone", "rps_client_gone"),
            ("cold_starts", "cold_starts"),
        ],
    },
    Chart {
        name: "end_to_end",
        source: Source::Times,
        is_counted: false,
        series: &[
            ("requests", "requests"),
            ("end_to_end_p50_ms", "end_to_end_p50_ms"),
            ("end_to_end_p90_ms", "end_to_end_p90_ms"),
            ("end_to_end_p95_ms", "end_to_end_p95_ms"),
            ("end_to_end_p99_ms", "end_to_end_p99_ms"),
        ],
    },
    Chart {
        name: "inference",
        source: Source::Times,
        is_counted: false,
        series: &[
            ("requests", "requests"),
            ("inference_p50_ms", "inference_p50_ms"),
            ("inference_p90_ms", "inference_p90_ms"),
            ("inference_p95_ms", "inference_p95_ms"),
            ("inference_p99_ms", "inference_p99_ms"),
        ],
    },
    Chart {
        name: "replicas",
        source: Source::Samples,
        is_counted: true,
        series: &[
            ("seconds", "seconds"),
            ("active", "active"),
            ("starting", "starting"),
            ("waiting", "waiting"),
            ("loading", "loading"),
            ("stopping", "stopping"),
        ],
    },
    Chart {
        name: "cpu",
        source: Source::Samples,
        is_counted: false,
        series: &[
            ("replicas", "replicas"),
            ("usage_cores_avg", "usage_cores_avg"),
            ("usage_cores_max", "usage_cores_max"),
            ("limit_cores_avg", "limit_cores_avg"),
            ("usage_ratio_avg", "usage_ratio_avg"),
        ],
    },
    Chart {
        name: "memory",
        source: Source::Samples,
        is_counted: false,
        series: &[
            ("replicas", "replicas"),
            ("memory_bytes_avg", "memory_bytes_avg"),
            ("memory_bytes_max", "memory_bytes_max"),
            ("memory_limit_bytes_avg", "memory_limit_bytes_avg"),
            ("memory_ratio_avg", "memory_ratio_avg"),
        ],
    },
    Chart {
        name: "gpu",
        source: Source::Samples,
        is_counted: false,
        series: &[
            ("replicas", "replicas"),
            ("gpus", "gpus"),
            ("usage_ratio_avg", "gpu_usage_ratio_avg"),
            ("usage_ratio_max", "gpu_usage_ratio_max"),
            ("sm_activity_avg", "sm_activity_avg"),
        ],
    },
    Chart {
        name: "gpu_memory",
        source: Source::Samples,
        is_counted: false,
        series: &[
            ("replicas", "replicas"),
            ("gpus", "gpus"),
            ("memory_used_bytes_avg", "memory_used_bytes_avg"),
            ("memory_used_bytes_max", "memory_used_bytes_max"),
            ("memory_total_bytes_avg", "memory_total_bytes_avg"),
            ("memory_ratio_avg", "gpu_memory_ratio_avg"),
        ],
    },
];

impl Source {
    pub fn statement(self) -> &'static Statement {
        match self {
            Self::Volume => &VOLUME,
            Self::Times => &TIMES,
            Self::Samples => &SAMPLES,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_a_column_of_its_statement() {
        for chart in CHARTS {
            for (series, column) in chart.series {
                assert!(
                    chart.source.statement().columns.contains(column),
                    "{}: {series}",
                    chart.name
                );
            }
        }
    }
}
