//! Processes killed from outside: who notices, and what the supervisor makes
//! of it.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::client::is_timeout;
use crate::common::design::{PREFORK, PREFORK_REUSE, pool};
use crate::common::{
    Builder, Client, ConnLine, DEADLINE, Daemon, Design, Signal, children, echo_once, pattern,
    poll_some, poll_until, proc, signal, zombies,
};

/// Lets threads end also when the test fails: a scope waits for them.
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How long nothing must come before "not served" is believed.
pub const A_WHILE: Duration = Duration::from_millis(20);

/// A client that has sent its number and has not looked for an answer.
pub fn send(addr: &str, n: u8) -> Client {
    let mut client = Client::connect(addr);
    client.write_all(&[n; 4]).expect("send");
    client
}

#[track_caller]
pub fn expect_answer(client: &mut Client, n: u8) {
    let mut got = [0; 4];
    client
        .read_exact(&mut got)
        .unwrap_or_else(|e| panic!("client {n}: {e}"));
    assert_eq!(got, [n; 4]);
}

/// Each kill lets exactly one client in, whoever reaps: see wait(2) for what
/// the designs do not learn.
pub fn row_20_the_limit_is_exact_after_kills(design: &Design) {
    let (args, limit) = design.limited_to(4);
    let daemon = Daemon::start(&args);
    let mut clients: Vec<Client> = (0..limit as u8 + 12)
        .map(|n| send(daemon.addr(), n))
        .collect();
    for (n, client) in clients.iter_mut().enumerate().take(limit) {
        expect_answer(client, n as u8);
    }
    let mut shot = BTreeSet::new();
    for next in limit..clients.len() {
        let serving = poll_some(DEADLINE, "who serves", || {
            let mut serving = daemon.role("echod-conn");
            // Its channel closes before a double-forked one is quite gone.
            serving.retain(|pid| !shot.contains(pid));
            assert!(serving.len() <= limit, "{serving:?} serve {limit} clients");
            (serving.len() == limit).then_some(serving)
        });
        assert!(clients[next].silent_for(A_WHILE), "beyond the limit");
        signal(serving[next % limit], Signal::SIGKILL);
        shot.insert(serving[next % limit]);
        expect_answer(&mut clients[next], next as u8);
    }
}

/// 500 deaths at once reach the supervisor as a few SIGCHLDs.
#[test]
fn row_27_five_hundred_deaths_at_once() {
    let daemon = Builder::new()
        .args(["--max-clients", "600"])
        .args(pool(500, 500, 500))
        .start();
    let full = || daemon.role("echod-idle");
    poll_until(DEADLINE, "500 idle workers", || full().len() == 500);
    let dead: BTreeSet<i32> = full().into_iter().collect();
    for &pid in &dead {
        signal(pid, Signal::SIGKILL);
    }
    let start = Instant::now();
    // Promised are 100 ms; a busy machine gets some more.
    poll_until(
        Duration::from_secs(3),
        "every one of them is reaped",
        || children(daemon.pid()).iter().all(|pid| !dead.contains(pid)),
    );
    println!("500 reaped in {:?}", start.elapsed());
    poll_until(DEADLINE, "the pool is full again", || full().len() == 500);
    assert!(zombies(daemon.pid()).is_empty());
    assert_eq!(echo_once(daemon.addr(), b"alive"), b"alive");
}

/// One client at a time until told to stop; the addresses of those that broke.
fn clients_in_turn(addr: &str, stop: &AtomicBool) -> BTreeSet<String> {
    let sent = pattern(0, 24 << 10);
    let mut broken = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        let mut client = Client::connect(addr);
        let name = client.peer_name();
        // In pieces, so that a kill finds it at any stage.
        let whole = sent.chunks(1 << 10).all(|piece| {
            let mut got = Vec::new();
            let mut back = client.handle().take(piece.len() as u64);
            let end = client
                .write_all(piece)
                .and_then(|()| back.read_to_end(&mut got));
            let timeout = end.is_err_and(|error| is_timeout(&error));
            assert!(!timeout, "{name} is neither served nor closed");
            assert!(piece.starts_with(&got), "corrupt");
            got == piece
        });
        if !whole {
            broken.insert(name);
        }
    }
    broken
}

