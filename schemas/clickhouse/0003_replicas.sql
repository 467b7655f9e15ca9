-- What replicas are and what they use, by replica.
-- A sample speaks for the interval that it covers, split at the edges of windows; it is counted in
-- `samples` of the window in which it ends.

CREATE TABLE IF NOT EXISTS replicas_10s {on_cluster}
(
    ingested                   Date,
    deployment_id              String,
    replica_id                 String,
    window_start               DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    kafka_partition            UInt32,
    ledger                     LowCardinality(String),
    samples                    SimpleAggregateFunction(sum, UInt64),
    -- time in each state; a loading sample of a development deployment is in active_us
    waiting_us                 SimpleAggregateFunction(sum, UInt64),
    loading_us                 SimpleAggregateFunction(sum, UInt64),
    active_us                  SimpleAggregateFunction(sum, UInt64),
    stopping_us                SimpleAggregateFunction(sum, UInt64),
    -- sampled_at in microseconds x 4 + state (0 waiting, 1 loading, 2 active, 3 stopping)
    last_sample                SimpleAggregateFunction(max, UInt64),
    -- Each reading: its integral over time (unit x seconds), the time it covers, its maximum.
    -- A reading that could not be made covers no time, so that unknown is never zero
    cpu_cores_integral         SimpleAggregateFunction(sum, Float64),
    cpu_cores_us               SimpleAggregateFunction(sum, UInt64),
    cpu_cores_max              SimpleAggregateFunction(max, Float64),
    cpu_limit_integral         SimpleAggregateFunction(sum, Float64),
    cpu_limit_us               SimpleAggregateFunction(sum, UInt64),
    cpu_ratio_integral         SimpleAggregateFunction(sum, Float64),
    cpu_ratio_us               SimpleAggregateFunction(sum, UInt64),
    cpu_ratio_max              SimpleAggregateFunction(max, Float64),
    memory_bytes_integral      SimpleAggregateFunction(sum, Float64),
    memory_bytes_us            SimpleAggregateFunction(sum, UInt64),
    memory_bytes_max           SimpleAggregateFunction(max, Float64),
    memory_limit_integral      SimpleAggregateFunction(sum, Float64),
    memory_limit_us            SimpleAggregateFunction(sum, UInt64),
    memory_ratio_integral      SimpleAggregateFunction(sum, Float64),
    memory_ratio_us            SimpleAggregateFunction(sum, UInt64),
    memory_ratio_max           SimpleAggregateFunction(max, Float64),
    gpu_utilization_integral   SimpleAggregateFunction(sum, Float64),
    gpu_utilization_us         SimpleAggregateFunction(sum, UInt64),
    gpu_utilization_max        SimpleAggregateFunction(max, Float64),
    gpu_sm_activity_integral   SimpleAggregateFunction(sum, Float64),
    gpu_sm_activity_us         SimpleAggregateFunction(sum, UInt64),
    gpu_sm_activity_max        SimpleAggregateFunction(max, Float64),
    gpu_memory_used_integral   SimpleAggregateFunction(sum, Float64),
    gpu_memory_used_us         SimpleAggregateFunction(sum, UInt64),
    gpu_memory_used_max        SimpleAggregateFunction(max, Float64),
    gpu_memory_total_integral  SimpleAggregateFunction(sum, Float64),
    gpu_memory_total_us        SimpleAggregateFunction(sum, UInt64),
    gpu_memory_ratio_integral  SimpleAggregateFunction(sum, Float64),
    gpu_memory_ratio_us        SimpleAggregateFunction(sum, UInt64),
    gpu_memory_ratio_max       SimpleAggregateFunction(max, Float64),
    in_flight_integral         SimpleAggregateFunction(sum, Float64),
    in_flight_us               SimpleAggregateFunction(sum, UInt64),
    in_flight_max              SimpleAggregateFunction(max, Float64),
    gpus_max                   SimpleAggregateFunction(max, UInt32),
    oldest_in_flight_us_max    SimpleAggregateFunction(max, UInt64),
    restarts_max               SimpleAggregateFunction(max, UInt64),
    load_us_max                SimpleAggregateFunction(max, UInt64),
    dropped_max                SimpleAggregateFunction(max, UInt64),
    -- the ledger: which Kafka offsets this row, and so its part, covers (empty in data rows)
    ledger_from                SimpleAggregateFunction(min, UInt64) DEFAULT 18446744073709551615,
    ledger_to                  SimpleAggregateFunction(max, UInt64),
    ledger_epoch               SimpleAggregateFunction(max, Int32) DEFAULT -1,
    ledger_span                SimpleAggregateFunction(sum, UInt64),
    ledger_gap                 SimpleAggregateFunction(sum, UInt64),
    ledger_events              SimpleAggregateFunction(sum, UInt64),
    ledger_late                SimpleAggregateFunction(sum, UInt64),
    ledger_invalid             SimpleAggregateFunction(sum, UInt64),
    ledger_erased              SimpleAggregateFunction(sum, UInt64),

    CONSTRAINT ledger_or_data CHECK (deployment_id = '') = (ledger != ''),
    CONSTRAINT ledger_has_no_window CHECK ledger = '' OR (window_start = 0 AND samples = 0)
)
ENGINE = {engine}
PARTITION BY ingested
ORDER BY (deployment_id, window_start, replica_id, kafka_partition, ledger)
TTL ingested + INTERVAL {keep_10s}
SETTINGS {settings};

