//! The datagram workers: one post for each socket, and who is on it.
//!
//! A post outlives its workers: socket, rates and counts go on when one is
//! killed, replaced or reloaded. Decides who is missing and what a death means;
//! the supervisor forks (`posts`), and `drop_log` says what they drop.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::config::UdpLimits;
use crate::daemon::datagram::worker;
use crate::daemon::shared::backoff::{Backoff, FIRST_WAIT, LONGEST_FORK_WAIT};
use crate::daemon::shared::connection_log::{self, Gone};
use crate::daemon::shared::tally::Tally;
use crate::daemon::supervisor::drop_log::{DropLog, summary};
use crate::daemon::supervisor::reap;
use crate::daemon::worker::child::Leave;
use crate::error::errno_text;
use crate::net::DatagramSocket;
use crate::net::datagram::Guard;
use crate::net::{udp_guard, unix_guard};
use crate::sys::process;

/// A worker that dies younger than this may have been born sick.
const YOUTH: Duration = Duration::from_secs(1);

/// Workers of one post that may die young in a row before their successors are
/// kept waiting.
const TOLERATED: usize = 3;

#[derive(Clone, Copy)]
struct Worker {
    pid: Pid,
    generation: u32,
    since: Instant,
    told: bool,
}

struct Post {
    /// `None` once it is closed.
    socket: Option<DatagramSocket>,
    name: String,
    guard: Guard,
    runs_commands: bool,
    tally: Tally,
    workers: Vec<Worker>,
    /// The queue has been answered, after the socket went deaf.
    drained: bool,
    young_deaths: usize,
    wait: Backoff,
    drops: DropLog,
}

/// All of them.
pub struct Crew {
    posts: Vec<Post>,
    epoch: Instant,
}