/// Kills under load. Who broke is known by address, and so is who was killed:
/// the first must be among the second.
pub fn row_39_a_kill_breaks_its_own_client_alone(design: &Design) {
    let daemon = Daemon::start(design.args);
    let (addr, stop) = (daemon.addr(), AtomicBool::new(false));
    let mut shot = BTreeSet::new();
    let broken = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| clients_in_turn(addr, &stop)))
            .collect();
        let stopper = SetAtEnd(&stop);
        let start = Instant::now();
        while start.elapsed() < DEADLINE && shot.len() < 25 {
            let serving = daemon.role("echod-conn");
            if let Some(&pid) = serving.get(shot.len() % serving.len().max(1)) {
                signal(pid, Signal::SIGKILL);
                shot.insert(pid);
            }
        }
        drop(stopper);
        let broken = clients.into_iter().map(|c| c.join().expect("a client"));
        broken.flatten().collect::<BTreeSet<_>>()
    });
    assert!(!broken.is_empty(), "no kill ever hit");
    let killed = |line: &ConnLine| line.end.starts_with("killed:");
    poll_until(DEADLINE, "every broken client in the log", || {
        let lines = ConnLine::all(&daemon.log());
        let named: BTreeSet<_> = lines
            .into_iter()
            .filter(killed)
            .map(|line| line.peer)
            .collect();
        // Who died between accept(2) and saying whom it had was idle to all.
        broken.difference(&named).count() <= daemon.log_count("idle process")
    });
    if design.exit_status_seen {
        for line in ConnLine::all(&daemon.log()).iter().filter(|l| killed(l)) {
            assert_eq!(line.end, "killed:KILL");
            assert!(shot.contains(&line.pid), "{line:?} was not shot");
            let told = format!("process {} died of SIGKILL", line.pid);
            assert_eq!(daemon.log_count(&told), 1, "{told}");
        }
    }
    assert_eq!(echo_once(daemon.addr(), b"alive"), b"alive");
    poll_until(DEADLINE, "no zombie", || zombies(daemon.pid()).is_empty());
}

/// Clients come while the supervisor sleeps and its idle workers are dead.
pub fn row_42_the_queue_survives_every_idle_worker(design: &Design) {
    let daemon = Daemon::start(design.args);
    assert_eq!(echo_once(daemon.addr(), b"warm"), b"warm");
    daemon.signal(Signal::SIGSTOP);
    poll_until(DEADLINE, "the supervisor stopped", || {
        proc::state(daemon.pid()) == Some('T')
    });
    let workers: Vec<i32> = daemon.members().iter().map(|p| p.pid).collect();
    for pid in workers.into_iter().filter(|&pid| pid != daemon.pid()) {
        signal(pid, Signal::SIGKILL);
        poll_until(DEADLINE, "it is dead", || proc::is_dead(pid));
    }
    let mut clients: Vec<Client> = (0..200).map(|n| send(daemon.addr(), n)).collect();
    daemon.signal(Signal::SIGCONT);
    for (n, client) in clients.iter_mut().enumerate() {
        expect_answer(client, n as u8);
        client.shutdown_write().expect("shutdown");
        assert!(client.rest().is_empty());
    }
}

/// An exclusive wake-up that a dying worker was given is lost (epoll_ctl(2)):
/// somebody else must look at the queue.
fn no_wake_up_is_lost(design: &Design) {
    const ROUNDS: usize = 200;
    let daemon = Builder::new().args(design.args).args(pool(3, 3, 6)).start();
    let mut broken = 0;
    for round in 0..ROUNDS {
        let idle = poll_some(DEADLINE, "idle workers", || {
            let idle = daemon.role("echod-idle");
            (idle.len() >= 3).then_some(idle)
        });
        // All but one, so that one may sleep on beside the client.
        let spared = idle[round % idle.len()];
        let shoot = || {
            for &pid in idle.iter().filter(|&&pid| pid != spared) {
                signal(pid, Signal::SIGKILL);
            }
        };
        let kill_first = round % 2 == 0;
        if kill_first {
            shoot();
        }
        let mut client = Client::connect(daemon.addr());
        if !kill_first {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(3 * round as u64) {
                std::hint::spin_loop();
            }
            shoot();
        }
        let served = client.write_all(b"ping").is_ok() && {
            let read = client.read_exact(&mut [0; 4]);
            let late = read.as_ref().is_err_and(is_timeout);
            assert!(!late, "round {round}: nobody came to the client");
            read.is_ok()
        };
        // Killed before the client came, no worker can have taken it along.
        assert!(served || !kill_first, "round {round}: a client was cut");
        broken += usize::from(!served);
    }
    println!(
        "{}: {broken} of {ROUNDS} died with their worker",
        design.name
    );
}

/// A newborn looks at the queue before it waits: so each idle worker that dies
/// is replaced, even where enough are left.
#[test]
fn row_42_the_death_of_an_idle_worker_forks_one() {
    for design in [&PREFORK, &PREFORK_REUSE] {
        let daemon = Builder::new().args(design.args).args(pool(6, 1, 6)).start();
        let idle = || daemon.role("echod-idle");
        for _ in 0..5 {
            poll_until(DEADLINE, "six wait", || idle().len() == 6);
            let victims = idle().split_off(2);
            for &pid in &victims {
                signal(pid, Signal::SIGKILL);
            }
            poll_until(DEADLINE, "six wait again", || {
                let now = idle();
                now.len() == 6 && victims.iter().all(|pid| !now.contains(pid))
            });
        }
    }
}

#[test]
fn row_42_no_wake_up_is_lost_with_its_worker() {
    no_wake_up_is_lost(&PREFORK);
}

#[test]
fn row_42_no_wake_up_is_lost_with_its_worker_under_reuse() {
    no_wake_up_is_lost(&PREFORK_REUSE);
}
