//! One GPU and how it is looked at: utilisation, memory, activity, each with its own failures.

use std::time::{Duration, Instant};

use nvml_wrapper::enum_wrappers::device::Sampling;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::enums::gpm::GpmMetricId;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::gpm::{GpmSample, gpm_metrics_get};
use nvml_wrapper::{Device, Nvml};

use super::board::{Look, Mean};
use super::visible::Candidate;

/// After as many looks without one new sample the buffer is taken for dead: a full look comes every two seconds, a
/// sample at least every second.
const EMPTY_LOOKS: u32 = 3;

/// Between tries of a reading that failed: from the first, doubling, to the last. What a GPU does not offer is asked
/// for again all the same, since a new driver or a right may be given to a running machine.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);

const PERCENT: f64 = 100.0;

/// Where utilisation comes from.
#[derive(Debug)]
enum Utilization {
    /// The driver's buffer of samples: nothing between two looks is missed.
    Buffer { last_seen_us: u64, n_empty: u32 },
    /// The driver's figure for the last moment, looked at each second.
    Rates,
}

/// One kind of reading, and when it is tried again after it failed.
#[derive(Debug)]
struct Part {
    name: &'static str,
    retry: Option<(Instant, Duration)>,
}

impl Part {
    const fn new(name: &'static str) -> Self {
        Self { name, retry: None }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.retry.is_none_or(|(at, _)| now >= at)
    }

    fn worked(&mut self, uuid: &str) {
        if self.retry.take().is_some() {
            tracing::info!(uuid, reading = self.name, "a gpu reading is back");
        }
    }

    /// One warning for as long as it fails.
    fn failed(&mut self, uuid: &str, error: &NvmlError, now: Instant) {
        let wait = match self.retry {
            None => {
                tracing::warn!(uuid, reading = self.name, %error, "a gpu reading cannot be taken");
                FIRST_RETRY
            }
            Some((_, before)) => (before * 2).min(LAST_RETRY),
        };
        self.retry = Some((now + wait, wait));
    }
}

/// Activity needs two samples; this is the earlier.
struct Earlier<'nvml> {
    sample: GpmSample<'nvml>,
    at: Instant,
}

pub struct Watched<'nvml> {
    candidate: Candidate,
    device: Device<'nvml>,
    utilization: Utilization,
    earlier: Option<Earlier<'nvml>>,
    whole: Part,
    utilization_part: Part,
    memory_part: Part,
    activity_part: Part,
}

impl<'nvml> Watched<'nvml> {
    pub fn new(candidate: Candidate, device: Device<'nvml>) -> Self {
        Self {
            candidate,
            device,
            utilization: Utilization::Buffer {
                last_seen_us: 0,
                n_empty: 0,
            },
            earlier: None,
            whole: Part::new("all"),
            utilization_part: Part::new("utilization"),
            memory_part: Part::new("memory"),
            activity_part: Part::new("sm activity"),
        }
    }

    /// Reads what is due: everything at a full look, else only what has no buffer. None where nothing was due.
    ///
    /// # Errors
    /// When the GPU is lost; also while it is not yet tried again.
    pub fn look(&mut self, nvml: &'nvml Nvml, is_full: bool) -> Result<Option<Look>, NvmlError> {
        let now = Instant::now();
        if !self.whole.is_due(now) {
            return Err(NvmlError::GpuLost);
        }
        if self.whole.retry.is_some() {
            self.device = self.open_again(nvml, now)?;
            self.earlier = None;
        }
        let mut look = Look::default();
        let looked = self.take(nvml, is_full, now, &mut look);
        match looked {
            Ok(any) => {
                self.whole.worked(&self.candidate.uuid);
                Ok(any.then_some(look))
            }
            Err(error) => {
                self.whole.failed(&self.candidate.uuid, &error, now);
                Err(error)
            }
        }
    }

