-- The views of replicas anew, each tier bounded on its partition key. An event is stored on its own day or later, so that the
-- partitions of days before the range hold none of it; late events lie in later ones, so that there is no upper bound.

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
        WHERE ingested >= toDate(newest_stored_since, 'UTC') AND window_start >= edge
        UNION ALL
        SELECT deployment_id, window_start, waiting_us, loading_us, active_us, stopping_us
        FROM replicas_1m
        WHERE {step:UInt32} % 60 = 0 AND {step:UInt32} % 3600 != 0
            AND ingested >= toDate(stored_since, 'UTC') AND window_start < edge
        UNION ALL
        SELECT deployment_id, window_start, waiting_us, loading_us, active_us, stopping_us
        FROM replicas_1h
        WHERE {step:UInt32} % 3600 = 0
            -- dated by the first day of the month
            AND ingested >= toStartOfMonth(stored_since, 'UTC') AND window_start < edge
    )
    WHERE ok = 0 AND deployment_id = {deployment:String} AND deployment_id != ''
        AND window_start >= aligned
        AND window_start < least(intDiv(toUnixTimestamp({stop:DateTime}) + width - 1, width) * width, 4294967295)
    GROUP BY t
    HAVING us_waiting + us_loading + us_active + us_stopping > 0
)
ORDER BY t;

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
        WHERE ingested >= toDate(newest_stored_since, 'UTC') AND window_start >= edge
        UNION ALL
        SELECT deployment_id, window_start, replica_id, waiting_us, loading_us, active_us, stopping_us,
                cpu_cores_integral, cpu_cores_us, cpu_cores_max, cpu_limit_integral, cpu_limit_us,
                cpu_ratio_integral, cpu_ratio_us, memory_bytes_integral, memory_bytes_us,
                memory_bytes_max, memory_limit_integral, memory_limit_us, memory_ratio_integral,
                memory_ratio_us
        FROM replicas_1m
        WHERE {step:UInt32} % 60 = 0 AND {step:UInt32} % 3600 != 0
            AND ingested >= toDate(stored_since, 'UTC') AND window_start < edge
        UNION ALL
        SELECT deployment_id, window_start, replica_id, waiting_us, loading_us, active_us, stopping_us,
                cpu_cores_integral, cpu_cores_us, cpu_cores_max, cpu_limit_integral, cpu_limit_us,
                cpu_ratio_integral, cpu_ratio_us, memory_bytes_integral, memory_bytes_us,
                memory_bytes_max, memory_limit_integral, memory_limit_us, memory_ratio_integral,
                memory_ratio_us
        FROM replicas_1h
        WHERE {step:UInt32} % 3600 = 0
            -- dated by the first day of the month
            AND ingested >= toStartOfMonth(stored_since, 'UTC') AND window_start < edge
    )
    WHERE ok = 0 AND deployment_id = {deployment:String} AND deployment_id != ''
        AND window_start >= aligned
        AND window_start < least(intDiv(toUnixTimestamp({stop:DateTime}) + width - 1, width) * width, 4294967295)
    GROUP BY t, replica_id
    HAVING sum(waiting_us + loading_us + active_us + stopping_us) > 0
)
GROUP BY t
ORDER BY t;

CREATE OR REPLACE VIEW gpu {on_cluster}
COMMENT 'What the GPUs of a deployment do. One row for each step that a sample covers. Means and maxima are NULL where no replica has the reading. A sample gives the mean over its own GPUs that have the reading.
Arguments: deployment String, start DateTime, stop DateTime, step UInt32 (seconds, a positive multiple of 10). The range is aligned outward to whole steps.
t: start of the step, UTC; a multiple of step since 1970
seconds (s): length of the step that lies in the past, at least 1; rates and means divide by it
replicas: replicas whose samples cover any part of the step
gpus: GPUs of these replicas, the most that each had in the step
usage_ratio_avg (0 to 1): share of time in which a kernel occupied the GPU - mean, over the replicas that have the reading, of the time-weighted mean of each
usage_ratio_max (0 to 1): the same, highest single reading of a single GPU
memory_used_bytes_avg (bytes): GPU memory in use a GPU, mean as above
memory_used_bytes_max (bytes): GPU memory in use, highest single reading of a single GPU
memory_total_bytes_avg (bytes): GPU memory there is a GPU, mean as above
memory_ratio_avg (0 to 1): GPU memory in use over what there is, GPU by GPU, mean as above
sm_activity_avg (0 to 1): share of the streaming multiprocessors in use, mean as above'
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
    count() AS replicas,
    sum(gpus_top) AS gpus,
    avgOrNullIf(gpu_utilization_total * 1e6 / gpu_utilization_covered, gpu_utilization_covered > 0) AS usage_ratio_avg,
    toFloat64(maxOrNullIf(gpu_utilization_top, gpu_utilization_covered > 0)) AS usage_ratio_max,
    avgOrNullIf(gpu_memory_used_total * 1e6 / gpu_memory_used_covered, gpu_memory_used_covered > 0) AS memory_used_bytes_avg,
    toUInt64(maxOrNullIf(gpu_memory_used_top, gpu_memory_used_covered > 0)) AS memory_used_bytes_max,
    avgOrNullIf(gpu_memory_total_total * 1e6 / gpu_memory_total_covered, gpu_memory_total_covered > 0) AS memory_total_bytes_avg,
    avgOrNullIf(gpu_memory_ratio_total * 1e6 / gpu_memory_ratio_covered, gpu_memory_ratio_covered > 0) AS memory_ratio_avg,
    avgOrNullIf(gpu_sm_activity_total * 1e6 / gpu_sm_activity_covered, gpu_sm_activity_covered > 0) AS sm_activity_avg