CREATE TABLE IF NOT EXISTS replicas_1m {on_cluster}
(
    ingested                   Date,
    deployment_id              String,
    replica_id                 String,
    window_start               DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    kafka_partition            UInt32,
    ledger                     LowCardinality(String),
    samples                    SimpleAggregateFunction(sum, UInt64),
    -- time in each state; a loading sample of a development deployment is in active_us
    waiting_us                 SimpleAggregateFunction(sum, UInt64),
    loading_us                 SimpleAggregateFunction(sum, UInt64),
    active_us                  SimpleAggregateFunction(sum, UInt64),
    stopping_us                SimpleAggregateFunction(sum, UInt64),
    -- sampled_at in microseconds x 4 + state (0 waiting, 1 loading, 2 active, 3 stopping)
    last_sample                SimpleAggregateFunction(max, UInt64),
    -- Each reading: its integral over time (unit x seconds), the time it covers, its maximum.
    -- A reading that could not be made covers no time, so that unknown is never zero
    cpu_cores_integral         SimpleAggregateFunction(sum, Float64),
    cpu_cores_us               SimpleAggregateFunction(sum, UInt64),
    cpu_cores_max              SimpleAggregateFunction(max, Float64),
    cpu_limit_integral         SimpleAggregateFunction(sum, Float64),
    cpu_limit_us               SimpleAggregateFunction(sum, UInt64),
    cpu_ratio_integral         SimpleAggregateFunction(sum, Float64),
    cpu_ratio_us               SimpleAggregateFunction(sum, UInt64),
    cpu_ratio_max              SimpleAggregateFunction(max, Float64),
    memory_bytes_integral      SimpleAggregateFunction(sum, Float64),
    memory_bytes_us            SimpleAggregateFunction(sum, UInt64),
    memory_bytes_max           SimpleAggregateFunction(max, Float64),
    memory_limit_integral      SimpleAggregateFunction(sum, Float64),
    memory_limit_us            SimpleAggregateFunction(sum, UInt64),
    memory_ratio_integral      SimpleAggregateFunction(sum, Float64),
    memory_ratio_us            SimpleAggregateFunction(sum, UInt64),
    memory_ratio_max           SimpleAggregateFunction(max, Float64),
    gpu_utilization_integral   SimpleAggregateFunction(sum, Float64),
    gpu_utilization_us         SimpleAggregateFunction(sum, UInt64),
    gpu_utilization_max        SimpleAggregateFunction(max, Float64),
    gpu_sm_activity_integral   SimpleAggregateFunction(sum, Float64),
    gpu_sm_activity_us         SimpleAggregateFunction(sum, UInt64),
    gpu_sm_activity_max        SimpleAggregateFunction(max, Float64),
    gpu_memory_used_integral   SimpleAggregateFunction(sum, Float64),
    gpu_memory_used_us         SimpleAggregateFunction(sum, UInt64),
    gpu_memory_used_max        SimpleAggregateFunction(max, Float64),
    gpu_memory_total_integral  SimpleAggregateFunction(sum, Float64),
    gpu_memory_total_us        SimpleAggregateFunction(sum, UInt64),
    gpu_memory_ratio_integral  SimpleAggregateFunction(sum, Float64),
    gpu_memory_ratio_us        SimpleAggregateFunction(sum, UInt64),
    gpu_memory_ratio_max       SimpleAggregateFunction(max, Float64),
    in_flight_integral         SimpleAggregateFunction(sum, Float64),
    in_flight_us               SimpleAggregateFunction(sum, UInt64),
    in_flight_max              SimpleAggregateFunction(max, Float64),
    gpus_max                   SimpleAggregateFunction(max, UInt32),
    oldest_in_flight_us_max    SimpleAggregateFunction(max, UInt64),
    restarts_max               SimpleAggregateFunction(max, UInt64),
    load_us_max                SimpleAggregateFunction(max, UInt64),
    dropped_max                SimpleAggregateFunction(max, UInt64),
    -- the ledger: which Kafka offsets this row, and so its part, covers (empty in data rows)
    ledger_from                SimpleAggregateFunction(min, UInt64) DEFAULT 18446744073709551615,
    ledger_to                  SimpleAggregateFunction(max, UInt64),
    ledger_epoch               SimpleAggregateFunction(max, Int32) DEFAULT -1,
    ledger_span                SimpleAggregateFunction(sum, UInt64),
    ledger_gap                 SimpleAggregateFunction(sum, UInt64),
    ledger_events              SimpleAggregateFunction(sum, UInt64),
    ledger_late                SimpleAggregateFunction(sum, UInt64),
    ledger_invalid             SimpleAggregateFunction(sum, UInt64),
    ledger_erased              SimpleAggregateFunction(sum, UInt64),

    CONSTRAINT ledger_or_data CHECK (deployment_id = '') = (ledger != ''),
    CONSTRAINT ledger_has_no_window CHECK ledger = '' OR (window_start = 0 AND samples = 0)
)
ENGINE = {engine}
PARTITION BY ingested
ORDER BY (deployment_id, window_start, replica_id, kafka_partition, ledger)
TTL ingested + INTERVAL {keep_1m}
SETTINGS {settings};

