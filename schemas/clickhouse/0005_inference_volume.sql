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
    -- evaluated while the query is planned, so that a wrong step is an error without rows too
    (SELECT throwIf({step:UInt32} = 0 OR {step:UInt32} % 10 != 0,
        'step must be a positive multiple of 10 (seconds)')) AS ok,
    -- one instant for the whole query, which now() would not be
    initialQueryStartTime() AS clock,
    -- nothing to divide by while ok is being found out
    greatest({step:UInt32}, 1) AS width
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
        WHERE window_start >= multiIf(
            {step:UInt32} % 3600 = 0, toStartOfHour(clock - 120, 'UTC'),
            {step:UInt32} % 60 = 0, toStartOfMinute(clock - 120, 'UTC'),
            toDateTime(0, 'UTC'))
        UNION ALL
        SELECT deployment_id, window_start, requests, status_2xx, status_4xx, status_5xx, status_other, unclassified, client_gone, cold_starts
        FROM requests_1m
        WHERE {step:UInt32} % 60 = 0 AND {step:UInt32} % 3600 != 0 AND window_start < toStartOfMinute(clock - 120, 'UTC')
        UNION ALL
        SELECT deployment_id, window_start, requests, status_2xx, status_4xx, status_5xx, status_other, unclassified, client_gone, cold_starts
        FROM requests_1h
        WHERE {step:UInt32} % 3600 = 0 AND window_start < toStartOfHour(clock - 120, 'UTC')
    )
    WHERE ok = 0 AND deployment_id = {deployment:String} AND deployment_id != ''
        AND window_start >= intDiv(toUnixTimestamp({start:DateTime}), width) * width
        AND window_start < least(intDiv(toUnixTimestamp({stop:DateTime}) + width - 1, width) * width, 4294967295)
    GROUP BY t
    HAVING n_requests > 0
)
ORDER BY t;
