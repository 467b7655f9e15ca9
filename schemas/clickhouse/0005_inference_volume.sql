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
cold_starts: requests that met a replica still loading'
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
    n_2xx / seconds AS rps_2xx,
    n_4xx / seconds AS rps_4xx,
    n_5xx / seconds AS rps_5xx,
    n_other / seconds AS rps_other,
    n_unclassified / seconds AS rps_unclassified,
    n_client_gone AS client_gone,
    n_cold_starts AS cold_starts
FROM
(
    SELECT
        toDateTime(intDiv(toInt64(toUnixTimestamp(window_start)), width) * width, 'UTC') AS t,
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
        SELECT window_start, requests, status_2xx, status_4xx, status_5xx, status_other, unclassified, client_gone, cold_starts
        FROM requests_10s
        WHERE ok = 0
            AND deployment_id = {deployment:String}
            AND deployment_id != ''
            AND window_start >= if(tier = 10, first, greatest(first, fresh))
            AND window_start < last
        UNION ALL
        SELECT window_start, requests, status_2xx, status_4xx, status_5xx, status_other, unclassified, client_gone, cold_starts
        FROM requests_1m
        WHERE ok = 0
            AND tier = 60
            AND deployment_id = {deployment:String}
            AND deployment_id != ''
            AND window_start >= first
            AND window_start < least(last, fresh)
        UNION ALL
        SELECT window_start, requests, status_2xx, status_4xx, status_5xx, status_other, unclassified, client_gone, cold_starts
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