CREATE TABLE IF NOT EXISTS replicas_1h {on_cluster}
(
    ingested                   Date,
    deployment_id              String,
    replica_id                 String,
    window_start               DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    kafka_partition            UInt32,
    ledger                     LowCardinality(String),
    samples                    SimpleAggregateFunction(sum, UInt64),
    -- time in each state; a loading sample of a development deployment is in active_us
    waiting_us                 SimpleAggregateFunction(sum, UInt64),
    loading_us                 SimpleAggregateFunction(sum, UInt64),
    active_us                  SimpleAggregateFunction(sum, UInt64),
    stopping_us                SimpleAggregateFunction(sum, UInt64),
    -- sampled_at in microseconds x 4 + state (0 waiting, 1 loading, 2 active, 3 stopping)
    last_sample                SimpleAggregateFunction(max, UInt64),
    -- Each reading: its integral over time (unit x seconds), the time it covers, its maximum.
    -- A reading that could not be made covers no time, so that unknown is never zero
    cpu_cores_integral         SimpleAggregateFunction(sum, Float64),
    cpu_cores_us               SimpleAggregateFunction(sum, UInt64),
    cpu_cores_max              SimpleAggregateFunction(max, Float64),
    cpu_limit_integral         SimpleAggregateFunction(sum, Float64),
    cpu_limit_us               SimpleAggregateFunction(sum, UInt64),
    cpu_ratio_integral         SimpleAggregateFunction(sum, Float64),
    cpu_ratio_us               SimpleAggregateFunction(sum, UInt64),
    cpu_ratio_max              SimpleAggregateFunction(max, Float64),
    memory_bytes_integral      SimpleAggregateFunction(sum, Float64),
    memory_bytes_us            SimpleAggregateFunction(sum, UInt64),
    memory_bytes_max           SimpleAggregateFunction(max, Float64),
    memory_limit_integral      SimpleAggregateFunction(sum, Float64),
    memory_limit_us            SimpleAggregateFunction(sum, UInt64),
    memory_ratio_integral      SimpleAggregateFunction(sum, Float64),
    memory_ratio_us            SimpleAggregateFunction(sum, UInt64),
    memory_ratio_max           SimpleAggregateFunction(max, Float64),
    gpu_utilization_integral   SimpleAggregateFunction(sum, Float64),
    gpu_utilization_us         SimpleAggregateFunction(sum, UInt64),
    gpu_utilization_max        SimpleAggregateFunction(max, Float64),
    gpu_sm_activity_integral   SimpleAggregateFunction(sum, Float64),
    gpu_sm_activity_us         SimpleAggregateFunction(sum, UInt64),
    gpu_sm_activity_max        SimpleAggregateFunction(max, Float64),
    gpu_memory_used_integral   SimpleAggregateFunction(sum, Float64),
    gpu_memory_used_us         SimpleAggregateFunction(sum, UInt64),
    gpu_memory_used_max        SimpleAggregateFunction(max, Float64),
    gpu_memory_total_integral  SimpleAggregateFunction(sum, Float64),
    gpu_memory_total_us        SimpleAggregateFunction(sum, UInt64),
    gpu_memory_ratio_integral  SimpleAggregateFunction(sum, Float64),
    gpu_memory_ratio_us        SimpleAggregateFunction(sum, UInt64),
    gpu_memory_ratio_max       SimpleAggregateFunction(max, Float64),
    in_flight_integral         SimpleAggregateFunction(sum, Float64),
    in_flight_us               SimpleAggregateFunction(sum, UInt64),
    in_flight_max              SimpleAggregateFunction(max, Float64),
    gpus_max                   SimpleAggregateFunction(max, UInt32),
    oldest_in_flight_us_max    SimpleAggregateFunction(max, UInt64),
    restarts_max               SimpleAggregateFunction(max, UInt64),
    load_us_max                SimpleAggregateFunction(max, UInt64),
    dropped_max                SimpleAggregateFunction(max, UInt64),
    -- the ledger: which Kafka offsets this row, and so its part, covers (empty in data rows)
    ledger_from                SimpleAggregateFunction(min, UInt64) DEFAULT 18446744073709551615,
    ledger_to                  SimpleAggregateFunction(max, UInt64),
    ledger_epoch               SimpleAggregateFunction(max, Int32) DEFAULT -1,
    ledger_span                SimpleAggregateFunction(sum, UInt64),
    ledger_gap                 SimpleAggregateFunction(sum, UInt64),
    ledger_events              SimpleAggregateFunction(sum, UInt64),
    ledger_late                SimpleAggregateFunction(sum, UInt64),
    ledger_invalid             SimpleAggregateFunction(sum, UInt64),
    ledger_erased              SimpleAggregateFunction(sum, UInt64),

    CONSTRAINT ledger_or_data CHECK (deployment_id = '') = (ledger != ''),
    CONSTRAINT ledger_has_no_window CHECK ledger = '' OR (window_start = 0 AND samples = 0)
)
ENGINE = {engine}
PARTITION BY ingested
ORDER BY (deployment_id, window_start, replica_id, kafka_partition, ledger)
TTL ingested + INTERVAL {keep_1h}
SETTINGS {settings};
