CREATE OR REPLACE VIEW replicas {on_cluster}
COMMENT 'How many replicas a deployment has: time-weighted means, so that a replica in a state for the whole step counts 1. One row for each step that a sample covers.
Arguments: deployment String, start DateTime, stop DateTime, step UInt32 (seconds, a positive multiple of 10). The range is aligned outward to whole steps.
t: start of the step, UTC; a multiple of step since 1970
seconds (s): length of the step that lies in the past, at least 1; rates and means divide by it
active (replicas): ready to serve, and those of a development deployment that are loading
starting (replicas): waiting plus loading
waiting (replicas): waiting for resources
loading (replicas): loading the model
stopping (replicas): shutting down'
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
    us_active / 1e6 / seconds AS active,
    (us_waiting + us_loading) / 1e6 / seconds AS starting,
    us_waiting / 1e6 / seconds AS waiting,
    us_loading / 1e6 / seconds AS loading,
    us_stopping / 1e6 / seconds AS stopping
FROM
(
    SELECT
        toStartOfInterval(window_start, toIntervalSecond({step:UInt32}), 'UTC') AS t,
        sum(waiting_us) AS us_waiting,
        sum(loading_us) AS us_loading,
        sum(active_us) AS us_active,
        sum(stopping_us) AS us_stopping
    FROM
    (
        SELECT deployment_id, window_start, waiting_us, loading_us, active_us, stopping_us
        FROM replicas_10s
        WHERE window_start >= multiIf(
            {step:UInt32} % 3600 = 0, toStartOfHour(clock - 120, 'UTC'),
            {step:UInt32} % 60 = 0, toStartOfMinute(clock - 120, 'UTC'),
            toDateTime(0, 'UTC'))
        UNION ALL
        SELECT deployment_id, window_start, waiting_us, loading_us, active_us, stopping_us
        FROM replicas_1m
        WHERE {step:UInt32} % 60 = 0 AND {step:UInt32} % 3600 != 0 AND window_start < toStartOfMinute(clock - 120, 'UTC')
        UNION ALL
        SELECT deployment_id, window_start, waiting_us, loading_us, active_us, stopping_us
        FROM replicas_1h
        WHERE {step:UInt32} % 3600 = 0 AND window_start < toStartOfHour(clock - 120, 'UTC')
    )
    WHERE ok = 0 AND deployment_id = {deployment:String} AND deployment_id != ''
        AND window_start >= intDiv(toUnixTimestamp({start:DateTime}), width) * width
        AND window_start < least(intDiv(toUnixTimestamp({stop:DateTime}) + width - 1, width) * width, 4294967295)
    GROUP BY t
    HAVING us_waiting + us_loading + us_active + us_stopping > 0
)
ORDER BY t;