FROM
(
    -- a replica counts once, however much of the step its samples cover
    SELECT
        toStartOfInterval(window_start, toIntervalSecond({step:UInt32}), 'UTC') AS t,
        replica_id,
        sum(gpu_utilization_integral) AS gpu_utilization_total,
        sum(gpu_utilization_us) AS gpu_utilization_covered,
        max(gpu_utilization_max) AS gpu_utilization_top,
        sum(gpu_sm_activity_integral) AS gpu_sm_activity_total,
        sum(gpu_sm_activity_us) AS gpu_sm_activity_covered,
        sum(gpu_memory_used_integral) AS gpu_memory_used_total,
        sum(gpu_memory_used_us) AS gpu_memory_used_covered,
        max(gpu_memory_used_max) AS gpu_memory_used_top,
        sum(gpu_memory_total_integral) AS gpu_memory_total_total,
        sum(gpu_memory_total_us) AS gpu_memory_total_covered,
        sum(gpu_memory_ratio_integral) AS gpu_memory_ratio_total,
        sum(gpu_memory_ratio_us) AS gpu_memory_ratio_covered,
        max(gpus_max) AS gpus_top
    FROM
    (
        SELECT deployment_id, window_start, replica_id, waiting_us, loading_us, active_us, stopping_us,
                gpu_utilization_integral, gpu_utilization_us, gpu_utilization_max,
                gpu_sm_activity_integral, gpu_sm_activity_us, gpu_memory_used_integral,
                gpu_memory_used_us, gpu_memory_used_max, gpu_memory_total_integral,
                gpu_memory_total_us, gpu_memory_ratio_integral, gpu_memory_ratio_us, gpus_max
        FROM replicas_10s
        WHERE ingested >= toDate(newest_stored_since, 'UTC') AND window_start >= edge
        UNION ALL
        SELECT deployment_id, window_start, replica_id, waiting_us, loading_us, active_us, stopping_us,
                gpu_utilization_integral, gpu_utilization_us, gpu_utilization_max,
                gpu_sm_activity_integral, gpu_sm_activity_us, gpu_memory_used_integral,
                gpu_memory_used_us, gpu_memory_used_max, gpu_memory_total_integral,
                gpu_memory_total_us, gpu_memory_ratio_integral, gpu_memory_ratio_us, gpus_max
        FROM replicas_1m
        WHERE {step:UInt32} % 60 = 0 AND {step:UInt32} % 3600 != 0
            AND ingested >= toDate(stored_since, 'UTC') AND window_start < edge
        UNION ALL
        SELECT deployment_id, window_start, replica_id, waiting_us, loading_us, active_us, stopping_us,
                gpu_utilization_integral, gpu_utilization_us, gpu_utilization_max,
                gpu_sm_activity_integral, gpu_sm_activity_us, gpu_memory_used_integral,
                gpu_memory_used_us, gpu_memory_used_max, gpu_memory_total_integral,
                gpu_memory_total_us, gpu_memory_ratio_integral, gpu_memory_ratio_us, gpus_max
        FROM replicas_1h
        WHERE {step:UInt32} % 3600 = 0
            -- dated by the first day of the month
            AND ingested >= toStartOfMonth(stored_since, 'UTC') AND window_start < edge
    )
    WHERE ok = 0 AND deployment_id = {deployment:String} AND deployment_id != ''
        AND window_start >= aligned
        AND window_start < least(intDiv(toUnixTimestamp({stop:DateTime}) + width - 1, width) * width, 4294967295)
    GROUP BY t, replica_id
    HAVING sum(waiting_us + loading_us + active_us + stopping_us) > 0
)
GROUP BY t
ORDER BY t;
