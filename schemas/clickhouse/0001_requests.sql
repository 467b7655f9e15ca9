-- Requests of a deployment in windows of 10 s, 1 min and 1 h.
-- Rows are deltas: several may stand for one window, and merging them loses nothing. A late event
-- is one more delta. `ingested` is the day (of the 1 h table: the month's first day) of the insert,
-- one constant per insert, so that one insert is one part.

CREATE TABLE IF NOT EXISTS requests_10s {on_cluster}
(
    ingested                   Date,
    deployment_id              String,
    window_start               DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    kafka_partition            UInt32,
    ledger                     LowCardinality(String),
    -- the five classes add up to requests; a 499 is in status_4xx
    requests                   SimpleAggregateFunction(sum, UInt64),
    status_2xx                 SimpleAggregateFunction(sum, UInt64),
    status_4xx                 SimpleAggregateFunction(sum, UInt64),
    status_5xx                 SimpleAggregateFunction(sum, UInt64),
    status_other               SimpleAggregateFunction(sum, UInt64),
    unclassified               SimpleAggregateFunction(sum, UInt64),
    -- status 499 or that outcome
    client_gone                SimpleAggregateFunction(sum, UInt64),
    -- by outcome; what is left of requests ended as client_gone
    completed                  SimpleAggregateFunction(sum, UInt64),
    timed_out                  SimpleAggregateFunction(sum, UInt64),
    aborted                    SimpleAggregateFunction(sum, UInt64),
    refused                    SimpleAggregateFunction(sum, UInt64),
    cold_starts                SimpleAggregateFunction(sum, UInt64),
    request_bytes              SimpleAggregateFunction(sum, UInt64),
    response_bytes             SimpleAggregateFunction(sum, UInt64),
    in_flight_max              SimpleAggregateFunction(max, UInt32),
    -- sketches of microseconds, whole numbers from 1
    end_to_end                 AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    inference                  AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    first_byte                 AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    queue                      AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    cold_start                 AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
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
ORDER BY (deployment_id, window_start, kafka_partition, ledger)
TTL ingested + INTERVAL {keep_10s}
SETTINGS {settings};

CREATE TABLE IF NOT EXISTS requests_1m {on_cluster}
(
    ingested                   Date,
    deployment_id              String,
    window_start               DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    kafka_partition            UInt32,
    ledger                     LowCardinality(String),
    -- the five classes add up to requests; a 499 is in status_4xx
    requests                   SimpleAggregateFunction(sum, UInt64),
    status_2xx                 SimpleAggregateFunction(sum, UInt64),
    status_4xx                 SimpleAggregateFunction(sum, UInt64),
    status_5xx                 SimpleAggregateFunction(sum, UInt64),
    status_other               SimpleAggregateFunction(sum, UInt64),
    unclassified               SimpleAggregateFunction(sum, UInt64),
    -- status 499 or that outcome
    client_gone                SimpleAggregateFunction(sum, UInt64),
    -- by outcome; what is left of requests ended as client_gone
    completed                  SimpleAggregateFunction(sum, UInt64),
    timed_out                  SimpleAggregateFunction(sum, UInt64),
    aborted                    SimpleAggregateFunction(sum, UInt64),
    refused                    SimpleAggregateFunction(sum, UInt64),
    cold_starts                SimpleAggregateFunction(sum, UInt64),
    request_bytes              SimpleAggregateFunction(sum, UInt64),
    response_bytes             SimpleAggregateFunction(sum, UInt64),
    in_flight_max              SimpleAggregateFunction(max, UInt32),
    -- sketches of microseconds, whole numbers from 1
    end_to_end                 AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    inference                  AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    first_byte                 AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    queue                      AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    cold_start                 AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    status_codes               SimpleAggregateFunction(sumMap, Map(UInt16, UInt64)),
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
ORDER BY (deployment_id, window_start, kafka_partition, ledger)
TTL ingested + INTERVAL {keep_1m}
SETTINGS {settings};

CREATE TABLE IF NOT EXISTS requests_1h {on_cluster}
(
    ingested                   Date,
    deployment_id              String,
    window_start               DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)),
    kafka_partition            UInt32,
    ledger                     LowCardinality(String),
    -- the five classes add up to requests; a 499 is in status_4xx
    requests                   SimpleAggregateFunction(sum, UInt64),
    status_2xx                 SimpleAggregateFunction(sum, UInt64),
    status_4xx                 SimpleAggregateFunction(sum, UInt64),
    status_5xx                 SimpleAggregateFunction(sum, UInt64),
    status_other               SimpleAggregateFunction(sum, UInt64),
    unclassified               SimpleAggregateFunction(sum, UInt64),
    -- status 499 or that outcome
    client_gone                SimpleAggregateFunction(sum, UInt64),
    -- by outcome; what is left of requests ended as client_gone
    completed                  SimpleAggregateFunction(sum, UInt64),
    timed_out                  SimpleAggregateFunction(sum, UInt64),
    aborted                    SimpleAggregateFunction(sum, UInt64),
    refused                    SimpleAggregateFunction(sum, UInt64),
    cold_starts                SimpleAggregateFunction(sum, UInt64),
    request_bytes              SimpleAggregateFunction(sum, UInt64),
    response_bytes             SimpleAggregateFunction(sum, UInt64),
    in_flight_max              SimpleAggregateFunction(max, UInt32),
    -- sketches of microseconds, whole numbers from 1
    end_to_end                 AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    inference                  AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    first_byte                 AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    queue                      AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    cold_start                 AggregateFunction(quantilesDD(0.01, 0.5, 0.9, 0.95, 0.99), Float64),
    status_codes               SimpleAggregateFunction(sumMap, Map(UInt16, UInt64)),
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
ORDER BY (deployment_id, window_start, kafka_partition, ledger)
TTL ingested + INTERVAL {keep_1h}
SETTINGS {settings};
