//! What this machine gives: limits of the kernel, of the user and of the control
//! groups, read and not judged. Where one is not set, or cannot be read (no
//! /proc, an older kernel), it is none.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit};

use crate::daemon::threads;

/// What there is of everything that `limits` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// RLIMIT_NOFILE, the soft one.
    pub open_files: Option<u64>,
    /// RLIMIT_NPROC, the soft one.
    pub user_processes: Option<u64>,
    /// kernel.pid_max.
    pub pid_max: Option<u64>,
    /// kernel.threads-max.
    pub threads_max: Option<u64>,
    /// Processes and threads there are now, of everybody.
    pub tasks: u64,
    /// vm.max_map_count.
    pub mappings: Option<u64>,
    /// net.core.somaxconn.
    pub somaxconn: Option<u64>,
    /// Bytes that processes can still have without swapping: MemAvailable.
    pub available: Option<u64>,
    /// The control group with the least room for tasks.
    pub pids: Option<Group>,
    /// The control group with the least room for memory, in bytes.
    pub memory: Option<Group>,
}

/// A control group that limits us, perhaps from above our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its path, as /proc/PID/cgroup has it.
    pub path: String,
    /// Its limit.
    pub most: u64,
    /// What of that is in use and stays so.
    pub used: u64,
}

impl Machine {
    /// Looks. RLIMIT_NPROC does not bind who `keeps_root`, see setrlimit(2).
    pub fn look(keeps_root: bool) -> Machine {
        let soft = |resource| getrlimit(resource).ok().map(|(soft, _)| soft);
        let kernel = |name: &str| number(&Path::new("/proc/sys").join(name));
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        Machine {
            open_files: soft(Resource::RLIMIT_NOFILE),
            user_processes: soft(Resource::RLIMIT_NPROC).filter(|_| !keeps_root),
            pid_max: kernel("kernel/pid_max"),
            threads_max: kernel("kernel/threads-max"),
            tasks: tasks().unwrap_or(0),
            mappings: threads::mappings(),
            somaxconn: kernel("net/core/somaxconn"),
            available: field(&memory, "MemAvailable:").map(|kib| kib * 1024),
            pids: least_room(&groups, "pids", tasks_of),
            memory: least_room(&groups, "memory", memory_of),
        }
    }
}

/// proc_loadavg(5): the fourth word is `running/all`.
fn tasks() -> Option<u64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split(' ').nth(3)?.split('/').nth(1)?.parse().ok()
}

/// The limit of the group in `dir` and what is used of it.
type Read = fn(dir: &Path) -> Option<(u64, u64)>;

fn tasks_of(dir: &Path) -> Option<(u64, u64)> {
    let used = number(&dir.join("pids.current")).unwrap_or(0);
    Some((number(&dir.join("pids.max"))?, used))
}

/// The page cache that a group is charged for is given up for its processes.
fn memory_of(dir: &Path) -> Option<(u64, u64)> {
    let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let file = |sum: &str, each: &str| field(&stat, sum).or_else(|| field(&stat, each));
    let cached = file("total_inactive_file", "inactive_file").unwrap_or(0)
        + file("total_active_file", "active_file").unwrap_or(0);
    let either = |new, old| number(&dir.join(new)).or_else(|| number(&dir.join(old)));
    let most = either("memory.max", "memory.limit_in_bytes")?;
    let used = either("memory.current", "memory.usage_in_bytes").unwrap_or(0);
    Some((most, used.saturating_sub(cached)))
}

/// The group with the least room, from our own to the root of those that we see.
fn least_room(groups: &str, controller: &str, read: Read) -> Option<Group> {
    let (root, path) = place(groups, controller)?;
    let below = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let limits = Path::new(path).ancestors().filter_map(|path| {
        let (most, used) = read(&below(path))?;
        let path = path.display().to_string();
        Some(Group { path, most, used })
    });
    limits.min_by_key(|group| group.most.saturating_sub(group.used))
}

/// Where the groups of `controller` are mounted, and which is ours: its own
/// hierarchy in version 1, else the one of version 2; see cgroups(7).
fn place<'a>(groups: &'a str, controller: &str) -> Option<(PathBuf, &'a str)> {
    let fields = |line: &'a str| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    };
    let mounted = Path::new("/sys/fs/cgroup");
    let own = |(names, _): &(&str, &str)| names.split(',').any(|name| name == controller);
    let mut all = groups.lines().filter_map(fields);
    if let Some((_, path)) = all.clone().find(own) {
        return Some((mounted.join(controller), path));
    }
    let (_, path) = all.find(|(names, _)| names.is_empty())?;
    Some((mounted.to_owned(), path))
}

/// The number after `name`, at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

/// The number a file holds, if it is one: `max` is none.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_group_is_found_in_either_version() {
        let old = "9:name=systemd:/\n8:pids:/a\n7:cpu,cpuacct:/b:c\n0::/d\n";
        let new = "0::/system.slice/echod.service\n";
        for (groups, controller, root, path) in [
            (old, "pids", "/sys/fs/cgroup/pids", "/a"),
            (old, "cpuacct", "/sys/fs/cgroup/cpuacct", "/b:c"),
            (old, "memory", "/sys/fs/cgroup", "/d"),
            (new, "pids", "/sys/fs/cgroup", "/system.slice/echod.service"),
        ] {
            let found = place(groups, controller);
            assert_eq!(found, Some((root.into(), path)), "{controller}");
        }
        assert_eq!(place("", "pids"), None);
        assert_eq!(place("garbage\n", "pids"), None);
    }

    #[test]
    fn what_groups_hold_is_read_in_either_version() {
        let dir = tempfile::tempdir().expect("a directory");
        let put = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("write");
        assert_eq!((tasks_of(dir.path()), memory_of(dir.path())), (None, None));
        put("pids.max", "max\n");
        assert_eq!(tasks_of(dir.path()), None);
        put("pids.max", "100\n");
        put("pids.current", "7\n");
        assert_eq!(tasks_of(dir.path()), Some((100, 7)));
        put("memory.limit_in_bytes", "5000\n");
        put("memory.usage_in_bytes", "900\n");
        put(
            "memory.stat",
            "inactive_file 1\ntotal_inactive_file 300\ntotal_active_file 100\n",
        );
        assert_eq!(memory_of(dir.path()), Some((5000, 500)));
        put("memory.max", "4000\n");
        put("memory.current", "800\n");
        put(
            "memory.stat",
            "anon 400\ninactive_file 300\nactive_file 100\n",
        );
        assert_eq!(memory_of(dir.path()), Some((4000, 400)));
    }

    /// Whatever it is here, it is there: no field has another name.
    #[test]
    fn this_machine_tells_its_limits() {
        if !Path::new("/proc/meminfo").exists() {
            return;
        }
        let machine = Machine::look(false);
        assert!(machine.open_files > Some(0) && machine.user_processes > Some(0));
        assert!(machine.pid_max > Some(300) && machine.threads_max > Some(0));
        assert!(machine.available > Some(1 << 20) && machine.tasks > 0);
        assert!(machine.somaxconn.is_some() && machine.mappings.is_some());
        assert_eq!(Machine::look(true).user_processes, None);
    }
}