    fn open_again(&mut self, nvml: &'nvml Nvml, now: Instant) -> Result<Device<'nvml>, NvmlError> {
        let opened = nvml
            .device_by_index(self.candidate.gpu_index)
            .and_then(|gpu| match self.candidate.mig_index {
                Some(part) => gpu.mig_device_by_index(part),
                None => Ok(gpu),
            })
            .and_then(|device| {
                // Another one may stand in its place by now; the next list will tell.
                (device.uuid()? == self.candidate.uuid)
                    .then_some(device)
                    .ok_or(NvmlError::GpuLost)
            });
        if let Err(error) = &opened {
            self.whole.failed(&self.candidate.uuid, error, now);
        }
        opened
    }

    fn take(
        &mut self,
        nvml: &'nvml Nvml,
        is_full: bool,
        now: Instant,
        look: &mut Look,
    ) -> Result<bool, NvmlError> {
        let uuid = &self.candidate.uuid;
        let has_rates = matches!(self.utilization, Utilization::Rates);
        let mut any = is_full;
        if (is_full || has_rates) && self.utilization_part.is_due(now) {
            let read = read_utilization(&self.device, &mut self.utilization, &mut look.utilization);
            keep(&mut self.utilization_part, uuid, now, read)?;
            any = true;
        }
        if is_full && self.memory_part.is_due(now) {
            let read = self.device.memory_info().map(|memory| {
                look.memory_used.add(memory.used as f64, 1.0);
                look.memory_total_bytes = Some(memory.total);
            });
            keep(&mut self.memory_part, uuid, now, read)?;
        }
        if is_full && self.activity_part.is_due(now) {
            let read = match self.candidate.mig_index {
                // A part's activity would need its instance's number, which the wrapper does not give for a part.
                Some(_) => Ok(()),
                None => read_activity(nvml, &self.device, &mut self.earlier, look),
            };
            if is_not_offered(&read) {
                // Most GPUs have no such counters: that is no failure to warn of.
                self.activity_part.retry = Some((now + LAST_RETRY, LAST_RETRY));
            } else {
                keep(&mut self.activity_part, uuid, now, read)?;
            }
        }
        Ok(any)
    }
}

/// Keeps a failure of one reading to itself; only the loss of the whole GPU goes on.
fn keep(
    part: &mut Part,
    uuid: &str,
    now: Instant,
    read: Result<(), NvmlError>,
) -> Result<(), NvmlError> {
    match read {
        Ok(()) => part.worked(uuid),
        Err(error) if is_loss(&error) => return Err(error),
        Err(error) => part.failed(uuid, &error, now),
    }
    Ok(())
}

fn is_loss(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::GpuLost
            | NvmlError::ResetRequired
            | NvmlError::Uninitialized
            | NvmlError::DriverNotLoaded
            | NvmlError::InvalidArg
    )
}

fn is_not_offered<T>(read: &Result<T, NvmlError>) -> bool {
    matches!(
        read,
        Err(NvmlError::NotSupported
            | NvmlError::FunctionNotFound
            | NvmlError::FailedToLoadSymbol(_))
    )
}

fn read_utilization(
    device: &Device<'_>,
    source: &mut Utilization,
    mean: &mut Mean,
) -> Result<(), NvmlError> {
    if let Utilization::Buffer {
        last_seen_us,
        n_empty,
    } = source
    {
        match device.samples(Sampling::GpuUtilization, *last_seen_us) {
            Ok(samples) => {
                let before = *last_seen_us;
                let mut is_empty = true;
                for sample in samples.iter().filter(|sample| sample.timestamp > before) {
                    is_empty = false;
                    *last_seen_us = sample.timestamp.max(*last_seen_us);
                    // The first look finds what was before this agent.
                    if before > 0 {
                        mean.add(fraction(percent(&sample.value)), 1.0);
                    }
                }
                *n_empty = if is_empty { *n_empty + 1 } else { 0 };
            }
            // So the library says that there is nothing since the last sample.
            Err(NvmlError::NotFound) => *n_empty += 1,
            refused if is_not_offered(&refused) => *n_empty = EMPTY_LOOKS,
            Err(error) => return Err(error),
        }
        if *n_empty < EMPTY_LOOKS {
            return Ok(());
        }
        *source = Utilization::Rates;
    }
    let rates = device.utilization_rates()?;
    mean.add(fraction(f64::from(rates.gpu)), 1.0);
    Ok(())
}

fn percent(value: &SampleValue) -> f64 {
    match *value {
        SampleValue::F64(value) => value,
        SampleValue::U32(value) => f64::from(value),
        SampleValue::U64(value) => value as f64,
        SampleValue::I64(value) => value as f64,
    }
}

fn fraction(percent: f64) -> f64 {
    (percent / PERCENT).clamp(0.0, 1.0)
}

fn read_activity<'nvml>(
    nvml: &'nvml Nvml,
    device: &Device<'nvml>,
    earlier: &mut Option<Earlier<'nvml>>,
    look: &mut Look,
) -> Result<(), NvmlError> {
    if earlier.is_none() && !device.gpm_support()? {
        return Err(NvmlError::NotSupported);
    }
    let now = Earlier {
        sample: device.gpm_sample()?,
        at: Instant::now(),
    };
    let Some(before) = earlier.replace(now) else {
        return Ok(());
    };
    let Some(now) = earlier.as_ref() else {
        return Ok(());
    };
    let metrics = gpm_metrics_get(nvml, &before.sample, &now.sample, &[GpmMetricId::SmUtil])?;
    for metric in metrics {
        let seconds = (now.at - before.at).as_secs_f64();
        let value = metric?.value;
        // Over too short a time the library divides by nothing.
        if value.is_finite() {
            look.sm_activity.add(fraction(value), seconds);
        }
    }
    Ok(())
}
