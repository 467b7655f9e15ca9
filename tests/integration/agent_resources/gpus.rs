//! GPUs as the agent reads them, through the real wrapper and the stand-in library.

use std::time::Duration;

use modelmeter::agent::gpu::{GpuArgs, Gpus};
use modelmeter::agent::readings::NamedGpu;

use super::stand_in::StandIn;
use crate::support::wait_for;

/// A full look comes every two seconds, a retry after one, a list after sixty.
const SOON: Duration = Duration::from_secs(60);

/// Longer than every call into the stand-in that is meant to return.
const PATIENCE: Duration = Duration::from_secs(5);

const TWO: &str = "count 2
0.util 20\n0.odd 60\n0.used 3000\n0.total 8000\n0.sm 25
1.util 100\n1.used 500\n1.total 9000\n";

fn until(gpus: &mut Gpus, what: &str, holds: impl Fn(&[NamedGpu]) -> bool) -> Vec<NamedGpu> {
    wait_for(what, SOON, || {
        let readings = gpus.read();
        if holds(&readings) {
            Ok(readings)
        } else {
            Err(format!("{readings:?}"))
        }
    })
}

fn all_read(gpus: &[NamedGpu]) -> bool {
    !gpus.is_empty()
        && gpus
            .iter()
            .all(|gpu| gpu.reading.utilization.is_some() && gpu.reading.memory_used_bytes.is_some())
}

#[test]
fn utilisation_is_the_mean_of_all_samples_and_memory_is_bytes() {
    let stand_in = StandIn::new(TWO);
    let mut gpus = Gpus::start_with(&stand_in.args(), PATIENCE);
    let readings = until(&mut gpus, "both are read, with activity", |gpus| {
        all_read(gpus) && gpus[0].reading.sm_activity.is_some()
    });
    assert_eq!(readings.len(), 2);
    let (first, second) = (&readings[0], &readings[1]);
    assert_eq!((&*first.uuid, &*first.name), ("GPU-0", "Stand-in 0"));
    // Samples of 20 and 60 in turn: one more of either among some twenty moves the mean by a hundredth.
    let utilization = first.reading.utilization.expect("read");
    assert!((utilization - 0.4).abs() < 0.03, "{utilization}");
    assert_eq!(first.reading.memory_used_bytes, Some(3000));
    assert_eq!(first.reading.memory_total_bytes, Some(8000));
    assert_eq!(first.reading.sm_activity, Some(0.25));
    assert_eq!(second.reading.utilization, Some(1.0));
    assert_eq!(second.reading.sm_activity, None, "not offered");
}

#[test]
fn what_was_sampled_before_the_agent_is_not_the_replicas() {
    let stand_in = StandIn::new("count 1\n0.util 25\n0.before 100\n0.total 10\n");
    let mut gpus = Gpus::start_with(&stand_in.args(), PATIENCE);
    let readings = until(&mut gpus, "it is read", all_read);
    assert_eq!(readings[0].reading.utilization, Some(0.25));
}

#[test]
fn only_the_gpus_of_the_replica_are_read() {
    let stand_in = StandIn::new(TWO);
    let args = GpuArgs {
        cuda_visible_devices: Some("1".to_owned()),
        ..stand_in.args()
    };
    let mut gpus = Gpus::start_with(&args, PATIENCE);
    let readings = until(&mut gpus, "the one is read", all_read);
    assert_eq!(readings.len(), 1);
    assert_eq!(readings[0].uuid, "GPU-1");
    let hidden = GpuArgs {
        gpus: Some("none".to_owned()),
        ..stand_in.args()
    };
    assert_eq!(Gpus::start_with(&hidden, PATIENCE).read(), Vec::new());
}

#[test]
fn without_a_buffer_of_samples_the_rate_of_each_second_is_taken() {
    let stand_in = StandIn::new("count 1\n0.util 70\n0.buffer 3\n0.total 10\n");
    let mut gpus = Gpus::start_with(&stand_in.args(), PATIENCE);
    let readings = until(&mut gpus, "it is read", all_read);
    assert_eq!(readings[0].reading.utilization, Some(0.7));
}

