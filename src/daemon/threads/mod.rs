//! One process that serves many clients at once, a thread for each.

mod pool;
mod prethread;
pub mod worker;

/// A thread's stack, its stack for signals, a guard to each, and its buffer; and
/// what a process has anyway.
pub(crate) const MAPPINGS_PER_THREAD: u64 = 5;
pub(crate) const MAPPINGS: u64 = 100;
/// What vm.max_map_count is unless somebody changed it.
const USUAL_MAPPINGS: u64 = 65_530;

/// vm.max_map_count, proc_sys_vm(5).
pub(crate) fn mappings() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?;
    text.trim().parse().ok()
}

/// How many threads a worker may start with so many `mappings`. One more could be
/// started and then fail to map its stack for signals, which the library answers by
/// ending the process, and with it everybody's connection.
pub(crate) fn most_threads(mappings: Option<u64>) -> usize {
    let mappings = mappings.unwrap_or(USUAL_MAPPINGS);
    (mappings.saturating_sub(MAPPINGS) / MAPPINGS_PER_THREAD) as usize
}

#[cfg(test)]
mod tests {
    use super::most_threads;

    #[test]
    fn row_23_a_worker_starts_no_thread_that_cannot_be_mapped() {
        for (mappings, most) in [
            (Some(65_530), 13_086),
            (None, 13_086),
            (Some(105), 1),
            (Some(104), 0),
            (Some(0), 0),
        ] {
            assert_eq!(most_threads(mappings), most, "{mappings:?}");
        }
    }
}
