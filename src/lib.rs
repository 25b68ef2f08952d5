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
//! One connection of the default design, from the command line to its line in the log:
//! nine files, with their tests less than 2,000 lines, in this order. Each begins with
//! what it promises and what it does not know.
//!
//! 1. `daemon/mod.rs`: the straight line from a command line to an exit status.
//! 2. `daemon/supervisor/mod.rs`: one thread, one loop. Do what is due, wait, hand what
//!    came to the part that it is for. A worker is forked in `maintain`, before there is
//!    a client: `fork_worker` in `generation/fork.rs` reserves a place, forks, commits.
//! 3. `daemon/worker/child.rs`: the other side of the fork: what it is born with, how it
//!    begins and leaves. Nothing there comes back.
//! 4. `daemon/worker/prefork.rs`: `serve_one` is its whole life. How it waits and calls
//!    accept(2) is in `acceptor.rs` beside it.
//! 5. `net/accept.rs`: what accept(2) brings, and what each errno of it asks for.
//! 6. `daemon/worker/serve.rs`: it lets go of everything else, locks itself in, and
//!    serves.
//! 7. `service/mod.rs`: the echo. All this, for a loop that reads and writes.
//! 8. `daemon/supervisor/exits.rs`: what it means that a child is gone. `reap.rs` has
//!    asked the kernel, `generation/exits.rs` frees the place.
//! 9. `daemon/shared/connection_log.rs`: what it told, how it ended, and the line, which
//!    is there with `-v`.
//!
//! And at TERM: [`daemon::supervisor`]'s `orders` hears it, `state` is the stop as a pure
//! table, `stop` does what that says, `take_queue` in `clients` serves who is left.
//!
//! Then, by need:
//!
//! - what children tell: [`daemon::shared::scoreboard`];
//! - other designs: `daemon::supervisor::design` has them side by side,
//!   [`daemon::threads`] is how one process serves many;
//! - scale: `daemon::supervisor::reap`, [`daemon::shared::pool`];
//! - who is let in: [`access`], [`daemon::shared::access_control`];
//! - UDP, and how it is kept from being a weapon: [`daemon::datagram`],
//!   [`net::guard`];
//! - a listener that is drained without loss: [`net`]; what is set on its sockets:
//!   `net::options`;
//! - what every process is, read back from the kernel: `daemon::start::self_check`;
//! - what a worker may still ask for: [`daemon::worker::sandbox`], [`sys::sandbox`];
//! - what a service manager hands over and is told: `daemon::start::activation`,
//!   `daemon::supervisor::notify`;
//! - commands: [`service::command`], [`daemon::datagram::commands`];
//! - a new option: `CONTRIBUTING.md` has the steps; how it is typed is in
//!   [`cli::echod`], what it means in [`config`];
//! - the other two programs: [`client`], [`load`].
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
//!   command helper, starts a process: what a client names is run beside the sandbox.
//! - `client` and `load` are clients: they share addresses and errors with the
//!   daemon, and no code that serves. A bug in `net` cannot hide itself from them.
//! - `addr` asks `sys` to make names safe to look up in a static binary, and has
//!   from it who connected ([`addr::Peer`]).
//!
//! # Words
//!
//! One word, one thing. What UNP and Apache have a name for is called that (listener,
//! worker, scoreboard, drain, reap, spare servers); these are ours, or narrower.
//!
//! - **accept strategy**: how a worker comes by a connection: shared, locked or passed.
//! - **Accepted**: an accepted connection: descriptor, peer, listener.
//! - **Acceptor**: waits at the listeners, and accepts.
//! - **access control**: who is let in, for connections and for datagrams alike.
//! - **child exit**: what is known of a child that the kernel says is gone.
//! - **command helper**: the process outside the sandbox that runs what clients name.
//! - **conflicts**: options that do not go together.
//! - **connection log**: a connection's entry in shared memory, the verdict on its end,
//!   and its one line.
//! - **context** (`WorkerContext`): what every child is born with.
//! - **datagram worker**: the process of one UDP or unixgram socket.
//! - **design**: which processes serve, and who accepts: `--model` with what it brings.
//! - **DontFork**: memory of the supervisor's that no child has.
//! - **entry**: what whoever serves a connection tells of it: eight words with one writer.
//! - **fd passing**: the supervisor accepts, and sends the descriptor to a worker.
//! - **fixed stack**: a list in such memory, of a size that does not change.
//! - **generation**: all that one configuration brought into being. There is one; HUP
//!   gives it the next number, new workers and a new pipe of death.
//! - **gossip**: what children tell. It may be a lie, and nothing breaks if it is one.
//! - **pipe of death**: a generation's pipe: a byte retires one worker, its end all.
//! - **place**: the right to be one of `--max-clients`, taken before each fork; the
//!   process that has it has the **slot** of the same number.
//! - **rebalance**: a worker that leaves clients waiting elsewhere wakes another for them.
//! - **respawn limiter**: workers that die young are forked again more slowly.
//! - **seat**: a place, where clients are threads of one process.
//! - **service**: what a connection is served with: echo or command.
//! - **thread pool**: the threads of such a process.
//! - **wakeup**: a descriptor by which one process wakes another, and nothing more.
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
//!   supervisor, whose one order to a worker of connections is KILL. A handler in a worker obeys
//!   who sent the signal, and not that it came: [`sys::process`],
//!   `leave_at_alarm` in [`sys::signal`].
//! - **A bare fork is unknown to the C library.** The child of
//!   [`sys::process::fork_bare`], one connection's, may take no mutex of pthreads',
//!   start no thread and not call raise(3).
//! - **A page is a fault.** A child for one connection touches about ten, and each
//!   costs it a microsecond or two: a table of its own that it writes to, or a
//!   large array on its stack, is one more for every connection. So its buffer is
//!   mapped before the fork and touched where it is used ([`sys::memory`]), what it
//!   tells lies in one page ([`daemon::shared::scoreboard`]), and the supervisor
//!   seldom allocates between forks. Fields 10 and 11 of proc_pid_stat(5) count
//!   them.
//! - **The child's arm never returns and never drops.** It holds copies of all
//!   the supervisor owns, and has closed many of them by number; a destructor
//!   would close them again, or whatever has the number by then. It leaves by
//!   [`sys::process::exit`], and so does a panic: [`daemon::worker::child`].
//! - **In strict mode: no close, no clock, no allocation, no log.** Any call but
//!   read, write, exit and sigreturn is death, so is a look at the processor's
//!   time-stamp counter. Most allocations make no call, so that a test passes; the one
//!   that does is death:
//!   `serve_only` in [`daemon::worker::serve`], [`net::connection`], every
//!   [`service::Service`]. Timeouts are therefore the socket's own, durations the
//!   supervisor's.
//! - **Strict mode permits write(2) to any open descriptor.** Everything but the
//!   connection and what its service needs is closed first: `lock_in_for_one` in [`daemon::worker::serve`].
//! - **Whoever meets a client runs nothing, and whoever runs something meets no
//!   client.** The command service's helper is forked before the sandbox shuts and
//!   takes one byte from it, a number that may be wrong; it is outside because a
//!   filter would follow its commands through execve(2): [`service::command`], and
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
//!   child makes every later fork slower: [`sys::memory`] keeps the supervisor's
//!   tables out of children, and only `Channels` in `daemon::supervisor::reap`
//!   (double-fork) has a descriptor per client, and `daemon::supervisor::fd_passing` one
//!   per worker that waits.
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Half an hour, at the pace of somebody new.
    #[test]
    fn the_reading_list_is_there_and_short() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let map = std::fs::read_to_string(src.join("lib.rs")).expect("this file");
        let list = (1..).map_while(|n| {
            let begins = format!("//! {n}. `");
            let mut lines = map.lines();
            let line = lines.find_map(|line| line.strip_prefix(&*begins))?;
            line.split_once("`: ").map(|(path, _)| path)
        });
        let long = |path: &str| {
            let text = std::fs::read_to_string(src.join(path)).expect(path);
            text.lines().count()
        };
        let lines: Vec<usize> = list.map(long).collect();
        assert_eq!(lines.len(), 9, "{lines:?}");
        assert!(lines.iter().sum::<usize>() < 2000, "{lines:?}");
    }
}