impl Crew {
    /// A post for each socket, nobody on them yet. `runs_commands` says it of a
    /// socket's `service` attribute.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub fn new(
        sockets: Vec<DatagramSocket>,
        limits: &UdpLimits,
        runs_commands: impl Fn(Option<&str>) -> bool,
    ) -> Result<Self, Errno> {
        let ports: Vec<u16> = sockets.iter().filter_map(DatagramSocket::port).collect();
        let names: Vec<_> = sockets
            .iter()
            .filter_map(DatagramSocket::unix_name)
            .collect();
        let post = |socket: DatagramSocket| {
            let guard = match socket.port() {
                Some(_) => Guard::Udp(udp_guard::Guard::new(limits, &ports)?),
                None => Guard::Unix(unix_guard::Guard::new(&names)?),
            };
            Ok(Post {
                name: socket.name().to_owned(),
                guard,
                runs_commands: runs_commands(socket.service()),
                tally: Tally::new()?,
                socket: Some(socket),
                workers: Vec::new(),
                drained: false,
                young_deaths: 0,
                wait: Backoff::new(FIRST_WAIT, LONGEST_FORK_WAIT),
                drops: DropLog::default(),
            })
        };
        Ok(Crew {
            posts: sockets.into_iter().map(post).collect::<Result<_, _>>()?,
            epoch: Instant::now(),
        })
    }

    /// Is no socket open, and no worker alive?
    pub fn is_gone(&self) -> bool {
        let gone = |post: &Post| post.socket.is_none() && post.workers.is_empty();
        self.posts.iter().all(gone)
    }

    /// A post without a worker of this generation.
    pub fn vacant(&self, generation: u32, now: Instant) -> Option<usize> {
        let vacant = |post: &Post| post.lacks(generation) && !post.wait.waits(now);
        self.posts.iter().position(vacant)
    }

    /// What the worker of a vacant post takes along; `last` if it is forked during
    /// a stop, to answer what is queued.
    pub fn post(&self, index: usize, last: bool) -> Option<worker::Post<'_>> {
        let post = self.posts.get(index)?;
        Some(worker::Post {
            socket: post.socket.as_ref()?.as_fd(),
            guard: &post.guard,
            runs_commands: post.runs_commands,
            tally: &post.tally,
            epoch: self.epoch,
            bound: post.socket.as_ref()?.has_one_address(),
            address: post.socket.as_ref()?.own_address(),
            last,
        })
    }

    /// Does a child that is forked from now on share what the post keeps?
    ///
    /// # Errors
    /// madvise(2)'s.
    pub fn inherited(&self, index: usize, whether: bool) -> Result<(), Errno> {
        let post = &self.posts[index];
        post.tally.inherited(whether)?;
        match &post.guard {
            Guard::Udp(guard) => guard.inherited(whether),
            Guard::Unix(guard) => guard.inherited(whether),
        }
    }

    /// In a child of another kind: lets go of the sockets, or a worker that lives
    /// long would keep their ports.
    pub fn close_inherited(&self) {
        for socket in self.posts.iter().filter_map(|post| post.socket.as_ref()) {
            process::close_inherited(socket.as_fd());
        }
    }

    /// It was forked.
    pub fn hired(&mut self, index: usize, pid: Pid, generation: u32, now: Instant) {
        debug!("process {pid} serves {}", self.posts[index].name);
        self.posts[index].workers.push(Worker {
            pid,
            generation,
            since: now,
            told: false,
        });
    }

    /// SIGCHLD came: asks the kernel about each worker.
    pub fn reap(&mut self, generation: u32, now: Instant) {
        let pids: Vec<Pid> = self.workers().map(|worker| worker.pid).collect();
        for pid in pids {
            let gone = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => None,
                // The kernel has reaped it (SA_NOCLDWAIT).
                Err(_) => Some(Gone::Untold),
                Ok(status) => reap::gone(status).map(|(_, gone)| gone),
            };
            if let Some(gone) = gone {
                self.bury(pid, gone, generation, now);
            }
        }
    }

    /// The process is gone; false if it was none of ours.
    pub fn bury(&mut self, pid: Pid, gone: Gone, generation: u32, now: Instant) -> bool {
        let ours = |post: &Post| post.workers.iter().position(|worker| worker.pid == pid);
        for post in &mut self.posts {
            if let Some(i) = ours(post) {
                let worker = post.workers.remove(i);
                post.lost(worker, gone, generation, now);
                return true;
            }
        }
        false
    }

    /// First step of a stop: what is queued is answered, and no more gets in.
    pub fn deafen(&mut self) {
        for post in &self.posts {
            if let Some(Err(errno)) = post.socket.as_ref().map(DatagramSocket::deafen) {
                let name = &post.name;
                warn!("deafen {name}: {}: what comes is lost", errno_text(errno));
            }
        }
    }

    /// Word to go to every worker: it answers what is queued and leaves.
    pub fn dismiss(&mut self) {
        self.tell(Signal::SIGPWR);
    }

    /// Signals every worker; whatever they die of now is as ordered.
    pub fn tell(&mut self, signal: Signal) {
        for worker in self.posts.iter_mut().flat_map(|post| &mut post.workers) {
            worker.told = true;
            process::signal_child(worker.pid, signal);
        }
    }

    /// A stop: closes the sockets whose queue was answered, or all of those
    /// without a worker.
    pub fn close(&mut self, all: bool) {
        for post in &mut self.posts {
            if post.workers.is_empty() && (post.drained || all) {
                post.close();
            }
        }
    }

    /// Looks at what was counted: a worker woke us, or it is time.
    pub fn look(&mut self, now: Instant) {
        for post in &mut self.posts {
            post.drops.look(&post.name, &post.tally, now);
        }
    }

    /// When [`Crew::look`] may have something to say, and when a post that was
    /// kept vacant may be filled.
    pub fn wakes_at(&self, generation: u32, now: Instant) -> Option<Instant> {
        let looks = self.posts.iter().filter_map(|post| post.drops.wakes_at());
        let waits = self.posts.iter().filter(|post| post.lacks(generation));
        looks
            .chain(waits.filter_map(|post| post.wait.wakes_at(now)))
            .min()
    }

    /// Is it time to look?
    pub fn is_due(&self, now: Instant) -> bool {
        let mut looks = self.posts.iter().filter_map(|post| post.drops.wakes_at());
        looks.any(|at| at <= now)
    }

    fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.posts.iter().flat_map(|post| &post.workers)
    }
}

impl Post {
    fn lacks(&self, generation: u32) -> bool {
        let serves = |worker: &Worker| worker.generation == generation;
        self.socket.is_some() && !self.drained && !self.workers.iter().any(serves)
    }

    fn lost(&mut self, worker: Worker, gone: Gone, generation: u32, now: Instant) {
        let (pid, name) = (worker.pid, &self.name);
        let leave = |how: Leave| gone == Gone::Exited(how as i32);
        if worker.told {
            // At a reload the next generation has begun; else it is a stop.
            self.drained |= leave(Leave::Retired) && worker.generation == generation;
            return;
        }
        if leave(Leave::Unusable) {
            let errno = errno_text(self.tally.why());
            error!("receive {name}: {errno}: given up");
            return self.close();
        }
        match gone {
            Gone::Killed(signal) => {
                let hint = connection_log::hint(signal);
                error!("process {pid} died of {signal} while serving {name}{hint}");
            }
            Gone::Exited(status) => {
                error!("process {pid} left with status {status} while serving {name}");
            }
            Gone::Untold => error!("process {pid} ended while serving {name}"),
        }
        if now.saturating_duration_since(worker.since) >= YOUTH {
            self.young_deaths = 0;
            self.wait.reset();
            return;
        }
        self.young_deaths += 1;
        if self.young_deaths > TOLERATED {
            self.wait.fail(now);
        }
    }

    fn close(&mut self) {
        let Some(socket) = self.socket.take() else {
            return;
        };
        let name = &self.name;
        if let Err(errno) = socket.unlink() {
            warn!("unlink {name}: {}: left behind", errno_text(errno));
        }
        info!("{name}: {}", summary(&self.tally));
    }
}

#[cfg(test)]
mod tests;
