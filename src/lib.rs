//! echod: a classic Unix echo daemon (RFC 862) with a process per connection,
//! `echoc`, which talks to it, and `echoload`, which loads it and verifies every
//! byte.
//!
//! This page is the map. What the programs do is specified in `man/echod.8`,
//! `man/echoc.1` and `man/echoload.1`; `man/echod-models.7` explains why the designs are what
//! they are. Start with that one if fork(2) and accept(2) are new to you.
//!
//! # Half an hour of reading
//!
//! 1. [`daemon`]: the straight line from a command line to an exit status.
//! 2. [`daemon::supervisor`]: one thread, one loop. Do what is due, wait, hand what
//!    came to the part that it is for. `daemon::supervisor::design` has the designs side by
//!    side. [`daemon::worker::context`] is what children are born with.
//! 3. `daemon::supervisor::state`: running, stopping, gone, as a pure table.
//!    `daemon::supervisor::stop` does what it says.
//! 4. `daemon::supervisor::generation`: reserve a place, fork, commit;
//!    `daemon::supervisor::exits`: what it means when the kernel says that a child is gone.
//! 5. [`daemon::worker::child`]: the other side of the fork. Nothing there comes back.
//! 6. [`daemon::worker::prefork`] and [`daemon::worker::acceptor`]: what a worker does,
//!    and how it waits. [`daemon::worker::serve`] is how a client is served, whoever does
//!    it, and also all there is to the textbook's design.
//! 7. [`sys::process`]: the fork itself, and the only way out of a child.
//! 8. [`service`] and its `echo`: all this, for a loop that reads and writes. Its
//!    `command` stays in the same sandbox, and `helper` is the one outside.
//!
//! Then, by need: [`daemon::shared::scoreboard`] (what children tell),
//! `daemon::supervisor::reap` and [`daemon::shared::pool`] (what scale asks for),
//! [`access`] and [`daemon::shared::access_control`] (who is let in),
//! [`daemon::datagram::worker`] and [`net::udp_guard`] (UDP, and how it is kept
//! from being a weapon), `daemon::start::activation` and `daemon::start::notify` (what a service
//! manager hands over and is told), [`daemon::datagram::commands`],
//! [`net`] (a listener that is drained without loss), [`daemon::start::self_check`] (what
//! every process is, read back from the kernel), [`daemon::worker::sandbox`] and
//! [`sys::sandbox`] (what a worker may still ask for, by lists in its `calls`),
//! [`cli`] (from what was typed to what it means), [`client`] and [`load`] (the
//! other two programs).
//!
//! # Layers
//!
//! A part knows what stands to the right of its arrow, and nothing that stands
//! to the left.
//!
//! ```text
//! bin/echod    → daemon → service → net → sys
//!                daemon → cli::echod → config → addr
//!                daemon → logging → config
//! bin/echoc    → cli::echoc → client → addr
//! bin/echoload → cli::echoload → load → addr
//! ```
//!
//! - `error`, `values` and `access` are words that everyone may use; `net` takes its
//!   settings from `config` and its addresses from `addr`.
//! - `service` meets a connection, never a listener or a table. One part of it, the
//!   `helper`, starts a process: what a client names is run beside the sandbox.
//! - `client` and `load` are clients: they share addresses and errors with the
//!   daemon, and no code that serves. A bug in `net` cannot hide itself from them.
//! - `addr` asks `sys` to make names safe to look up in a static binary, and has
//!   from it who connected ([`addr::Peer`]).
//!
//! # Hazards
//!
//! What a change can break without any compiler noticing, and where it is kept.
//!
//! - **Fork and threads.** The child of a thread inherits locks that nobody will
//!   release. The supervisor starts no thread, ever: [`sys::process::fork`] rests
//!   on it.
//! - **The supervisor has no signal handler.** It blocks what it takes orders by and
//!   reads it from a descriptor, so none is lost before a sleep, and a child is
//!   born with nothing to reset: [`sys::signal`]. A handler installed there
//!   would run in children too.
//! - **A worker is deaf.** What can be sent to a whole process group is meant for the
//!   supervisor, whose one order to a worker is KILL. A handler in a worker obeys
//!   who sent the signal, and not that it came: [`sys::process`],
//!   `leave_at_alarm` in [`sys::signal`].
//! - **A bare fork is unknown to the C library.** The child of
//!   [`sys::process::fork_bare`], one connection's, may take no mutex of pthreads',
//!   start no thread and not call raise(3).
//! - **A page is a fault.** A child for one connection touches about ten, and each
//!   costs it a microsecond or two: a table of its own that it writes to, or a
//!   large array on its stack, is one more for every connection. So its buffer is
//!   mapped before the fork and touched where it is used ([`sys::shm`]), what it
//!   tells lies in one page ([`daemon::shared::scoreboard`]), and the supervisor
//!   allocates nothing between forks. Fields 10 and 11 of proc_pid_stat(5) count
//!   them.
//! - **The child's arm never returns and never drops.** It holds copies of all
//!   the supervisor owns, and has closed many of them by number; a destructor
//!   would close them again, or whatever has the number by then. It leaves by
//!   [`sys::process::exit`], and so does a panic: [`daemon::worker::child`].
//! - **In strict mode: no close, no clock, no allocation, no log.** Any call but
//!   read, write, exit and sigreturn is death, so is a look at the processor's
//!   time-stamp counter, and an allocation is such a call now and then only:
//!   `serve_only` in [`daemon::worker::serve`], [`net::connection`], every
//!   [`service::Service`]. Timeouts are therefore the socket's own, durations the
//!   supervisor's.
//! - **Strict mode permits write(2) to any open descriptor.** Everything but the
//!   connection is closed first: `lock_in_for_one` in [`daemon::worker::serve`].
//! - **Whoever meets a client runs nothing, and whoever runs something meets no
//!   client.** The command service's helper is forked before the sandbox shuts and
//!   takes one byte from it, a number that may be wrong; it is outside because a
//!   filter would follow its commands through execve(2): [`service::helper`], and
//!   [`daemon::datagram::commands`], which has one for each command.
//! - **The scoreboard is gossip.** A child that was taken over can write what it
//!   likes there. It is never an index, a length, a pid or a pointer:
//!   [`daemon::shared::scoreboard`]. What is true comes from the kernel:
//!   `daemon::supervisor::children`, `daemon::supervisor::reap`.
//! - **A wake-up is spent on one worker.** If that one dies or retires without
//!   accepting, the client waits beside idle workers. So a woken worker accepts
//!   before it obeys, and goes on while it refuses ([`daemon::worker::acceptor`]), and the accidental death of an
//!   idle one always forks another (`lost` in [`daemon::shared::pool`]).
//! - **fork(2) copies descriptors and page tables.** A descriptor or a page per
//!   child makes every later fork slower: [`sys::shm`] keeps the supervisor's
//!   tables out of children, and only `daemon::supervisor::channels` (double-fork) has a
//!   descriptor per client, and `daemon::supervisor::fd_passing` one per worker that waits.
//! - **A copied descriptor is an open one.** A child that kept the write end of
//!   its generation's pipe would keep its siblings from hearing that the
//!   supervisor died: `fork_worker` in `daemon::supervisor::generation`,
//!   [`daemon::shared::pipe_of_death`]. One that kept a connection on its way to a sibling
//!   would keep its end from the client: `daemon::supervisor::fd_passing`.
//! - **An accept lock is held around the wait and no longer.** It belongs to one
//!   generation, and the kernel frees it with its holder: [`sys::lock`].
//! - **A fork is when memory runs out**, and for its time the supervisor is no better
//!   than its children in the kernel's eyes: [`sys::memory`].
//! - **A pid is somebody else's once it is reaped.** One is kept until
//!   waitpid(2) has said that it is gone, and signalled no later:
//!   `daemon::supervisor::children`. Under `--reap ignore` the kernel reaps unasked, so
//!   there a pid may turn up twice: `outlive` in `daemon::supervisor::exits`.
//! - **Closing a listener resets its queue.** It is drained behind a filter first:
//!   `daemon::supervisor::stop`, `shut_listeners` in
//!   `daemon::supervisor::generation`, and [`net::Listener`].
//! - **A socket that was handed over is somebody else's.** Filters, shutdown(2) and
//!   unlink(2) would reach its owner and the next echod: [`net::Handed`],
//!   `keep_ours` in `daemon::supervisor::generation`.
#![deny(unsafe_code)]

pub mod access;
pub mod addr;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod error;
pub mod load;
pub mod logging;
pub mod net;
pub mod service;
pub mod sys;
pub mod values;

#[cfg(test)]
mod rerun;
