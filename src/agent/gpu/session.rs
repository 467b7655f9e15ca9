//! The thread that calls the library: opens it, finds the GPUs, looks at each at its turn, and begins again where the
//! driver went away. Each stretch of calls begins with a sign on the board, so that a call that never returns is seen.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

use super::Wanted;
use super::board::Board;
use super::visible::Candidate;
use super::watched::Watched;

/// Between two looks where the library has no buffer of samples: its own figure covers at most a second.
const TICK: Duration = Duration::from_secs(1);

/// The buffer, memory and activity are looked at every other tick: a sample is then at most this far behind, and the
/// buffer (some 100 samples) cannot run over.
const TICKS_A_FULL_LOOK: u64 = 2;

/// The list of GPUs is read anew every minute: parts of a GPU in MIG mode come and go.
const TICKS_A_LIST: u64 = 60;

/// Between tries to open the library: from the first, doubling, to the last. A driver that is being installed takes
/// minutes; a machine without one costs a failed open every five.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(300);

/// Starts the thread. Where the system gives none there are no readings, and a warning.
pub fn start(wanted: Wanted, board: Arc<Board>) {
    let started = std::thread::Builder::new()
        .name("gpu".to_owned())
        .spawn(move || {
            run(&wanted, &board);
            board.ends();
        });
    if let Err(error) = started {
        tracing::warn!(%error, "no thread for the gpus can be started");
    }
}

/// Why the GPUs have to be found anew.
enum Over {
    /// The list differs from the one that is watched.
    Changed,
    /// No GPU answers any more, or none could be found.
    Failed(NvmlError),
    GivenUp,
}

fn run(wanted: &Wanted, board: &Board) {
    let mut wait = FIRST_RETRY;
    let mut has_warned = false;
    loop {
        if !board.calls(Instant::now()) {
            return;
        }
        let began = Instant::now();
        let error = match open(wanted) {
            Ok(nvml) => match stay(&nvml, wanted, board, &mut has_warned) {
                Some(error) => error,
                None => return,
            },
            Err(error) => error,
        };
        if began.elapsed() > LAST_RETRY {
            wait = FIRST_RETRY;
        }
        if !std::mem::replace(&mut has_warned, true) {
            warn(wanted, &error);
        }
        if !board.rests(wait) {
            return;
        }
        wait = (wait * 2).min(LAST_RETRY);
    }
}

fn open(wanted: &Wanted) -> Result<Nvml, NvmlError> {
    match &wanted.library {
        Some(path) => Nvml::builder().lib_path(path.as_os_str()).init(),
        None => Nvml::init(),
    }
}

fn warn(wanted: &Wanted, error: &NvmlError) {
    if wanted.visible.is_asked_for() || wanted.library.is_some() {
        tracing::warn!(%error, "the gpus cannot be read");
    } else {
        tracing::info!(%error, "no gpu is read here");
    }
}

/// Watches for as long as the library answers; gives why it does not, or none where the thread was given up.
fn stay(nvml: &Nvml, wanted: &Wanted, board: &Board, has_warned: &mut bool) -> Option<NvmlError> {
    loop {
        let over = match find(nvml, wanted) {
            Ok(found) => {
                if std::mem::take(has_warned) {
                    tracing::info!(n_gpus = found.len(), "the gpus can be read again");
                }
                watch(nvml, wanted, board, found)
            }
            Err(error) => Over::Failed(error),
        };
        match over {
            Over::Changed => {}
            Over::Failed(error) => return Some(error),
            Over::GivenUp => return None,
        }
    }
}

