//! The process designs: how to ask for one, and the few ways in which it may honestly
//! differ from the others. The one list of them, for tests, soak and bench.

use std::thread;

/// One process design.
#[derive(Debug)]
pub struct Design {
    /// As a test's name has it.
    pub name: &'static str,
    /// As the tables of the bench have it.
    pub title: &'static str,
    pub args: &'static [&'static str],
    /// A second client waits until the first has left.
    pub one_at_a_time: bool,
    /// A worker goes on to the next connection.
    pub reuses: bool,
    /// The supervisor learns how a child ended.
    pub exit_status_seen: bool,
    /// Workers wait in advance; the pool options apply.
    pub pooled: bool,
    /// The supervisor has a descriptor for each worker that waits.
    pub channels: bool,
    /// It cannot serve a Unix socket.
    pub tcp_only: bool,
    /// One process serves many clients at once.
    pub threaded: bool,
}

const BASE: Design = Design {
    name: "",
    title: "",
    args: &[],
    one_at_a_time: false,
    reuses: false,
    exit_status_seen: true,
    pooled: false,
    channels: false,
    tcp_only: false,
    threaded: false,
};

pub const PREFORK: Design = Design {
    name: "prefork",
    title: "prefork",
    args: &["--model", "prefork"],
    pooled: true,
    ..BASE
};

pub const PREFORK_REUSE: Design = Design {
    name: "prefork_reuse",
    title: "prefork, reuse",
    args: &["--model", "prefork", "--max-connections-per-child", "0"],
    reuses: true,
    pooled: true,
    ..BASE
};

pub const PREFORK_FCNTL: Design = Design {
    name: "prefork_fcntl",
    title: "prefork, fcntl",
    args: &["--accept", "fcntl"],
    pooled: true,
    ..BASE
};

pub const PREFORK_MUTEX: Design = Design {
    name: "prefork_mutex",
    title: "prefork, mutex",
    args: &["--accept", "mutex"],
    pooled: true,
    ..BASE
};

pub const PREFORK_PASS: Design = Design {
    name: "prefork_pass",
    title: "prefork, pass",
    args: &["--accept", "pass"],
    pooled: true,
    channels: true,
    ..BASE
};

pub const PREFORK_PASS_REUSE: Design = Design {
    name: "prefork_pass_reuse",
    title: "reuse, pass",
    args: &["--accept", "pass", "--max-connections-per-child", "0"],
    reuses: true,
    pooled: true,
    channels: true,
    ..BASE
};

pub const PREFORK_REUSEPORT: Design = Design {
    name: "prefork_reuseport",
    title: "prefork, reuseport",
    args: &["--accept", "reuseport"],
    pooled: true,
    tcp_only: true,
    ..BASE
};

pub const FORK_WAIT: Design = Design {
    name: "fork_wait",
    title: "fork, wait",
    args: &["--model", "fork", "--reap", "wait"],
    ..BASE
};

pub const FORK_IGNORE: Design = Design {
    name: "fork_ignore",
    title: "fork, ignore",
    args: &["--model", "fork", "--reap", "ignore"],
    exit_status_seen: false,
    ..BASE
};

pub const FORK_DOUBLE: Design = Design {
    name: "fork_double",
    title: "fork, double-fork",
    args: &["--model", "fork", "--reap", "double-fork"],
    exit_status_seen: false,
    ..BASE
};

pub const ITERATIVE: Design = Design {
    name: "iterative",
    title: "iterative",
    args: &["--model", "iterative"],
    one_at_a_time: true,
    reuses: true,
    ..BASE
};

pub const THREAD: Design = Design {
    name: "thread",
    title: "thread",
    args: &["--model", "thread"],
    threaded: true,
    ..BASE
};

pub const PRETHREAD: Design = Design {
    name: "prethread",
    title: "prethread",
    args: &["--model", "prethread"],
    pooled: true,
    threaded: true,
    ..BASE
};

pub const PRETHREAD_MUTEX: Design = Design {
    name: "prethread_mutex",
    title: "prethread, mutex",
    args: &["--model", "prethread", "--accept", "mutex"],
    ..PRETHREAD
};

pub const PRETHREAD_PASS: Design = Design {
    name: "prethread_pass",
    title: "prethread, pass",
    args: &["--model", "prethread", "--accept", "pass"],
    ..PRETHREAD
};

/// Combinations that the bench alone measures, by their titles and arguments.
pub const MEASURED_TOO: [(&str, &[&str]); 3] = [
    (
        "reuse, fcntl",
        &["--accept", "fcntl", "--max-connections-per-child", "0"],
    ),
    (
        "reuse, mutex",
        &["--accept", "mutex", "--max-connections-per-child", "0"],
    ),
    (
        "reuse, reuseport",
        &["--accept", "reuseport", "--max-connections-per-child", "0"],
    ),
];

/// Every design this echod knows.
pub const DESIGNS: [&Design; 15] = [
    &PREFORK,
    &PREFORK_REUSE,
    &PREFORK_FCNTL,
    &PREFORK_MUTEX,
    &PREFORK_PASS,
    &PREFORK_PASS_REUSE,
    &PREFORK_REUSEPORT,
    &FORK_WAIT,
    &FORK_IGNORE,
    &FORK_DOUBLE,
    &ITERATIVE,
    &THREAD,
    &PRETHREAD,
    &PRETHREAD_MUTEX,
    &PRETHREAD_PASS,
];

/// One test of several designs at a time, where most of it is waiting.
pub fn side_by_side(designs: &[&Design], test: impl Fn(&Design) + Sync) {
    thread::scope(|scope| {
        for design in designs {
            scope.spawn(|| test(design));
        }
    });
}

impl Design {
    /// The arguments that allow `n` clients at once, and how many that is
    /// (`iterative` has one, whatever is asked).
    pub fn limited_to(&self, n: usize) -> (Vec<String>, usize) {
        let mut args: Vec<String> = self.args.iter().map(|&arg| arg.to_owned()).collect();
        if self.one_at_a_time {
            return (args, 1);
        }
        args.extend(["--max-clients".to_owned(), n.to_string()]);
        if self.pooled {
            args.extend(pool(1, 1, n));
        }
        (args, n)
    }
}

/// The pool options.
pub fn pool(start: usize, min_spare: usize, max_spare: usize) -> Vec<String> {
    let named = [
        ("--start-servers", start),
        ("--min-spare-servers", min_spare),
        ("--max-spare-servers", max_spare),
    ];
    named
        .iter()
        .flat_map(|(name, value)| [(*name).to_owned(), value.to_string()])
        .collect()
}
