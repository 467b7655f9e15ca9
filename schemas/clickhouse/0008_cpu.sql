CREATE OR REPLACE VIEW cpu {on_cluster}
COMMENT 'What CPU and memory the replicas of a deployment use. One row for each step that a sample covers. Means and maxima are NULL where no replica has the reading.
Arguments: deployment String, start DateTime, stop DateTime, step UInt32 (seconds, a positive multiple of 10). The range is aligned outward to whole steps.
t: start of the step, UTC; a multiple of step since 1970
seconds (s): length of the step that lies in the past, at least 1; rates and means divide by it
replicas: replicas whose samples cover any part of the step
usage_cores_avg (cores): CPU in use - mean, over the replicas that have the reading, of the time-weighted mean of each
usage_cores_max (cores): CPU in use, highest single reading
limit_cores_avg (cores): CPU limit, mean as above
usage_ratio_avg (0 to 1): CPU in use over the limit, sample by sample, mean as above
memory_bytes_avg (bytes): working set (usage less inactive file cache), mean as above
memory_bytes_max (bytes): working set, highest single reading
memory_limit_bytes_avg (bytes): memory limit, mean as above
memory_ratio_avg (0 to 1): working set over the limit, sample by sample, mean as above'
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
    count() AS replicas,
    avgOrNullIf(cpu_cores_total * 1e6 / cpu_cores_covered, cpu_cores_covered > 0) AS usage_cores_avg,
    toFloat64(maxOrNullIf(cpu_cores_top, cpu_cores_covered > 0)) AS usage_cores_max,
    avgOrNullIf(cpu_limit_total * 1e6 / cpu_limit_covered, cpu_limit_covered > 0) AS limit_cores_avg,
    avgOrNullIf(cpu_ratio_total * 1e6 / cpu_ratio_covered, cpu_ratio_covered > 0) AS usage_ratio_avg,
    avgOrNullIf(memory_bytes_total * 1e6 / memory_bytes_covered, memory_bytes_covered > 0) AS memory_bytes_avg,
    toUInt64(maxOrNullIf(memory_bytes_top, memory_bytes_covered > 0)) AS memory_bytes_max,
    avgOrNullIf(memory_limit_total * 1e6 / memory_limit_covered, memory_limit_covered > 0) AS memory_limit_bytes_avg,
    avgOrNullIf(memory_ratio_total * 1e6 / memory_ratio_covered, memory_ratio_covered > 0) AS memory_ratio_avg
FROM
(
    -- a replica counts once, however much of the step its samples cover
    SELECT
        toStartOfInterval(window_start, toIntervalSecond({step:UInt32}), 'UTC') AS t,
        replica_id,
        sum(cpu_cores_integral) AS cpu_cores_total,
        sum(cpu_cores_us) AS cpu_cores_covered,
        max(cpu_cores_max) AS cpu_cores_top,
        sum(cpu_limit_integral) AS cpu_limit_total,
        sum(cpu_limit_us) AS cpu_limit_covered,
        sum(cpu_ratio_integral) AS cpu_ratio_total,
        sum(cpu_ratio_us) AS cpu_ratio_covered,
        sum(memory_bytes_integral) AS memory_bytes_total,
        sum(memory_bytes_us) AS memory_bytes_covered,
        max(memory_bytes_max) AS memory_bytes_top,
        sum(memory_limit_integral) AS memory_limit_total,
        sum(memory_limit_us) AS memory_limit_covered,
        sum(memory_ratio_integral) AS memory_ratio_total,
        sum(memory_ratio_us) AS memory_ratio_covered
    FROM
    (
        SELECT deployment_id, window_start, replica_id, waiting_us, loading_us, active_us, stopping_us,
                cpu_cores_integral, cpu_cores_us, cpu_cores_max, cpu_limit_integral, cpu_limit_us,
                cpu_ratio_integral, cpu_ratio_us, memory_bytes_integral, memory_bytes_us,
                memory_bytes_max, memory_limit_integral, memory_limit_us, memory_ratio_integral,
                memory_ratio_us
        FROM replicas_10s
        WHERE window_start >= multiIf(
            {step:UInt32} % 3600 = 0, toStartOfHour(clock - 120, 'UTC'),
            {step:UInt32} % 60 = 0, toStartOfMinute(clock - 120, 'UTC'),
            toDateTime(0, 'UTC'))
        UNION ALL
        SELECT deployment_id, window_start, replica_id, waiting_us, loading_us, active_us, stopping_us,
                cpu_cores_integral, cpu_cores_us, cpu_cores_max, cpu_limit_integral, cpu_limit_us,
                cpu_ratio_integral, cpu_ratio_us, memory_bytes_integral, memory_bytes_us,
                memory_bytes_max, memory_limit_integral, memory_limit_us, memory_ratio_integral,
                memory_ratio_us
        FROM replicas_1m
        WHERE {step:UInt32} % 60 = 0 AND {step:UInt32} % 3600 != 0 AND window_start < toStartOfMinute(clock - 120, 'UTC')
        UNION ALL
        SELECT deployment_id, window_start, replica_id, waiting_us, loading_us, active_us, stopping_us,
                cpu_cores_integral, cpu_cores_us, cpu_cores_max, cpu_limit_integral, cpu_limit_us,
                cpu_ratio_integral, cpu_ratio_us, memory_bytes_integral, memory_bytes_us,
                memory_bytes_max, memory_limit_integral, memory_limit_us, memory_ratio_integral,
                memory_ratio_us
        FROM replicas_1h
        WHERE {step:UInt32} % 3600 = 0 AND window_start < toStartOfHour(clock - 120, 'UTC')
    )
    WHERE ok = 0 AND deployment_id = {deployment:String} AND deployment_id != ''
        AND window_start >= intDiv(toUnixTimestamp({start:DateTime}), width) * width
        AND window_start < least(intDiv(toUnixTimestamp({stop:DateTime}) + width - 1, width) * width, 4294967295)
    GROUP BY t, replica_id
    HAVING sum(waiting_us + loading_us + active_us + stopping_us) > 0
)
GROUP BY t
ORDER BY t;