#[test]
fn a_reading_without_permission_is_none_and_the_others_stay() {
    let stand_in = StandIn::new("count 1\n0.util 50\n0.memory 4\n0.total 10\n");
    let mut gpus = Gpus::start_with(&stand_in.args(), PATIENCE);
    let readings = until(&mut gpus, "utilisation is read", |gpus| {
        gpus.iter().any(|gpu| gpu.reading.utilization.is_some())
    });
    assert_eq!(readings[0].reading.memory_used_bytes, None);
    assert_eq!(readings[0].reading.memory_total_bytes, None);
    stand_in.set("count 1\n0.util 50\n0.total 10\n");
    until(&mut gpus, "memory is back", all_read);
}

#[test]
fn a_lost_gpu_is_none_leaves_the_other_alone_and_comes_back() {
    let stand_in = StandIn::new(TWO);
    let mut gpus = Gpus::start_with(&stand_in.args(), PATIENCE);
    until(&mut gpus, "both are read", all_read);
    stand_in.set(&format!("{TWO}1.lost 1\n"));
    let readings = until(&mut gpus, "the second is lost", |gpus| {
        gpus[1].reading.utilization.is_none()
    });
    assert_eq!(readings[1].uuid, "GPU-1", "it stays in the list");
    assert_eq!(readings[1].reading.memory_total_bytes, None);
    until(&mut gpus, "the first is read", |gpus| all_read(&gpus[..1]));
    stand_in.set(TWO);
    until(&mut gpus, "both are read again", all_read);
    assert_eq!(gpus.n_hangs(), 0);
}

#[test]
fn a_driver_that_is_loaded_anew_is_opened_anew() {
    let stand_in = StandIn::new(TWO);
    let mut gpus = Gpus::start_with(&stand_in.args(), PATIENCE);
    until(&mut gpus, "both are read", all_read);
    stand_in.set(&format!("{TWO}driver 2\n0.used 7\n"));
    until(&mut gpus, "the new driver is read", |gpus| {
        gpus[0].reading.memory_used_bytes == Some(7)
    });
    assert_eq!(gpus.n_hangs(), 0);
}

#[test]
fn a_call_that_hangs_is_given_up_and_a_new_thread_reads_on() {
    let stand_in = StandIn::new(TWO);
    let mut gpus = Gpus::start_with(&stand_in.args(), PATIENCE);
    until(&mut gpus, "both are read", all_read);
    stand_in.set(&format!("{TWO}0.hang 1\n"));
    let readings = until(&mut gpus, "readings are too old", |gpus| {
        gpus.iter().all(|gpu| gpu.reading.utilization.is_none())
    });
    assert_eq!(readings.len(), 2, "they stay in the list");
    until(&mut gpus, "nothing else", |_| true);
    wait_for("the thread is given up", SOON, || {
        gpus.read();
        (gpus.n_hangs() > 0).then_some(()).ok_or_else(String::new)
    });
    stand_in.set(TWO);
    until(&mut gpus, "both are read again", all_read);
}

#[test]
fn parts_of_a_gpu_have_memory_and_no_utilisation() {
    let stand_in = StandIn::new("count 1\n0.mig 2\n0.util 50\n0.used 5\n0.total 10\n");
    let mut gpus = Gpus::start_with(&stand_in.args(), PATIENCE);
    let readings = until(&mut gpus, "both parts are read", |gpus| {
        gpus.len() == 2
            && gpus
                .iter()
                .all(|gpu| gpu.reading.memory_used_bytes == Some(5))
    });
    let uuids: Vec<_> = readings.iter().map(|gpu| &*gpu.uuid).collect();
    assert_eq!(uuids, ["MIG-0-0", "MIG-0-1"]);
    assert!(readings.iter().all(|gpu| gpu.reading.utilization.is_none()));
}

#[test]
fn a_driver_that_comes_later_is_found() {
    // NVML_ERROR_DRIVER_NOT_LOADED
    let stand_in = StandIn::new("init 9\n");
    let mut gpus = Gpus::start_with(&stand_in.args(), PATIENCE);
    assert_eq!(gpus.read(), Vec::new());
    stand_in.set(TWO);
    until(&mut gpus, "both are read", all_read);
}
