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
    us_active / 1e6 / seconds AS active,
    (us_waiting + us_loading) / 1e6 / seconds AS starting,
    us_waiting / 1e6 / seconds AS waiting,
    us_loading / 1e6 / seconds AS loading,
    us_stopping / 1e6 / seconds AS stopping
FROM
(
    SELECT
        toDateTime(intDiv(toInt64(toUnixTimestamp(window_start)), width) * width, 'UTC') AS t,
        sum(waiting_us) AS us_waiting,
        sum(loading_us) AS us_loading,
        sum(active_us) AS us_active,
        sum(stopping_us) AS us_stopping
    FROM
    (
        SELECT window_start, waiting_us, loading_us, active_us, stopping_us
        FROM replicas_10s
        WHERE ok = 0
            AND deployment_id = {deployment:String}
            AND deployment_id != ''
            AND window_start >= if(tier = 10, first, greatest(first, fresh))
            AND window_start < last
        UNION ALL
        SELECT window_start, waiting_us, loading_us, active_us, stopping_us
        FROM replicas_1m
        WHERE ok = 0
            AND tier = 60
            AND deployment_id = {deployment:String}
            AND deployment_id != ''
            AND window_start >= first
            AND window_start < least(last, fresh)
        UNION ALL
        SELECT window_start, waiting_us, loading_us, active_us, stopping_us
        FROM replicas_1h
        WHERE ok = 0
            AND tier = 3600
            AND deployment_id = {deployment:String}
            AND deployment_id != ''
            AND window_start >= first
            AND window_start < least(last, fresh)
    )
    GROUP BY t
    HAVING us_waiting + us_loading + us_active + us_stopping > 0
)
ORDER BY t;
