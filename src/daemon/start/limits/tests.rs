//! What a configuration needs, and what is said of a machine that lacks it.

use super::*;
use crate::cli::echod::parse;

fn config(words: &str) -> Config {
    let words = ["echod"].into_iter().chain(words.split_whitespace());
    parse(words.map(Into::into)).expect("a command line")
}

/// One that has exactly what `demand` needs, with 50 tasks running on it and 10
/// of everything used in our groups.
fn just_enough(demand: &Demand) -> Machine {
    let group = |path: &str, unit, need: u64| Group {
        path: path.to_owned(),
        most: (need + 10) * unit,
        used: 10 * unit,
    };
    let mib = demand.memory.div_ceil(MIB);
    Machine {
        open_files: Some(demand.descriptors),
        user_processes: Some(demand.tasks),
        pid_max: Some(demand.tasks + 50 + 300),
        threads_max: Some(demand.tasks + 50),
        tasks: 50,
        mappings: Some(demand.mappings),
        somaxconn: Some(demand.backlog.map_or(0, u64::from)),
        available: Some(mib * MIB),
        pids: Some(group("/tasks", 1, demand.tasks)),
        memory: Some(group("/memory", MIB, mib)),
    }
}

#[test]
fn what_each_design_needs() {
    // tasks, descriptors, MiB
    for (words, tasks, descriptors, mib) in [
        ("-c 20000", 20004, 26, 2149),
        ("-c 20000 -m fork --reap ignore", 20004, 26, 2149),
        ("-c 20000 -m fork --reap double-fork", 20004, 20026, 5202),
        ("-c 20000 -m thread", 20004, 20026, 782),
        (
            "-c 20000 --accept reuseport --start-servers 8",
            20004,
            40,
            2149,
        ),
        ("-c 20000 --accept pass", 20004, 26 + 64, 2149),
        ("-c 20000 -l udp:h:1 -l unixgram:@x", 20008, 28, 2150),
    ] {
        let demand = demand(&config(words));
        let found = (
            demand.tasks,
            demand.descriptors,
            demand.memory.div_ceil(MIB),
        );
        assert_eq!(found, (tasks, descriptors, mib), "{words}");
    }
    assert_eq!(demand(&config("-c 9 -m thread")).mappings, 5 * 13 + 100);
    assert_eq!(demand(&config("-c 9")).backlog, None);
    let own = "--backlog 64 -l h:1 -l h:2,backlog=100 -l h:3,backlog=7";
    assert_eq!(demand(&config(own)).backlog, Some(100));
}

#[test]
fn one_line_names_each_limit_and_by_how_much() {
    let demand = Demand {
        clients: 1000,
        tasks: 1004,
        descriptors: 26,
        mappings: 100,
        memory: 98 * MIB,
        backlog: Some(5000),
    };
    let enough = just_enough(&demand);
    assert_eq!(lacking(&demand, &enough), None);
    assert_eq!(lacking(&demand, &Machine::default()), None, "none is known");
    type Take = fn(&mut Machine);
    let less = |limit: &mut Option<u64>, by| *limit = limit.map(|have| have - by);
    let take: [(Take, &str); 9] = [
        (
            |m| m.open_files = Some(20),
            "open files (ulimit -n) is 20, needed are 26, 6 more",
        ),
        (
            |m| m.user_processes = Some(1003),
            "processes (ulimit -u) is 1003, needed are 1004, 1 more",
        ),
        (
            |m| m.pids.as_mut().expect("a group").most = 500,
            "tasks (pids.max of the control group /tasks) is 500, needed are 1014, 514 more",
        ),
        (
            |m| m.pid_max = Some(1301),
            "processes (kernel.pid_max) is 1301, needed are 1354, 53 more",
        ),
        (
            |m| m.threads_max = Some(54),
            "tasks (kernel.threads-max) is 54, needed are 1054, 1000 more",
        ),
        (
            |m| m.mappings = Some(99),
            "mappings (vm.max_map_count) is 99, needed are 100, 1 more",
        ),
        (
            |m| m.available = Some(64 * MIB),
            "memory (MemAvailable) is 64 MiB, needed are 98 MiB, 34 MiB more",
        ),
        (
            |m| m.memory.as_mut().expect("a group").most = 100 * MIB,
            "memory (memory.max of the control group /memory) is 100 MiB, \
             needed are 108 MiB, 8 MiB more",
        ),
        (
            |m| m.tasks += 7,
            "processes (kernel.pid_max) is 1354, needed are 1361, 7 more; \
             tasks (kernel.threads-max) is 1054, needed are 1061, 7 more",
        ),
    ];
    for (take, said) in take {
        let mut machine = enough.clone();
        take(&mut machine);
        let said = format!("too low for --max-clients 1000: {said}");
        assert_eq!(lacking(&demand, &machine), Some(said));
    }
    let mut machine = enough;
    less(&mut machine.somaxconn, 904);
    let queue = "too low for a backlog of 5000: queue (net.core.somaxconn) is 4096, \
                 needed are 5000, 904 more";
    assert_eq!(lacking(&demand, &machine).as_deref(), Some(queue));
    less(&mut machine.open_files, 1);
    let both = lacking(&demand, &machine).expect("two");
    assert!(
        both.starts_with("too low for --max-clients 1000: open files"),
        "{both}"
    );
    assert!(both.ends_with(&format!("; {queue}")), "{both}");
}

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
