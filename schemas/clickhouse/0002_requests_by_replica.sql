-- Requests by replica: which one is slow, and which one gets the traffic.

CREATE TABLE IF NOT EXISTS requests_by_replica_1m {on_cluster}
(
    ingested                   Date,
    deployment_id              String,
    replica_id                 String,
    window_start               DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    kafka_partition            UInt32,
    ledger                     LowCardinality(String),
    requests                   SimpleAggregateFunction(sum, UInt64),
    status_2xx                 SimpleAggregateFunction(sum, UInt64),
    status_4xx                 SimpleAggregateFunction(sum, UInt64),
    status_5xx                 SimpleAggregateFunction(sum, UInt64),
    status_other               SimpleAggregateFunction(sum, UInt64),
    unclassified               SimpleAggregateFunction(sum, UInt64),
    client_gone                SimpleAggregateFunction(sum, UInt64),
    cold_starts                SimpleAggregateFunction(sum, UInt64),
    in_flight_max              SimpleAggregateFunction(max, UInt32),
    end_to_end                 AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    inference                  AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
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
    CONSTRAINT ledger_has_no_window CHECK ledger = '' OR (window_start = 0 AND requests = 0)
)
ENGINE = {engine}
PARTITION BY ingested
ORDER BY (deployment_id, window_start, replica_id, kafka_partition, ledger)
TTL ingested + INTERVAL {keep_1m}
SETTINGS {settings};

CREATE TABLE IF NOT EXISTS requests_by_replica_1h {on_cluster}
(
    ingested                   Date,
    deployment_id              String,
    replica_id                 String,
    window_start               DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    kafka_partition            UInt32,
    ledger                     LowCardinality(String),
    requests                   SimpleAggregateFunction(sum, UInt64),
    status_2xx                 SimpleAggregateFunction(sum, UInt64),
    status_4xx                 SimpleAggregateFunction(sum, UInt64),
    status_5xx                 SimpleAggregateFunction(sum, UInt64),
    status_other               SimpleAggregateFunction(sum, UInt64),
    unclassified               SimpleAggregateFunction(sum, UInt64),
    client_gone                SimpleAggregateFunction(sum, UInt64),
    cold_starts                SimpleAggregateFunction(sum, UInt64),
    in_flight_max              SimpleAggregateFunction(max, UInt32),
    end_to_end                 AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    inference                  AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
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
    CONSTRAINT ledger_has_no_window CHECK ledger = '' OR (window_start = 0 AND requests = 0)
)
ENGINE = {engine}
PARTITION BY ingested
ORDER BY (deployment_id, window_start, replica_id, kafka_partition, ledger)
TTL ingested + INTERVAL {keep_1h}
SETTINGS {settings};
