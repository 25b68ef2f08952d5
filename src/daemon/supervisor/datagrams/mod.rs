//! The datagram workers: one for each socket, and what is theirs.
//!
//! An endpoint outlives its workers: socket, rates and counts go on when one is
//! killed, replaced or reloaded. Here it is decided who is missing and what a death
//! means.
//!
//! What they drop is in the log: one line when drops for a reason begin, naming the
//! option, and one when they are over. The workers only count, and wake the supervisor for
//! the first; from then on it looks by itself, so a flood of drops wakes nobody.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use log::{debug, error, info, warn};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::config::UdpLimits;
use crate::daemon::datagram::Workplace;
use crate::daemon::shared::backoff::{Backoff, FIRST_WAIT, LONGEST_FORK_WAIT, Rise};
use crate::daemon::shared::connection_log::{self, Gone};
use crate::daemon::supervisor::reap;
use crate::daemon::worker::child::Leave;
use crate::error::errno_text;
use crate::net::DatagramSocket;
use crate::net::guard::{Guard, REASONS, Tally, UdpGuard, UnixGuard};
use crate::sys::process;
use crate::values;

/// A worker that dies younger than this may have been born sick.
const YOUTH: Duration = Duration::from_secs(1);

/// Workers of one socket that may die young in a row before their successors are
/// kept waiting.
const TOLERATED: usize = 3;

#[derive(Clone, Copy)]
struct DatagramWorker {
    pid: Pid,
    generation: u32,
    since: Instant,
    told: bool,
}

struct Endpoint {
    /// `None` once it is closed.
    socket: Option<DatagramSocket>,
    name: String,
    guard: Guard,
    runs_commands: bool,
    tally: Tally,
    workers: Vec<DatagramWorker>,
    /// The queue has been answered, after the socket went deaf.
    drained: bool,
    young_deaths: usize,
    wait: Backoff,
    drops: DropLog,
}

/// All of them.
pub(crate) struct DatagramWorkers {
    endpoints: Vec<Endpoint>,
    epoch: Instant,
}

