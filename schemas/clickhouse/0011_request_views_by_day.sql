-- The views of requests anew, each tier bounded on its partition key. An event is stored on its own day or later, so that the
-- partitions of days before the range hold none of it; late events lie in later ones, so that there is no upper bound.
-- `inference_volume` also tells `rps_client_gone`.

CREATE OR REPLACE VIEW inference_volume {on_cluster}
COMMENT 'How much is asked of a deployment: requests by completion time, one row for each step that has requests.
Arguments: deployment String, start DateTime, stop DateTime, step UInt32 (seconds, a positive multiple of 10). The range is aligned outward to whole steps.
t: start of the step, UTC; a multiple of step since 1970
seconds (s): length of the step that lies in the past, at least 1; rates and means divide by it
requests: requests completed in the step
rps_2xx (1/s): requests a second with a status of 200 to 299
rps_4xx (1/s): requests a second with a status of 400 to 499, those that the client left (499) included
rps_5xx (1/s): requests a second with a status of 500 to 599, exceptions in the code of the model included
rps_other (1/s): requests a second with any other status
rps_unclassified (1/s): requests a second whose producer sent no status
client_gone: requests that the client left before their end (status 499 or that outcome), counted in their class too
rps_client_gone (1/s): the same, a second
cold_starts: requests that met a replica still loading'
AS
WITH
    -- evaluated while the query is planned, so that a wrong step is an error without rows too
    (SELECT throwIf({step:UInt32} = 0 OR {step:UInt32} % 10 != 0,
        'step must be a positive multiple of 10 (seconds)')) AS ok,
    -- one instant for the whole query, which now() would not be
    initialQueryStartTime() AS clock,
    -- nothing to divide by while ok is being found out
    greatest({step:UInt32}, 1) AS width,
    -- where the range begins, aligned; seconds since 1970
    intDiv(toUnixTimestamp({start:DateTime}), width) * width AS aligned,
    -- the 10 s windows from here on: the coarser ones before it are written each minute, and rest two minutes
    multiIf({step:UInt32} % 3600 = 0, toStartOfHour(clock - 120, 'UTC'),
        {step:UInt32} % 60 = 0, toStartOfMinute(clock - 120, 'UTC'),
        toDateTime(0, 'UTC')) AS edge,
    -- an event may be 5 min ahead of the broker's clock, and that one ahead of the processor's, which dates the rows: an
    -- hour leaves room for both
    toDateTime(greatest(aligned, 3600) - 3600, 'UTC') AS stored_since,
    toDateTime(greatest(aligned, toUnixTimestamp(edge), 3600) - 3600, 'UTC') AS newest_stored_since
SELECT
    t,
    toUInt32(greatest(1, least(toUnixTimestamp(t) + {step:UInt32}, toUnixTimestamp(clock)) - toInt64(toUnixTimestamp(t)))) AS seconds,
    n_requests AS requests,
    n_2xx / seconds AS rps_2xx,
    n_4xx / seconds AS rps_4xx,
    n_5xx / seconds AS rps_5xx,
    n_other / seconds AS rps_other,
    n_unclassified / seconds AS rps_unclassified,
    n_client_gone AS client_gone,
    n_client_gone / seconds AS rps_client_gone,
    n_cold_starts AS cold_starts
