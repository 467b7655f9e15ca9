//! librdkafka's batch call doing nothing: the least that reading a topic costs, which the processor is measured beside.
//! It shares no code with the product's own consumer, so that it stays what it is when that changes.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use rdkafka_sys as sys;

use super::cpu;

/// Messages of one call, as in the product.
const BATCH: usize = 4_096;

/// What one call waits at most, as in the product.
const TIMEOUT_MS: i32 = 50;

/// A broker on the same machine answers in milliseconds; it may be busy.
const ANSWER: Duration = Duration::from_secs(30);

/// Ten million events are read in seconds.
const DEADLINE: Duration = Duration::from_secs(120);

/// The product's settings, `src/bus/fetch.rs`.
const SETTINGS: [(&str, &str); 10] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("queued.min.messages", "1000000"),
    ("queued.max.messages.kbytes", "262144"),
    ("fetch.queue.backoff.ms", "5"),
    ("fetch.wait.max.ms", "50"),
    ("fetch.message.max.bytes", "4194304"),
    ("fetch.max.bytes", "52428800"),
    ("check.crcs", "true"),
];

/// Reads a topic from its start to its end; gives the messages and the CPU-nanoseconds, the client's start among them.
///
/// # Errors
/// When the broker does not give all of it in time.
pub fn run(bootstrap: &str, topic: &str) -> anyhow::Result<(u64, u64)> {
    let begun = cpu::own_ns();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    config.set("group.id", "modelmeter-bench-call");
    for (key, value) in SETTINGS {
        config.set(key, value);
    }
    let consumer: BaseConsumer = config.create().context("the consumer cannot be made")?;
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER)?;
    let described = metadata
        .topics()
        .first()
        .context("Kafka has no such topic")?;
    let (mut partitions, mut wanted) = (TopicPartitionList::new(), 0);
    for partition in described.partitions() {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), ANSWER)?;
        partitions.add_partition_offset(topic, partition.id(), Offset::Offset(low))?;
        wanted += (high - low).unsigned_abs();
    }
    consumer.assign(&partitions)?;
    drain(&consumer, wanted)?;
    Ok((wanted, cpu::own_ns() - begun))
}

fn drain(consumer: &BaseConsumer, wanted: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    let mut buffer = vec![std::ptr::null_mut::<sys::rd_kafka_message_t>(); BATCH];
    // SAFETY: the consumer lives longer than the queue, which is destroyed below.
    let queue = unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
    let (mut n_read, mut n_failed) = (0, 0);
    while n_read < wanted && n_failed == 0 && Instant::now() < deadline {
        // SAFETY: the buffer has room for as many pointers as the call may write.
        let n = unsafe {
            sys::rd_kafka_consume_batch_queue(queue, TIMEOUT_MS, buffer.as_mut_ptr(), BATCH)
        };
        for &message in &buffer[..usize::try_from(n).unwrap_or(0)] {
            // SAFETY: the call handed the message over; it is read once, then destroyed once.
            let is_good = unsafe {
                let is_good =
                    (*message).err == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
                sys::rd_kafka_message_destroy(message);
                is_good
            };
            n_read += u64::from(is_good);
            n_failed += u64::from(!is_good);
        }
    }
    // SAFETY: it was got above and is not used after this.
    unsafe { sys::rd_kafka_queue_destroy(queue) };
    ensure!(n_failed == 0, "librdkafka handed over an error");
    if n_read < wanted {
        bail!("{n_read} of {wanted} messages in {} s", DEADLINE.as_secs());
    }
    Ok(())
}
