//! CPU time of a process, to the nanosecond, and the core that it runs on. No wall clock is read here.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

unsafe extern "C" {
    /// POSIX, and in glibc; the `libc` crate does not declare it for Linux.
    fn clock_getcpuclockid(pid: libc::pid_t, clock: *mut libc::clockid_t) -> libc::c_int;
}

/// CPU-nanoseconds that this process has used, all its threads together.
pub fn own_ns() -> u64 {
    read(libc::CLOCK_PROCESS_CPUTIME_ID).expect("every process has this clock")
}

/// CPU-nanoseconds that a process has used since its start: what /proc/PID/stat tells in hundredths of a second.
///
/// # Errors
/// When there is no such process.
pub fn ns_of(pid: u32) -> io::Result<u64> {
    let mut clock = 0;
    // SAFETY: the out-pointer lives across the call.
    let code = unsafe { clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    if code != 0 {
        return Err(io::Error::from_raw_os_error(code));
    }
    read(clock)
}

fn read(clock: libc::clockid_t) -> io::Result<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the out-pointer lives across the call.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
}

/// Which of the cores that this process may use is kept for what is measured; everything else shares the others.
#[derive(Debug, Clone)]
pub struct Cores {
    pub measured: Vec<usize>,
    pub others: Vec<usize>,
}

impl Cores {
    /// The last core is measured on. On a machine with one core everything shares it.
    ///
    /// # Errors
    /// When the system does not say which there are.
    pub fn split() -> io::Result<Self> {
        let mut others = allowed()?;
        let last = others.pop().ok_or(io::ErrorKind::NotFound)?;
        if others.is_empty() {
            others.push(last);
        }
        Ok(Self {
            measured: vec![last],
            others,
        })
    }
}

fn allowed() -> io::Result<Vec<usize>> {
    // SAFETY: the set is a plain value that the call fills, and CPU_ISSET stays below its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok((0..libc::CPU_SETSIZE as usize)
            .filter(|&core| libc::CPU_ISSET(core, &set))
            .collect())
    }
}

/// Lets the child run on these cores alone, and no longer than the thread that starts it.
pub fn confine(command: &mut Command, cores: &[usize]) {
    // SAFETY: the set is a plain value, and the cores come from `allowed`, below its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for &core in cores {
            libc::CPU_SET(core, &mut set);
        }
        set
    };
    // SAFETY: both calls are async-signal-safe and allocate nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0
                || libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) != 0
            {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}
