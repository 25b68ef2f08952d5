//! What a run costs this process.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

use crate::error::{Error, Result};

/// How long the calling thread was ready to run and had no processor, so far,
/// where the kernel counts that: see sched_schedstats in proc_sys_kernel(5), and
/// /proc/PID/schedstat.
pub fn thread_wait() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanos = text.split_whitespace().nth(1)?;
    nanos.parse().ok().map(Duration::from_nanos)
}

/// Processor time of the calling thread so far.
///
/// # Errors
/// getrusage(2)'s (71).
pub fn thread_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)
        .map_err(|errno| Error::os("getrusage", "echoload", errno))?;
    let time = |time: TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    Ok(time(usage.user_time()) + time(usage.system_time()))
}
