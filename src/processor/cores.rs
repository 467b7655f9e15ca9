//! Which core a worker runs on.
//!
//! A worker is pinned together with its librdkafka threads: a message that one core allocates and another frees costs
//! nearly twice as much.

/// Chooses a core for each of `n` workers: `None` where there are more workers than cores, or the system does not say.
/// It begins where the scheduler has put us, so that two processes on one machine hardly begin on the same core.
pub fn choose(n: usize) -> Vec<Option<usize>> {
    let cores = allowed();
    if n > cores.len() {
        return vec![None; n];
    }
    // SAFETY: the call takes nothing and returns a number.
    let here = usize::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0);
    let first = cores.iter().position(|&core| core == here).unwrap_or(0);
    (0..n)
        .map(|number| Some(cores[(first + number) % cores.len()]))
        .collect()
}

/// The cores that this process may use.
fn allowed() -> Vec<usize> {
    // SAFETY: the set is a plain value that the call fills.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return Vec::new();
        }
        (0..libc::CPU_SETSIZE.cast_unsigned() as usize)
            .filter(|&core| libc::CPU_ISSET(core, &set))
            .collect()
    }
}

/// Binds the calling thread, and threads that it starts from now on, to one core.
pub fn pin(core: usize) {
    // SAFETY: the set is a plain value made here, and the call only reads it.
    let error = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if error != 0 {
        tracing::warn!(
            core,
            "the worker could not be pinned; it runs where the scheduler puts it"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_get_cores_of_their_own_or_none() {
        let n = allowed().len();
        let mut chosen: Vec<_> = choose(n).into_iter().flatten().collect();
        chosen.sort_unstable();
        assert_eq!(chosen, allowed());
        assert_eq!(choose(n + 1), vec![None; n + 1]);
    }
}
