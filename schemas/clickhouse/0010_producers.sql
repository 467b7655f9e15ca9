-- What has come of each producer start (deployment, replica, boot), so that a message that is sent twice is counted once.
-- A row is a producer's mark as of the end of one flush, and what came of it in that flush. Rows of different flushes are
-- never merged, so that the marks can be read as they were at any of these offsets: a replay begins at one of them.

CREATE TABLE IF NOT EXISTS requests_marks {on_cluster}
(
    ingested                   Date,
    deployment_id              String,
    replica_id                 String,
    boot_id                    FixedString(16),
    kafka_partition            UInt32,
    ledger                     LowCardinality(String),
    -- the offset behind the flush's last message: rows of different flushes stay apart
    range_to                   UInt64 CODEC(DoubleDelta, ZSTD(1)),
    producer                   SimpleAggregateFunction(anyLast, String),
    first_sequence             SimpleAggregateFunction(min, UInt64),
    last_sequence              SimpleAggregateFunction(max, UInt64),
    -- bit n: last_sequence - n has come
    seen                       SimpleAggregateFunction(groupBitOr, UInt64),
    last_offset                SimpleAggregateFunction(max, UInt64),
    last_append_ms             SimpleAggregateFunction(max, UInt64),
    -- in this flush: all that could be read, of them those that had come before, and sequences passed over
    messages                   SimpleAggregateFunction(sum, UInt64),
    repeated                   SimpleAggregateFunction(sum, UInt64),
    missing                    SimpleAggregateFunction(sum, Int64),
    ledger_from                SimpleAggregateFunction(min, UInt64) DEFAULT 18446744073709551615,
    ledger_to                  SimpleAggregateFunction(max, UInt64),
    ledger_epoch               SimpleAggregateFunction(max, Int32) DEFAULT -1,
    ledger_span                SimpleAggregateFunction(sum, UInt64),
    ledger_gap                 SimpleAggregateFunction(sum, UInt64),
    ledger_events              SimpleAggregateFunction(sum, UInt64),
    ledger_late                SimpleAggregateFunction(sum, UInt64),
    ledger_invalid             SimpleAggregateFunction(sum, UInt64),
    ledger_erased              SimpleAggregateFunction(sum, UInt64),

    CONSTRAINT belongs_to_a_ledger CHECK ledger != '',
    CONSTRAINT ledger_counts_nothing CHECK deployment_id != '' OR messages = 0
)
ENGINE = {engine}
PARTITION BY ingested
ORDER BY (deployment_id, kafka_partition, ledger, range_to, replica_id, boot_id)
TTL ingested + INTERVAL {keep_10s}
SETTINGS {settings};

CREATE TABLE IF NOT EXISTS replicas_marks {on_cluster}
(
    ingested                   Date,
    deployment_id              String,
    replica_id                 String,
    boot_id                    FixedString(16),
    kafka_partition            UInt32,
    ledger                     LowCardinality(String),
    -- the offset behind the flush's last message: rows of different flushes stay apart
    range_to                   UInt64 CODEC(DoubleDelta, ZSTD(1)),
    producer                   SimpleAggregateFunction(anyLast, String),
    first_sequence             SimpleAggregateFunction(min, UInt64),
    last_sequence              SimpleAggregateFunction(max, UInt64),
    -- bit n: last_sequence - n has come
    seen                       SimpleAggregateFunction(groupBitOr, UInt64),
    last_offset                SimpleAggregateFunction(max, UInt64),
    last_append_ms             SimpleAggregateFunction(max, UInt64),
    -- in this flush: all that could be read, of them those that had come before, and sequences passed over
    messages                   SimpleAggregateFunction(sum, UInt64),
    repeated                   SimpleAggregateFunction(sum, UInt64),
    missing                    SimpleAggregateFunction(sum, Int64),
    ledger_from                SimpleAggregateFunction(min, UInt64) DEFAULT 18446744073709551615,
    ledger_to                  SimpleAggregateFunction(max, UInt64),
    ledger_epoch               SimpleAggregateFunction(max, Int32) DEFAULT -1,
    ledger_span                SimpleAggregateFunction(sum, UInt64),
    ledger_gap                 SimpleAggregateFunction(sum, UInt64),
    ledger_events              SimpleAggregateFunction(sum, UInt64),
    ledger_late                SimpleAggregateFunction(sum, UInt64),
    ledger_invalid             SimpleAggregateFunction(sum, UInt64),
    ledger_erased              SimpleAggregateFunction(sum, UInt64),

    CONSTRAINT belongs_to_a_ledger CHECK ledger != '',
    CONSTRAINT ledger_counts_nothing CHECK deployment_id != '' OR messages = 0
)
ENGINE = {engine}
PARTITION BY ingested
ORDER BY (deployment_id, kafka_partition, ledger, range_to, replica_id, boot_id)
TTL ingested + INTERVAL {keep_10s}
SETTINGS {settings};

CREATE OR REPLACE VIEW producers {on_cluster}
COMMENT 'What came of each start of a producer in the days that its marks are kept, by stream and topic. No arguments.
stream: requests or replicas
topic: the topic and its id, as topic/id
deployment_id: whose requests or samples
replica_id: of which replica
boot_id: of which start of the producer, 32 hexadecimal digits
producer: name and version, as told last
first_sequence: the lowest sequence that came
last_sequence: the highest sequence that came
messages: messages that could be read
repeated: messages of these that had come before; nothing of them was counted again
missing: sequences between the first and the last that never came. Lost, or late by more than 63
last_seen: when the broker appended its last message, UTC'
AS
SELECT
    stream,
    toString(ledger) AS topic,
    deployment_id,
    replica_id,
    lower(hex(boot_id)) AS boot_id,
    argMax(m.producer, m.range_to) AS producer,
    min(m.first_sequence) AS first_sequence,
    max(m.last_sequence) AS last_sequence,
    sum(m.messages) AS messages,
    sum(m.repeated) AS repeated,
    sum(m.missing) AS missing,
    toDateTime(intDiv(max(m.last_append_ms), 1000), 'UTC') AS last_seen
FROM
(
    SELECT 'requests' AS stream, * FROM requests_marks
    UNION ALL
    SELECT 'replicas' AS stream, * FROM replicas_marks
) AS m
WHERE m.deployment_id != '' AND (m.deployment_id != '__other__' OR m.messages > 0)
GROUP BY m.stream, m.ledger, m.deployment_id, m.replica_id, m.boot_id;
