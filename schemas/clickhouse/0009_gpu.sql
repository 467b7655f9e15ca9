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
    greatest({step:UInt32}, 1) AS width
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
        WHERE window_start >= multiIf(
            {step:UInt32} % 3600 = 0, toStartOfHour(clock - 120, 'UTC'),
            {step:UInt32} % 60 = 0, toStartOfMinute(clock - 120, 'UTC'),
            toDateTime(0, 'UTC'))
        UNION ALL
        SELECT deployment_id, window_start, replica_id, waiting_us, loading_us, active_us, stopping_us,
                gpu_utilization_integral, gpu_utilization_us, gpu_utilization_max,
                gpu_sm_activity_integral, gpu_sm_activity_us, gpu_memory_used_integral,
                gpu_memory_used_us, gpu_memory_used_max, gpu_memory_total_integral,
                gpu_memory_total_us, gpu_memory_ratio_integral, gpu_memory_ratio_us, gpus_max
        FROM replicas_1m
        WHERE {step:UInt32} % 60 = 0 AND {step:UInt32} % 3600 != 0 AND window_start < toStartOfMinute(clock - 120, 'UTC')
        UNION ALL
        SELECT deployment_id, window_start, replica_id, waiting_us, loading_us, active_us, stopping_us,
                gpu_utilization_integral, gpu_utilization_us, gpu_utilization_max,
                gpu_sm_activity_integral, gpu_sm_activity_us, gpu_memory_used_integral,
                gpu_memory_used_us, gpu_memory_used_max, gpu_memory_total_integral,
                gpu_memory_total_us, gpu_memory_ratio_integral, gpu_memory_ratio_us, gpus_max
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