/// Looks at each GPU, tick by tick.
fn watch(nvml: &Nvml, wanted: &Wanted, board: &Board, found: Vec<Found<'_>>) -> Over {
    let candidates: Vec<Candidate> = found.iter().map(|gpu| gpu.candidate.clone()).collect();
    let names: Vec<(String, String)> = found
        .iter()
        .map(|gpu| (gpu.candidate.uuid.clone(), gpu.name.clone()))
        .collect();
    board.set_gpus(&names);
    let mut watched: Vec<Watched<'_>> = found
        .into_iter()
        .map(|gpu| Watched::new(gpu.candidate, gpu.device))
        .collect();
    for tick in 0_u64.. {
        let mut last_loss = None;
        let mut n_lost = 0;
        for (at, gpu) in watched.iter_mut().enumerate() {
            // A sign before each GPU: ten slow ones are not one that hangs.
            if !board.calls(Instant::now()) {
                return Over::GivenUp;
            }
            match gpu.look(nvml, tick.is_multiple_of(TICKS_A_FULL_LOOK)) {
                Ok(Some(look)) => board.add(at, &look, Instant::now()),
                Ok(None) => {}
                Err(error) => {
                    n_lost += 1;
                    last_loss = Some(error);
                }
            }
        }
        // One that is lost does not take the others with it. When none is left the library itself may be the cause.
        if let Some(error) = last_loss.filter(|_| n_lost == watched.len()) {
            return Over::Failed(error);
        }
        if tick % TICKS_A_LIST == TICKS_A_LIST - 1 && has_changed(nvml, wanted, &candidates) {
            return Over::Changed;
        }
        if !board.rests(TICK) {
            return Over::GivenUp;
        }
    }
    Over::GivenUp
}

fn has_changed(nvml: &Nvml, wanted: &Wanted, before: &[Candidate]) -> bool {
    find(nvml, wanted).is_ok_and(|now| !now.iter().map(|gpu| &gpu.candidate).eq(before))
}

/// A GPU that the replica can see.
struct Found<'nvml> {
    candidate: Candidate,
    name: String,
    device: Device<'nvml>,
}

fn find<'nvml>(nvml: &'nvml Nvml, wanted: &Wanted) -> Result<Vec<Found<'nvml>>, NvmlError> {
    let mut all = Vec::new();
    let mut last_error = None;
    for index in 0..nvml.device_count()? {
        // One that cannot be opened (lost, or not this container's) does not hide the others.
        if let Err(error) = find_at(nvml, index, &mut all) {
            last_error = Some(error);
        }
    }
    if let (true, Some(error)) = (all.is_empty(), last_error) {
        return Err(error);
    }
    let candidates: Vec<Candidate> = all.iter().map(|gpu| gpu.candidate.clone()).collect();
    let picked = wanted.visible.pick(&candidates);
    let mut found = Vec::with_capacity(picked.len());
    for candidate in picked {
        if let Some(at) = all.iter().position(|gpu| gpu.candidate == candidate) {
            found.push(all.swap_remove(at));
        }
    }
    Ok(found)
}

/// A whole GPU, or in MIG mode its parts.
fn find_at<'nvml>(
    nvml: &'nvml Nvml,
    index: u32,
    found: &mut Vec<Found<'nvml>>,
) -> Result<(), NvmlError> {
    let device = nvml.device_by_index(index)?;
    let (gpu_uuid, name) = (device.uuid()?, device.name()?);
    // A GPU that knows no such mode is whole.
    let is_split = device
        .mig_mode()
        .is_ok_and(|mode| mode.current != MIG_DISABLED);
    if !is_split {
        found.push(Found {
            candidate: Candidate {
                uuid: gpu_uuid.clone(),
                gpu_uuid,
                gpu_index: index,
                mig_index: None,
            },
            name,
            device,
        });
        return Ok(());
    }
    for part in 0..device.mig_device_count()? {
        // The count is of places; most may be empty.
        let Ok(device) = device.mig_device_by_index(part) else {
            continue;
        };
        found.push(Found {
            candidate: Candidate {
                uuid: device.uuid()?,
                gpu_uuid: gpu_uuid.clone(),
                gpu_index: index,
                mig_index: Some(part),
            },
            name: device.name().unwrap_or_else(|_| name.clone()),
            device,
        });
    }
    Ok(())
}

/// NVML_DEVICE_MIG_DISABLE
const MIG_DISABLED: u32 = 0;
