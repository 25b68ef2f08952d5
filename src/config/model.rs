//! The process designs of UNP vol. 1, chapter 30, side by side, and what each
//! can be told.

use clap::ValueEnum;

/// A design by its name alone, as it is typed.
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

/// The process designs of UNP vol. 1, chapter 30, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// One worker serves in its accept loop: the baseline.
    Iterative,
    /// The supervisor accepts and forks a child for each connection.
    Fork(Reap),
    /// Workers forked in advance each call accept.
    Prefork {
        /// Spare-server limits.
        pool: PoolLimits,
        /// Connections a worker serves before it is replaced; `None` is no limit.
        per_child: Option<u64>,
        /// How they come by a connection.
        accept: Accept,
    },
    /// One worker process accepts and starts a thread for each connection.
    Thread,
    /// One worker process with a pool of threads.
    Prethread {
        /// Spare-thread limits.
        pool: PoolLimits,
        /// Which of its threads calls accept.
        accept: ThreadAccept,
    },
}

/// Who calls accept in a pool of threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadAccept {
    /// Every idle thread (serv09 of the tutorials): the kernel wakes one.
    Shared,
    /// The idle thread that holds the mutex (UNP row 7).
    Mutex,
    /// The main thread, which hands the connection over (UNP row 8).
    Pass,
}

impl From<ThreadAccept> for Accept {
    fn from(how: ThreadAccept) -> Self {
        match how {
            ThreadAccept::Shared => Accept::Shared,
            ThreadAccept::Mutex => Accept::Mutex,
            ThreadAccept::Pass => Accept::Pass,
        }
    }
}

/// How the workers of a pool come by a connection.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
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

/// How the `fork` design gets rid of its dead.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reap {
    /// SIGCHLD and waitpid
    Wait,
    /// SIGCHLD ignored, the kernel reaps
    Ignore,
    /// the child forks again, init reaps
    DoubleFork,
}

/// Spare-server limits, in Apache's sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Workers forked at start.
    pub start: usize,
    /// Fewer idle workers than this, and more are forked.
    pub min_spare: usize,
    /// More idle workers than this, and some retire.
    pub max_spare: usize,
}

impl Model {
    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Model::Iterative => "iterative",
            Model::Fork(Reap::Wait) => "fork, reap wait",
            Model::Fork(Reap::Ignore) => "fork, reap ignore",
            Model::Fork(Reap::DoubleFork) => "fork, reap double-fork",
            Model::Prefork {
                per_child: Some(1),
                accept,
                ..
            } => match accept {
                Accept::Shared => "prefork, a process per connection",
                Accept::Fcntl => "prefork, accept fcntl, a process per connection",
                Accept::Mutex => "prefork, accept mutex, a process per connection",
                Accept::Pass => "prefork, accept pass, a process per connection",
                Accept::Reuseport => "prefork, accept reuseport, a process per connection",
            },
            Model::Prefork { accept, .. } => match accept {
                Accept::Shared => "prefork, workers reused",
                Accept::Fcntl => "prefork, accept fcntl, workers reused",
                Accept::Mutex => "prefork, accept mutex, workers reused",
                Accept::Pass => "prefork, accept pass, workers reused",
                Accept::Reuseport => "prefork, accept reuseport, workers reused",
            },
            Model::Thread => "thread, a thread per connection",
            Model::Prethread { accept, .. } => match accept {
                ThreadAccept::Shared => "prethread, threads that each accept",
                ThreadAccept::Mutex => "prethread, accept mutex",
                ThreadAccept::Pass => "prethread, accept pass",
            },
        }
    }

    /// How processes come by a connection; the other designs have one way each.
    pub fn accept(self) -> Accept {
        match self {
            Model::Prefork { accept, .. } => accept,
            Model::Iterative | Model::Fork(_) | Model::Thread | Model::Prethread { .. } => {
                Accept::Shared
            }
        }
    }

    /// Sockets that each TCP address gets.
    pub fn sockets_each(self) -> usize {
        match self {
            Model::Prefork {
                accept: Accept::Reuseport,
                pool,
                ..
            } => pool.start,
            _ => 1,
        }
    }

    /// Does a worker go on to another connection?
    pub fn reuses(self) -> bool {
        match self {
            Model::Prefork { per_child, .. } => per_child != Some(1),
            Model::Fork(_) => false,
            Model::Iterative | Model::Thread | Model::Prethread { .. } => true,
        }
    }

    /// Does one process serve many connections at once, by threads?
    pub fn is_threaded(self) -> bool {
        matches!(self, Model::Thread | Model::Prethread { .. })
    }
}
