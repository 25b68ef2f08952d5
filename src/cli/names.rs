//! The words that echod's options take, each with the line `--help` has for it.

use clap::ValueEnum;

/// `--model`
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelName {
    /// workers forked in advance each accept
    Prefork,
    /// the supervisor accepts and forks
    Fork,
    /// one worker, one client at a time
    Iterative,
    /// one worker, a thread for each connection
    Thread,
    /// one worker, a pool of threads
    Prethread,
}

/// `--service`
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceName {
    /// what comes is sent back (RFC 862)
    Echo,
    /// a line names one of --allow-command
    Command,
}

/// `--reap`
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReapName {
    /// SIGCHLD and waitpid
    Wait,
    /// SIGCHLD ignored, the kernel reaps
    Ignore,
    /// the child forks again, init reaps
    DoubleFork,
}

/// `--accept`
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptName {
    /// all wait on one queue, the kernel wakes one
    Shared,
    /// one at a time waits, under a record lock
    Fcntl,
    /// one at a time waits, under a mutex (between processes, a robust one)
    Mutex,
    /// the supervisor (or main thread) accepts and passes the descriptor
    Pass,
    /// as many TCP sockets as --start-servers
    Reuseport,
}

/// `--overflow`
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverflowName {
    /// wait in the accept queue
    Queue,
    /// accept and close
    Close,
    /// accept and reset
    Reset,
}

/// `--sandbox`
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxName {
    /// refuse to serve without one
    Strict,
    /// use what the kernel offers
    BestEffort,
    /// none, for strace and gdb
    Off,
}

/// `--orphans`
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrphansName {
    /// serve their client to its end
    Finish,
    /// die too
    Terminate,
}

/// `--log-format`
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatName {
    /// for people
    Text,
    /// one object a line
    Json,
}