FROM
(
    SELECT
        toStartOfInterval(window_start, toIntervalSecond({step:UInt32}), 'UTC') AS t,
        sum(requests) AS n_requests,
        sum(status_2xx) AS n_2xx,
        sum(status_4xx) AS n_4xx,
        sum(status_5xx) AS n_5xx,
        sum(status_other) AS n_other,
        sum(unclassified) AS n_unclassified,
        sum(client_gone) AS n_client_gone,
        sum(cold_starts) AS n_cold_starts
    FROM
    (
        SELECT deployment_id, window_start, requests, status_2xx, status_4xx, status_5xx, status_other, unclassified, client_gone, cold_starts
        FROM requests_10s
        WHERE ingested >= toDate(newest_stored_since, 'UTC') AND window_start >= edge
        UNION ALL
        SELECT deployment_id, window_start, requests, status_2xx, status_4xx, status_5xx, status_other, unclassified, client_gone, cold_starts
        FROM requests_1m
        WHERE {step:UInt32} % 60 = 0 AND {step:UInt32} % 3600 != 0
            AND ingested >= toDate(stored_since, 'UTC') AND window_start < edge
        UNION ALL
        SELECT deployment_id, window_start, requests, status_2xx, status_4xx, status_5xx, status_other, unclassified, client_gone, cold_starts
        FROM requests_1h
        WHERE {step:UInt32} % 3600 = 0
            -- dated by the first day of the month
            AND ingested >= toStartOfMonth(stored_since, 'UTC') AND window_start < edge
    )
    WHERE ok = 0 AND deployment_id = {deployment:String} AND deployment_id != ''
        AND window_start >= aligned
        AND window_start < least(intDiv(toUnixTimestamp({stop:DateTime}) + width - 1, width) * width, 4294967295)
    GROUP BY t
    HAVING n_requests > 0
)
ORDER BY t;

CREATE OR REPLACE VIEW response_time {on_cluster}
COMMENT 'How fast a deployment answers: percentiles over all replicas, one row for each step that has requests. Each is within 1 % of the exact value, covers every request that has the reading, whatever its status, and is NULL where none has it.
Arguments: deployment String, start DateTime, stop DateTime, step UInt32 (seconds, a positive multiple of 10). The range is aligned outward to whole steps.
t: start of the step, UTC; a multiple of step since 1970
seconds (s): length of the step that lies in the past, at least 1; rates and means divide by it
requests: requests completed in the step, those without a reading included
end_to_end_p50_ms (ms): end-to-end time, percentile 50 - from arrival at the front door to the last byte that the model sent: cold start, queueing and inference included, the network of the client excluded
end_to_end_p90_ms (ms): end-to-end time, percentile 90
end_to_end_p95_ms (ms): end-to-end time, percentile 95
end_to_end_p99_ms (ms): end-to-end time, percentile 99
inference_p50_ms (ms): inference time, percentile 50 - from handing the request to the model server to the last byte it sent
inference_p90_ms (ms): inference time, percentile 90
inference_p95_ms (ms): inference time, percentile 95
inference_p99_ms (ms): inference time, percentile 99
first_byte_p50_ms (ms): time to first byte, percentile 50 - from arrival to the first byte of the response
first_byte_p90_ms (ms): time to first byte, percentile 90
first_byte_p95_ms (ms): time to first byte, percentile 95
first_byte_p99_ms (ms): time to first byte, percentile 99
queue_p50_ms (ms): queue time, percentile 50 - spent waiting for the model server, cold start excluded
queue_p90_ms (ms): queue time, percentile 90
queue_p95_ms (ms): queue time, percentile 95
queue_p99_ms (ms): queue time, percentile 99
cold_start_p50_ms (ms): cold start time, percentile 50 - spent waiting for a replica still loading, over the requests that met one
cold_start_p90_ms (ms): cold start time, percentile 90
cold_start_p95_ms (ms): cold start time, percentile 95
cold_start_p99_ms (ms): cold start time, percentile 99'
AS
WITH
    -- evaluated while the query is planned, so that a wrong step is an error without rows too
    (SELECT throwIf({step:UInt32} = 0 OR {step:UInt32} % 10 != 0,
        'step must be a positive multiple of 10 (seconds)')) AS ok,
    -- one instant for the whole query, which now() would not be
    initialQueryStartTime() AS clock,
    -- nothing to divide by while ok is being found out
    greatest({step:UInt32}, 1) AS width,
    -- where the range begins, aligned; seconds since 1970
    intDiv(toUnixTimestamp({start:DateTime}), width) * width AS aligned,
    -- the 10 s windows from here on: the coarser ones before it are written each minute, and rest two minutes
    multiIf({step:UInt32} % 3600 = 0, toStartOfHour(clock - 120, 'UTC'),
        {step:UInt32} % 60 = 0, toStartOfMinute(clock - 120, 'UTC'),
        toDateTime(0, 'UTC')) AS edge,
    -- an event may be 5 min ahead of the broker's clock, and that one ahead of the processor's, which dates the rows: an
    -- hour leaves room for both
    toDateTime(greatest(aligned, 3600) - 3600, 'UTC') AS stored_since,
    toDateTime(greatest(aligned, toUnixTimestamp(edge), 3600) - 3600, 'UTC') AS newest_stored_since
