//! The catalogue of faults: each by its number, in a few words, and where the
//! tests are that show what echod does about it, named `row_NUMBER_…`. What is
//! not shown is listed with the reason. `cargo test catalogue -- --nocapture`
//! prints it with the names of the tests.
//!
//! The table is checked against the sources, so that it cannot name a test that
//! is not there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::clock::sources;

/// Number, what goes wrong, and the files with its tests.
type Row = (u32, &'static str, &'static [&'static str]);

const ACCEPT: &[&str] = &["tests/limits/accept.rs"];
const QUEUE: &[&str] = &["tests/limits/queue.rs"];
const WAITING: &[&str] = &["tests/limits/waiting.rs"];
const PROBES: &[&str] = &["tests/limits/probes.rs"];
const TURNS: &[&str] = &["tests/limits/turns.rs"];
const RESOURCES: &[&str] = &["tests/limits/resources.rs"];
const LIMITS: &[&str] = &["tests/limits.rs"];
const BIRTHS: &[&str] = &["tests/faults/births.rs"];
const DEATHS: &[&str] = &["tests/faults/deaths.rs"];
const RACES: &[&str] = &["tests/signals/races.rs"];
const STORMS: &[&str] = &["tests/faults/storms.rs"];
const STOPPED: &[&str] = &["tests/faults/stopped.rs"];
const ORPHANS: &[&str] = &["tests/faults/orphans.rs"];
const PIDS: &[&str] = &["tests/faults/pids.rs"];
const STOPS: &[&str] = &["tests/faults/stops.rs"];
const STREAMS: &[&str] = &["tests/faults/streams.rs"];
const FLOODS: &[&str] = &["tests/faults/floods.rs"];
const ADDRESSES: &[&str] = &["tests/startup/addresses.rs"];
const PIDFILE: &[&str] = &["tests/startup/pidfile.rs"];
const LOG: &[&str] = &["tests/log/faults.rs"];
const WEAPON: &[&str] = &["tests/udp/weapon.rs"];
const NAMES: &[&str] = &["tests/udp/names.rs"];

const CONTAINED: &[&str] = &["tests/contained/kernels.rs"];
const MINIMAL: &[&str] = &["tests/contained/minimal.rs"];
const LEFTOVERS: &[&str] = &["tests/contained/leftovers.rs"];
const MANAGER: &[&str] = &["tests/units/words.rs"];
const GARBAGE: &[&str] = &["tests/units/garbage.rs"];
const RULES: &[&str] = &["tests/access/rules.rs", "tests/access/source.rs"];

const ROWS: &[Row] = &[
    (1, "accept(2): no descriptors in the process", ACCEPT),
    (
        2,
        "accept(2): no descriptors, buffers or memory in the machine",
        ACCEPT,
    ),
    (3, "accept(2): the client has gone already", ACCEPT),
    (4, "accept(2): interrupted, or a sibling was faster", ACCEPT),
    (
        5,
        "accept(2): the new connection's own network errors",
        ACCEPT,
    ),
    (
        6,
        "accept(2): a firewall or security module says no",
        ACCEPT,
    ),
    (7, "accept(2): the listener itself is no use", ACCEPT),
    (
        8,
        "a client vanishes between the wait and accept(2)",
        ACCEPT,
    ),
    (9, "one busy listener among several", ACCEPT),
    (10, "the listen queue is full", QUEUE),
    (11, "many idle workers, one client", QUEUE),
    (
        12,
        "the kernel wakes some workers more often than others",
        QUEUE,
    ),
    (13, "a worker with a socket of its own dies", QUEUE),
    (14, "a worker dies while it accepts", ACCEPT),
    (15, "fork(2): too many processes of one user", RESOURCES),
    (
        16,
        "fork(2): the control group's limit, or no memory",
        RESOURCES,
    ),
    (
        17,
        "fork(2) fails for a client that was accepted",
        RESOURCES,
    ),
    (18, "every child dies at birth", BIRTHS),
    (
        19,
        "double fork: the process between dies, or cannot fork",
        &["tests/faults/doubles.rs", "tests/limits/resources.rs"],
    ),
    (20, "nobody learns how a child ended", DEATHS),
    (
        21,
        "started with signals ignored or blocked",
        &["tests/startup.rs"],
    ),
    (
        22,
        "started without standard descriptors, or with strange ones",
        &["tests/startup.rs"],
    ),
    (
        23,
        "limits too low for what was asked",
        &["tests/startup/usage.rs"],
    ),
    (24, "a container's filter refuses calls", CONTAINED),
    (25, "no /proc, no /dev, no passwd", MINIMAL),
    (
        26,
        "an address that is taken, absent or forbidden",
        ADDRESSES,
    ),
    (
        27,
        "hundreds of children die at once",
        &["tests/faults/deaths.rs", "tests/faults/doubles.rs"],
    ),
    (28, "a child is dead before its pid is known", BIRTHS),
    (29, "a signal between the look and the sleep", RACES),
    (30, "what a signal handler does", STORMS),
    (
        31,
        "a flood of signals while the supervisor is held up",
        STORMS,
    ),
    (32, "a signal for a child that is a moment old", RACES),
    (
        33,
        "signals to workers that the supervisor would hear",
        RACES,
    ),
    (34, "many orders at once", RACES),
    (35, "a stop during the start", RACES),
    (
        36,
        "signals to the whole process group",
        &["tests/signals.rs"],
    ),
    (37, "the supervisor is stopped", STOPPED),
    (38, "a worker is stopped", STOPPED),
    (39, "a worker is killed in mid-connection", DEATHS),
    (40, "a worker crashes", &["tests/faults/broken.rs"]),
    (41, "a panic after the fork", &["tests/faults/broken.rs"]),
    (42, "idle workers are killed", DEATHS),
    (
        43,
        "the supervisor is killed, and children are to follow",
        ORPHANS,
    ),
    (
        44,
        "the supervisor is killed, and children are to finish",
        ORPHANS,
    ),
    (
        45,
        "the supervisor dies while a child is being born",
        ORPHANS,
    ),
    (46, "a dead child's pid is a stranger's", PIDS),
    (47, "a dead child's pid is its successor's", PIDS),
    (48, "strangers to reap, as PID 1", ORPHANS),
    (
        49,
        "a child that was taken over lies",
        &["tests/faults/gossip.rs"],
    ),
    (50, "the pool shrinks while clients come", STOPS),
    (51, "workers report while nobody listens", STOPPED),
    (52, "the supervisor hangs", MANAGER),
    (53, "a child that SIGKILL does not end", STOPPED),
    (
        54,
        "guessing by crashes, since siblings share their layout",
        &["tests/access/crashes.rs"],
    ),
    (55, "a stop under load", STOPS),
    (56, "a stop with clients that never leave", STOPS),
    (57, "a socket file at the stop", ADDRESSES),
    (63, "garbage in LISTEN_FDS and its kin", GARBAGE),
    (64, "the log's disk is full", LOG),
    (65, "the log's reader is dead", LOG),
    (66, "the log's reader is stopped", LOG),
    (
        67,
        "the log is rotated under load",
        &["tests/log/rotation.rs"],
    ),
    (
        68,
        "something was planted where log or pidfile go",
        &["tests/faults/planted.rs", "src/daemon/pidfile_tests.rs"],
    ),
    (69, "a pidfile with a stranger's number", PIDFILE),
    (70, "a pidfile that cannot be written", PIDFILE),
    (71, "who owns the pidfile", &["tests/faults/planted.rs"]),
    (72, "many instances start together", PIDFILE),
    (73, "what can be in the way of a socket file", ADDRESSES),
    (
        75,
        "memory or descriptors grow",
        &["tests/limits/memory.rs"],
    ),
    (76, "the clock jumps", &["tests/faults/clock.rs"]),
    (77, "half-close", STREAMS),
    (78, "clients that read nothing", LIMITS),
    (79, "clients that say nothing, or hardly anything", LIMITS),
    (80, "every slot is taken", LIMITS),
    (81, "resets in mid-stream", FLOODS),
    (82, "short and interrupted reads and writes", STREAMS),
    (83, "urgent bytes", STREAMS),
    (84, "a client vanishes without a word", RESOURCES),
    (85, "a flood of clients that connect and leave", FLOODS),
    (86, "long streams, and single bytes", STREAMS),
    (87, "descriptors sent along on a Unix socket", FLOODS),
    (88, "IPv4 addresses in IPv6", RULES),
    (89, "UDP: forged source ports", WEAPON),
    (90, "UDP: two echo servers and one datagram", WEAPON),
    (91, "UDP: a flood to be reflected", WEAPON),
    (92, "UDP: sources and destinations that cannot be", WEAPON),
    (93, "UDP: sizes and failures to send", WEAPON),
    (
        94,
        "giving up root fails",
        &["src/daemon/privileges_tests.rs"],
    ),
    (
        95,
        "the sandbox forbids what a library begins to do",
        CONTAINED,
    ),
    (96, "privileges left behind", LEFTOVERS),
    (97, "core dumps", LEFTOVERS),
    (
        98,
        "several listeners at the limit, and a place for one",
        TURNS,
    ),
    (99, "one listener flooded, and a client at another", TURNS),
    (
        100,
        "an order to the whole process group",
        &["tests/signals/groups.rs"],
    ),
    (101, "a limit said to be reached that is not", WAITING),
    (
        103,
        "a lifetime that ends under a super-server",
        &["tests/inetd.rs"],
    ),
    (
        104,
        "a socket of another protocol is handed over",
        &["tests/units/handed.rs"],
    ),
    (
        105,
        "TTIN and TTOU beyond the limits",
        &["tests/signals.rs", "src/daemon/pool.rs"],
    ),
    (
        106,
        "a number or a duration at the end of what there is",
        &[
            "src/cli/echoload/meaning.rs",
            "src/values.rs",
            "tests/startup/values.rs",
        ],
    ),
    (
        109,
        "a worker that was taken over spoils the listener",
        &["tests/sandbox.rs"],
    ),
    (
        107,
        "a sender's name that means another Unix socket here",
        NAMES,
    ),
    (
        110,
        "keys of root's in a command's hands",
        &["tests/command.rs"],
    ),
    (111, "a loop of UDP datagrams too slow for the rate", WEAPON),
    (
        112,
        "a child that was taken over writes what it can reach",
        &[
            "src/daemon/channels.rs",
            "src/daemon/passing.rs",
            "src/daemon/seats/tests.rs",
            "src/sys/shm.rs",
            "tests/sandbox.rs",
        ],
    ),
    (
        113,
        "a worker that was taken over keeps what wakes others",
        &["src/daemon/scoreboard/tests.rs"],
    ),
    (
        114,
        "a worker that was taken over rewrites the log",
        &["src/sys/sandbox/tests.rs"],
    ),
    (
        115,
        "a hard link that comes and goes",
        &["src/daemon/pidfile_tests.rs"],
    ),
    (
        116,
        "another user's lock on pidfile or directory",
        &["tests/startup/pidfile.rs", "tests/startup/addresses.rs"],
    ),
    (117, "a socket's mode without /proc", ADDRESSES),
    (124, "an address right after a kill", ADDRESSES),
    (
        121,
        "clients that read once for each time they write",
        &[
            "tests/faults/streams.rs",
            "tests/inetd.rs",
            "tests/command.rs",
        ],
    ),
    (
        118,
        "a connection from a super-server that is nonblocking",
        &["tests/inetd.rs"],
    ),
    (
        119,
        "timers that the starter has armed",
        &["tests/inetd.rs", "tests/startup.rs"],
    ),
    (122, "probes that look like a full queue", PROBES),
    (
        123,
        "a log that root made, and another user has to open again",
        &["tests/log/rotation.rs"],
    ),
    (
        125,
        "nobody hears that it serves, or what it prints",
        &["tests/log/targets.rs", "tests/print.rs"],
    ),
];

/// THE place for what is not shown: number, what goes wrong, and why not.
const NOT_HERE: &[(u32, &str, &str)] = &[
    (
        58,
        "reload with a broken configuration",
        "there is no configuration file yet",
    ),
    (
        59,
        "a storm of reloads",
        "there is no configuration file yet; see row 30 for HUP",
    ),
    (
        60,
        "a reload whose new address is taken",
        "there is no configuration file yet",
    ),
    (
        61,
        "an upgrade whose program does not start",
        "there is no upgrade yet",
    ),
    (62, "an upgrade under load", "there is no upgrade yet"),
    (74, "out of memory, and the kernel chooses", MEMORY),
];

const MEMORY: &str = "a child inherits the supervisor's oom_score_adj, and the supervisor is the \
    larger: the kernel may well choose it";

/// The tests named after each row, with their files.
fn tests() -> BTreeMap<u32, Vec<(String, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    let designs = fs::read_to_string(root.join("tests/faults.rs")).expect("a source");
    for path in ["src", "tests"]
        .iter()
        .flat_map(|dir| sources(&root.join(dir)))
    {
        let text = fs::read_to_string(&path).expect("a source");
        let file = path
            .strip_prefix(root)
            .expect("below")
            .display()
            .to_string();
        let mut last = "";
        for line in text.lines().map(str::trim) {
            let before = std::mem::replace(&mut last, line);
            let Some((_, rest)) = line.split_once("fn row_") else {
                continue;
            };
            let name = rest.split('(').next().unwrap_or(rest);
            let Some(Ok(number)) = name.split('_').next().map(str::parse) else {
                continue;
            };
            let name = format!("row_{name}");
            // Run as it stands, or once a design.
            let runs = before == "#[test]" || designs.contains(&format!("::{name},"));
            assert!(runs, "{file}: {name} is no test");
            found.entry(number).or_default().push((file.clone(), name));
        }
    }
    found
}

#[test]
fn the_catalogue_names_tests_that_are_there() {
    let tests = tests();
    let none = Vec::new();
    for (number, what, files) in ROWS {
        let of_row = tests.get(number).unwrap_or(&none);
        println!("{number:2}  {what}");
        for (file, name) in of_row {
            println!("      {file}: {name}");
        }
        for file in *files {
            let there = of_row.iter().any(|(there, _)| there == file);
            assert!(there, "row {number}: no test of it in {file}");
        }
    }
    println!("\nnot shown:");
    for (number, what, why) in NOT_HERE {
        println!("{number:2}  {what}: {why}");
    }
    println!("\n{} of {ALL} are shown", ROWS.len());
}

/// Up to here each is either shown or not here; beyond, as they are found.
const FIRST: u32 = 97;
const ALL: u32 = 125;

#[test]
fn the_catalogue_has_every_row_once() {
    let shown = ROWS.iter().map(|row| row.0);
    let mut all: Vec<u32> = shown.chain(NOT_HERE.iter().map(|row| row.0)).collect();
    all.sort_unstable();
    let (first, later) = all.split_at(FIRST as usize);
    assert_eq!(first, (1..=FIRST).collect::<Vec<_>>());
    let once = later.windows(2).all(|w| w[0] < w[1]);
    assert!(once && later.iter().all(|&n| n <= ALL), "{later:?}");
    let strange: Vec<_> = tests().into_keys().filter(|n| !all.contains(n)).collect();
    assert!(strange.is_empty(), "tests of no row: {strange:?}");
}
