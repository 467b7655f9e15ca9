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
    (SELECT throwIf({step:UInt32} = 0 OR {step:UInt32} % 10 != 0,
        'step must be a positive multiple of 10 (seconds)')) AS ok,
    -- read once, so that every use below sees the same second
    ifNull((SELECT toInt64(toUnixTimestamp(now()))), 0) AS clock,
    -- no zero to divide by while ok is being found out
    toInt64(greatest({step:UInt32}, 1)) AS width,
    multiIf(width % 3600 = 0, 3600, width % 60 = 0, 60, 10) AS tier,
    -- the coarser tables lag; what is younger than this comes from the 10 s table
    toDateTime(intDiv(clock - 120, tier) * tier, 'UTC') AS fresh,
    -- the range, outward to whole steps; the last second of 2106 stands for everything after it
    toDateTime(intDiv(toInt64(toUnixTimestamp({start:DateTime})), width) * width, 'UTC') AS first,
    toDateTime(least(intDiv(toInt64(toUnixTimestamp({stop:DateTime})) + width - 1, width) * width, 4294967295), 'UTC') AS last
SELECT
    t,
    toUInt32(greatest(1, least(toInt64(toUnixTimestamp(t)) + width, clock) - toInt64(toUnixTimestamp(t)))) AS seconds,
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
        toDateTime(intDiv(toInt64(toUnixTimestamp(window_start)), width) * width, 'UTC') AS t,
        sum(requests) AS n_requests,
        arrayMap(us -> if(isNaN(us), NULL, us / 1000), quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(end_to_end)) AS end_to_end_ms,
        arrayMap(us -> if(isNaN(us), NULL, us / 1000), quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(inference)) AS inference_ms,
        arrayMap(us -> if(isNaN(us), NULL, us / 1000), quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(first_byte)) AS first_byte_ms,
        arrayMap(us -> if(isNaN(us), NULL, us / 1000), quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(queue)) AS queue_ms,
        arrayMap(us -> if(isNaN(us), NULL, us / 1000), quantilesDDMerge(0.01, 0.5, 0.9, 0.95, 0.99)(cold_start)) AS cold_start_ms
    FROM
    (
        SELECT window_start, requests, end_to_end, inference, first_byte, queue, cold_start
        FROM requests_10s
        WHERE ok = 0
            AND deployment_id = {deployment:String}
            AND deployment_id != ''
            AND window_start >= if(tier = 10, first, greatest(first, fresh))
            AND window_start < last
        UNION ALL
        SELECT window_start, requests, end_to_end, inference, first_byte, queue, cold_start
        FROM requests_1m
        WHERE ok = 0
            AND tier = 60
            AND deployment_id = {deployment:String}
            AND deployment_id != ''
            AND window_start >= first
            AND window_start < least(last, fresh)
        UNION ALL
        SELECT window_start, requests, end_to_end, inference, first_byte, queue, cold_start
        FROM requests_1h
        WHERE ok = 0
            AND tier = 3600
            AND deployment_id = {deployment:String}
            AND deployment_id != ''
            AND window_start >= first
            AND window_start < least(last, fresh)
    )
    GROUP BY t
    HAVING n_requests > 0
)
ORDER BY t;