SELECT
    t,
    toUInt32(greatest(1, least(toUnixTimestamp(t) + {step:UInt32}, toUnixTimestamp(clock)) - toInt64(toUnixTimestamp(t)))) AS seconds,
    n_requests AS requests,
    end_to_end_ms[1] AS end_to_end_p50_ms,
    end_to_end_ms[2] AS end_to_end_p90_ms,
    end_to_end_ms[3] AS end_to_end_p95_ms,
    end_to_end_ms[4] AS end_to_end_p99_ms,
    inference_ms[1] AS inference_p50_ms,
    inference_ms[2] AS inference_p90_ms,
    inference_ms[3] AS inference_p95_ms,
    inference_ms[4] AS inference_p99_ms,
    first_byte_ms[1] AS first_byte_p50_ms,
    first_byte_ms[2] AS first_byte_p90_ms,
    first_byte_ms[3] AS first_byte_p95_ms,
    first_byte_ms[4] AS first_byte_p99_ms,
    queue_ms[1] AS queue_p50_ms,
    queue_ms[2] AS queue_p90_ms,
    queue_ms[3] AS queue_p95_ms,
    queue_ms[4] AS queue_p99_ms,
    cold_start_ms[1] AS cold_start_p50_ms,
    cold_start_ms[2] AS cold_start_p90_ms,
    cold_start_ms[3] AS cold_start_p95_ms,
    cold_start_ms[4] AS cold_start_p99_ms
FROM
(
    -- states are in microseconds; a percentile of no value is nan, which nobody should see
    SELECT
        toStartOfInterval(window_start, toIntervalSecond({step:UInt32}), 'UTC') AS t,
        sum(requests) AS n_requests,
        arrayMap(us -> if(isNaN(us), NULL, us / 1000), quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(end_to_end)) AS end_to_end_ms,
        arrayMap(us -> if(isNaN(us), NULL, us / 1000), quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(inference)) AS inference_ms,
        arrayMap(us -> if(isNaN(us), NULL, us / 1000), quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(first_byte)) AS first_byte_ms,
        arrayMap(us -> if(isNaN(us), NULL, us / 1000), quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(queue)) AS queue_ms,
        arrayMap(us -> if(isNaN(us), NULL, us / 1000), quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(cold_start)) AS cold_start_ms
    FROM
    (
        SELECT deployment_id, window_start, requests, end_to_end, inference, first_byte, queue, cold_start
        FROM requests_10s
        WHERE ingested >= toDate(newest_stored_since, 'UTC') AND window_start >= edge
        UNION ALL
        SELECT deployment_id, window_start, requests, end_to_end, inference, first_byte, queue, cold_start
        FROM requests_1m
        WHERE {step:UInt32} % 60 = 0 AND {step:UInt32} % 3600 != 0
            AND ingested >= toDate(stored_since, 'UTC') AND window_start < edge
        UNION ALL
        SELECT deployment_id, window_start, requests, end_to_end, inference, first_byte, queue, cold_start
        FROM requests_1h
        WHERE {step:UInt32} % 3600 = 0
            -- dated by the first day of the month
            AND ingested >= toStartOfMonth(stored_since, 'UTC') AND window_start < edge
    )
    WHERE ok = 0 AND deployment_id = {deployment:String} AND deployment_id != ''
        AND window_start >= aligned
        AND window_start < least(intDiv(toUnixTimestamp({stop:DateTime}) + width - 1, width) * width, 4294967295)
    GROUP BY t
    HAVING n_requests > 0
)
ORDER BY t;
