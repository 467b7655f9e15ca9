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
    count() AS replicas,
    sum(gpus_top) AS gpus,
    avg(gpu_utilization_mean) AS usage_ratio_avg,
    toFloat64(max(gpu_utilization_top)) AS usage_ratio_max,
    avg(gpu_memory_used_mean) AS memory_used_bytes_avg,
    toUInt64(max(gpu_memory_used_top)) AS memory_used_bytes_max,
    avg(gpu_memory_total_mean) AS memory_total_bytes_avg,
    avg(gpu_memory_ratio_mean) AS memory_ratio_avg,
    avg(gpu_sm_activity_mean) AS sm_activity_avg
FROM
(
    -- a replica counts once, however much of the step its samples cover
    SELECT
        toDateTime(intDiv(toInt64(toUnixTimestamp(window_start)), width) * width, 'UTC') AS t,
        replica_id,
        if(sum(gpu_utilization_us) = 0, NULL, sum(gpu_utilization_integral) * 1e6 / sum(gpu_utilization_us)) AS gpu_utilization_mean,
        if(sum(gpu_utilization_us) = 0, NULL, max(gpu_utilization_max)) AS gpu_utilization_top,
        if(sum(gpu_sm_activity_us) = 0, NULL, sum(gpu_sm_activity_integral) * 1e6 / sum(gpu_sm_activity_us)) AS gpu_sm_activity_mean,
        if(sum(gpu_memory_used_us) = 0, NULL, sum(gpu_memory_used_integral) * 1e6 / sum(gpu_memory_used_us)) AS gpu_memory_used_mean,
        if(sum(gpu_memory_used_us) = 0, NULL, max(gpu_memory_used_max)) AS gpu_memory_used_top,
        if(sum(gpu_memory_total_us) = 0, NULL, sum(gpu_memory_total_integral) * 1e6 / sum(gpu_memory_total_us)) AS gpu_memory_total_mean,
        if(sum(gpu_memory_ratio_us) = 0, NULL, sum(gpu_memory_ratio_integral) * 1e6 / sum(gpu_memory_ratio_us)) AS gpu_memory_ratio_mean,
        max(gpus_max) AS gpus_top
    FROM
    (
        SELECT window_start, replica_id,
                waiting_us + loading_us + active_us + stopping_us AS covered_us,
                gpu_utilization_integral, gpu_utilization_us, gpu_utilization_max,
                gpu_sm_activity_integral, gpu_sm_activity_us, gpu_memory_used_integral,
                gpu_memory_used_us, gpu_memory_used_max, gpu_memory_total_integral,
                gpu_memory_total_us, gpu_memory_ratio_integral, gpu_memory_ratio_us, gpus_max
        FROM replicas_10s
        WHERE ok = 0
            AND deployment_id = {deployment:String}
            AND deployment_id != ''
            AND window_start >= if(tier = 10, first, greatest(first, fresh))
            AND window_start < last
        UNION ALL
        SELECT window_start, replica_id,
                waiting_us + loading_us + active_us + stopping_us AS covered_us,
                gpu_utilization_integral, gpu_utilization_us, gpu_utilization_max,
                gpu_sm_activity_integral, gpu_sm_activity_us, gpu_memory_used_integral,
                gpu_memory_used_us, gpu_memory_used_max, gpu_memory_total_integral,
                gpu_memory_total_us, gpu_memory_ratio_integral, gpu_memory_ratio_us, gpus_max
        FROM replicas_1m
        WHERE ok = 0
            AND tier = 60
            AND deployment_id = {deployment:String}
            AND deployment_id != ''
            AND window_start >= first
            AND window_start < least(last, fresh)
        UNION ALL
        SELECT window_start, replica_id,
                waiting_us + loading_us + active_us + stopping_us AS covered_us,
                gpu_utilization_integral, gpu_utilization_us, gpu_utilization_max,
                gpu_sm_activity_integral, gpu_sm_activity_us, gpu_memory_used_integral,
                gpu_memory_used_us, gpu_memory_used_max, gpu_memory_total_integral,
                gpu_memory_total_us, gpu_memory_ratio_integral, gpu_memory_ratio_us, gpus_max
        FROM replicas_1h
        WHERE ok = 0
            AND tier = 3600
            AND deployment_id = {deployment:String}
            AND deployment_id != ''
            AND window_start >= first
            AND window_start < least(last, fresh)
    )
    GROUP BY t, replica_id
    HAVING sum(covered_us) > 0
)
GROUP BY t
ORDER BY t;