impl DatagramWorkers {
    /// An endpoint for each socket, and no worker yet. `runs_commands` says it of a
    /// socket's `service` attribute.
    ///
    /// # Errors
    /// mmap(2)'s.
    pub(crate) fn new(
        sockets: Vec<DatagramSocket>,
        limits: &UdpLimits,
        runs_commands: impl Fn(Option<&str>) -> bool,
    ) -> Result<Self, Errno> {
        let ports: Vec<u16> = sockets.iter().filter_map(DatagramSocket::port).collect();
        let names: Vec<_> = sockets
            .iter()
            .filter_map(DatagramSocket::unix_name)
            .collect();
        let endpoint = |socket: DatagramSocket| {
            let guard = match socket.port() {
                Some(_) => Guard::Udp(UdpGuard::new(limits, &ports)?),
                None => Guard::Unix(UnixGuard::new(&names)?),
            };
            Ok(Endpoint {
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
        Ok(DatagramWorkers {
            endpoints: sockets
                .into_iter()
                .map(endpoint)
                .collect::<Result<_, _>>()?,
            epoch: Instant::now(),
        })
    }

    /// Is no socket open, and no worker alive?
    pub(super) fn is_gone(&self) -> bool {
        let gone = |endpoint: &Endpoint| endpoint.socket.is_none() && endpoint.workers.is_empty();
        self.endpoints.iter().all(gone)
    }

    /// An endpoint without a worker of this generation.
    pub(super) fn without_worker(&self, generation: u32, now: Instant) -> Option<usize> {
        let lacks_one =
            |endpoint: &Endpoint| endpoint.lacks(generation) && !endpoint.wait.waits(now);
        self.endpoints.iter().position(lacks_one)
    }

    /// What the worker that it lacks takes along; `last` if it is forked during
    /// a stop, to answer what is queued.
    pub(super) fn workplace(&self, index: usize, last: bool) -> Option<Workplace<'_>> {
        let endpoint = self.endpoints.get(index)?;
        Some(Workplace {
            socket: endpoint.socket.as_ref()?.as_fd(),
            guard: &endpoint.guard,
            runs_commands: endpoint.runs_commands,
            tally: &endpoint.tally,
            epoch: self.epoch,
            bound: endpoint.socket.as_ref()?.has_one_address(),
            address: endpoint.socket.as_ref()?.own_address(),
            last,
        })
    }

    /// Does a child that is forked from now on share what the endpoint keeps?
    ///
    /// # Errors
    /// madvise(2)'s.
    pub(super) fn inherited(&self, index: usize, whether: bool) -> Result<(), Errno> {
        let endpoint = &self.endpoints[index];
        endpoint.tally.inherited(whether)?;
        match &endpoint.guard {
            Guard::Udp(guard) => guard.inherited(whether),
            Guard::Unix(guard) => guard.inherited(whether),
        }
    }

    /// In a child of another kind: lets go of the sockets, or a worker that lives
    /// long would keep their ports.
    pub(super) fn close_inherited(&self) {
        for socket in self
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.socket.as_ref())
        {
            process::close_inherited(socket.as_fd());
        }
    }

    /// It was forked.
    pub(super) fn add(&mut self, index: usize, pid: Pid, generation: u32, now: Instant) {
        debug!("process {pid} serves {}", self.endpoints[index].name);
        self.endpoints[index].workers.push(DatagramWorker {
            pid,
            generation,
            since: now,
            told: false,
        });
    }

    /// SIGCHLD came: asks the kernel about each worker.
    pub(super) fn reap(&mut self, generation: u32, now: Instant) {
        let pids: Vec<Pid> = self.workers().map(|worker| worker.pid).collect();
        for pid in pids {
            let gone = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => None,
                // The kernel has reaped it (SA_NOCLDWAIT).
                Err(_) => Some(Gone::Untold),
                Ok(status) => reap::gone(status).map(|(_, gone)| gone),
            };
            if let Some(gone) = gone {
                self.note_exit(pid, gone, generation, now);
            }
        }
    }

    /// The process is gone; false if it was none of ours.
    pub(super) fn note_exit(
        &mut self,
        pid: Pid,
        gone: Gone,
        generation: u32,
        now: Instant,
    ) -> bool {
        let ours =
            |endpoint: &Endpoint| endpoint.workers.iter().position(|worker| worker.pid == pid);
        for endpoint in &mut self.endpoints {
            if let Some(i) = ours(endpoint) {
                let worker = endpoint.workers.remove(i);
                endpoint.lost(worker, gone, generation, now);
                return true;
            }
        }
        false
    }

    /// When the drain begins: what is queued is answered, and no more gets in.
    pub(super) fn deafen(&mut self) {
        for endpoint in &self.endpoints {
            if let Some(Err(errno)) = endpoint.socket.as_ref().map(DatagramSocket::deafen) {
                let name = &endpoint.name;
                warn!("deafen {name}: {}: what comes is lost", errno_text(errno));
            }
        }
    }

    /// Word to go to every worker: it answers what is queued and leaves.
    pub(super) fn dismiss(&mut self) {
        self.tell(Signal::SIGPWR);
    }

    /// Signals every worker; whatever they die of now is as ordered.
    pub(super) fn tell(&mut self, signal: Signal) {
        for worker in self
            .endpoints
            .iter_mut()
            .flat_map(|endpoint| &mut endpoint.workers)
        {
            worker.told = true;
            process::signal_child(worker.pid, signal);
        }
    }

    /// A stop: closes the sockets whose queue was answered, or all of those
    /// without a worker.
    pub(super) fn close(&mut self, all: bool) {
        for endpoint in &mut self.endpoints {
            if endpoint.workers.is_empty() && (endpoint.drained || all) {
                endpoint.close();
            }
        }
    }

