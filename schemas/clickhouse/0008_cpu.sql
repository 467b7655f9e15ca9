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
    avg(cpu_cores_mean) AS usage_cores_avg,
    toFloat64(max(cpu_cores_top)) AS usage_cores_max,
    avg(cpu_limit_mean) AS limit_cores_avg,
    avg(cpu_ratio_mean) AS usage_ratio_avg,
    avg(memory_bytes_mean) AS memory_bytes_avg,
    toUInt64(max(memory_bytes_top)) AS memory_bytes_max,
    avg(memory_limit_mean) AS memory_limit_bytes_avg,
    avg(memory_ratio_mean) AS memory_ratio_avg
FROM
(
    -- a replica counts once, however much of the step its samples cover
    SELECT
        toDateTime(intDiv(toInt64(toUnixTimestamp(window_start)), width) * width, 'UTC') AS t,
        replica_id,
        if(sum(cpu_cores_us) = 0, NULL, sum(cpu_cores_integral) * 1e6 / sum(cpu_cores_us)) AS cpu_cores_mean,
        if(sum(cpu_cores_us) = 0, NULL, max(cpu_cores_max)) AS cpu_cores_top,
        if(sum(cpu_limit_us) = 0, NULL, sum(cpu_limit_integral) * 1e6 / sum(cpu_limit_us)) AS cpu_limit_mean,
        if(sum(cpu_ratio_us) = 0, NULL, sum(cpu_ratio_integral) * 1e6 / sum(cpu_ratio_us)) AS cpu_ratio_mean,
        if(sum(memory_bytes_us) = 0, NULL, sum(memory_bytes_integral) * 1e6 / sum(memory_bytes_us)) AS memory_bytes_mean,
        if(sum(memory_bytes_us) = 0, NULL, max(memory_bytes_max)) AS memory_bytes_top,
        if(sum(memory_limit_us) = 0, NULL, sum(memory_limit_integral) * 1e6 / sum(memory_limit_us)) AS memory_limit_mean,
        if(sum(memory_ratio_us) = 0, NULL, sum(memory_ratio_integral) * 1e6 / sum(memory_ratio_us)) AS memory_ratio_mean
    FROM
    (
        SELECT window_start, replica_id,
                waiting_us + loading_us + active_us + stopping_us AS covered_us, cpu_cores_integral,
                cpu_cores_us, cpu_cores_max, cpu_limit_integral, cpu_limit_us, cpu_ratio_integral,
                cpu_ratio_us, memory_bytes_integral, memory_bytes_us, memory_bytes_max,
                memory_limit_integral, memory_limit_us, memory_ratio_integral, memory_ratio_us
        FROM replicas_10s
        WHERE ok = 0
            AND deployment_id = {deployment:String}
            AND deployment_id != ''
            AND window_start >= if(tier = 10, first, greatest(first, fresh))
            AND window_start < last
        UNION ALL
        SELECT window_start, replica_id,
                waiting_us + loading_us + active_us + stopping_us AS covered_us, cpu_cores_integral,
                cpu_cores_us, cpu_cores_max, cpu_limit_integral, cpu_limit_us, cpu_ratio_integral,
                cpu_ratio_us, memory_bytes_integral, memory_bytes_us, memory_bytes_max,
                memory_limit_integral, memory_limit_us, memory_ratio_integral, memory_ratio_us
        FROM replicas_1m
        WHERE ok = 0
            AND tier = 60
            AND deployment_id = {deployment:String}
            AND deployment_id != ''
            AND window_start >= first
            AND window_start < least(last, fresh)
        UNION ALL
        SELECT window_start, replica_id,
                waiting_us + loading_us + active_us + stopping_us AS covered_us, cpu_cores_integral,
                cpu_cores_us, cpu_cores_max, cpu_limit_integral, cpu_limit_us, cpu_ratio_integral,
                cpu_ratio_us, memory_bytes_integral, memory_bytes_us, memory_bytes_max,
                memory_limit_integral, memory_limit_us, memory_ratio_integral, memory_ratio_us
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