    /// Looks at what was counted: a worker woke us.
    pub(super) fn look(&mut self, now: Instant) {
        for endpoint in &mut self.endpoints {
            endpoint.drops.look(&endpoint.name, &endpoint.tally, now);
        }
    }

    /// When [`DatagramWorkers::look`] may have something to say, and when an endpoint that
    /// was kept without a worker may have one.
    pub(super) fn wakes_at(&self, generation: u32, now: Instant) -> Option<Instant> {
        let looks = self
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.drops.wakes_at());
        let waits = self
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.lacks(generation));
        looks
            .chain(waits.filter_map(|endpoint| endpoint.wait.wakes_at(now)))
            .min()
    }

    /// Once a turn of the loop: the same, if it is time.
    pub(super) fn look_in_time(&mut self, now: Instant) {
        let mut looks = self.endpoints.iter().filter_map(|e| e.drops.wakes_at());
        if looks.any(|at| at <= now) {
            self.look(now);
        }
    }

    fn workers(&self) -> impl Iterator<Item = &DatagramWorker> {
        self.endpoints.iter().flat_map(|endpoint| &endpoint.workers)
    }
}

impl Endpoint {
    fn lacks(&self, generation: u32) -> bool {
        let serves = |worker: &DatagramWorker| worker.generation == generation;
        self.socket.is_some() && !self.drained && !self.workers.iter().any(serves)
    }

    fn lost(&mut self, worker: DatagramWorker, gone: Gone, generation: u32, now: Instant) {
        let (pid, name) = (worker.pid, &self.name);
        let leave = |how: Leave| gone == Gone::Exited(how as i32);
        if worker.told {
            // Where the kernel reaps, its word is all there is.
            let said = self.tally.take_retired() && gone == Gone::Untold;
            // At a reload the next generation has begun; else it is a stop.
            self.drained |= (said || leave(Leave::Retired)) && worker.generation == generation;
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

/// The drops of one socket, for each reason.
#[derive(Clone, Copy, Default)]
struct DropLog([Rise; REASONS.len()]);

impl DropLog {
    /// Compares the counts with those seen last; `name` is the socket's.
    fn look(&mut self, name: &str, tally: &Tally, now: Instant) {
        for (reason, drops) in REASONS.into_iter().zip(&mut self.0) {
            if drops.note(tally.dropped(reason), now) {
                warn!(
                    listener = name,
                    reason = reason.name();
                    "{name}: {}",
                    reason.explain()
                );
            }
            let listen = || {
                tally.listen(reason);
                tally.dropped(reason)
            };
            if let Some((count, lasted)) = drops.end(now, listen) {
                let what = reason.name();
                let datagrams = values::plural(count, "datagram");
                info!(
                    count,
                    listener = name,
                    reason = what,
                    dur_s = lasted.as_secs_f64();
                    "{name}: {datagrams} dropped in {} ({what}); none for a while",
                    values::show(lasted)
                );
            }
        }
    }

    /// When [`DropLog::look`] may have something to say, unless a worker wakes us.
    fn wakes_at(&self) -> Option<Instant> {
        self.0.iter().filter_map(Rise::wakes_at).min()
    }
}

/// `120 datagrams answered, 3 dropped (--udp-rate 2, too large 1)`
fn summary(tally: &Tally) -> String {
    let dropped = REASONS.map(|reason| (tally.dropped(reason), reason.name()));
    let all = dropped
        .iter()
        .fold(0u64, |n, (count, _)| n.wrapping_add(*count));
    let each: Vec<_> = dropped
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{name} {count}"))
        .collect();
    let (answered, _) = tally.total();
    let answered = values::plural(answered, "datagram");
    match each.is_empty() {
        true => format!("{answered} answered, none dropped"),
        false => format!("{answered} answered, {all} dropped ({})", each.join(", ")),
    }
}

#[cfg(test)]
mod tests;
