//! S1 and S3 on other servers, as `scripts/peers/*.sh` start them for the bench:
//! what they lose where echod is held to nothing. Shown, and never a failure.
//!
//! They write no log that says whom a killed process served. So a process is
//! stopped, its connections are read from the kernel, and then it is killed: each
//! loss belongs to a kill or to the server, as exactly as with echod's log.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::card::Row;
use crate::common::explain::Death;
use crate::common::{Client, DEADLINE, Signal, holds_within, proc, signal};
use crate::plan::{Dice, Plan};
use crate::traffic::{LOAD, PAUSE, Traffic};
use crate::watch::children;

/// The files that describe them: those with a process for each client, and the
/// pools of Apache and Net::Server.
pub const PEERS: [&str; 6] = [
    "xinetd",
    "socat",
    "tcpserver",
    "apache-reuse",
    "perl-fork",
    "perl-prefork",
];

/// Starts one: $1 is its file, $2 its port, $3 a directory. What it says is what
/// is missing.
const START: &str = r#"
. "$1"
command -v "$needs" >/dev/null || { echo "$needs is not installed"; exit 77; }
! declare -F usable >/dev/null || usable || exit 77
stdio_echo=$3/stdio_echo
cc -O2 -o "$stdio_echo" scripts/peers/stdio_echo.c 2>/dev/null || stdio_echo=$(command -v cat)
echo "$name" >"$3/name"
echo "${stop_signal-TERM} ${lines-}" >"$3/how"
serve "$2" "$3" 2>/dev/null >&2
"#;

/// A running one, in a session of its own.
struct Peer {
    child: Child,
    dir: TempDir,
    port: u16,
}

impl Peer {
    /// Starts it, or says what is missing.
    fn start(file: &str) -> Result<Peer, String> {
        let dir = TempDir::with_prefix("echod-soak-").map_err(|error| error.to_string())?;
        let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = free.map_err(|error| error.to_string())?.port();
        let mut command = Command::new("bash");
        command.args(["-c", START, "peer", &format!("scripts/peers/{file}.sh")]);
        command.arg(port.to_string()).arg(dir.path());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // Apache, told to stop, signals its whole process group.
        command.process_group(0);
        let child = command.spawn().map_err(|error| format!("bash: {error}"))?;
        let mut peer = Peer { child, dir, port };
        let up = holds_within(DEADLINE, || {
            TcpStream::connect(peer.addr()).is_ok() || peer.ended()
        });
        if up && !peer.ended() {
            return Ok(peer);
        }
        let said = peer.child.stdout.take().map(std::io::read_to_string);
        let said = said.and_then(Result::ok).unwrap_or_default();
        Err(match said.trim() {
            "" => "it does not start".to_owned(),
            said => said.to_owned(),
        })
    }

    fn addr(&self) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.port)
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn ended(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_some()
    }

    fn file(&self, name: &str) -> String {
        let text = fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        text.trim_end().to_owned()
    }

    /// Its own word for a graceful stop, if it has one, else TERM.
    fn stop_signal(&self) -> Signal {
        match self.file("how").split(' ').next() {
            Some("WINCH") => Signal::SIGWINCH,
            Some("QUIT") => Signal::SIGQUIT,
            _ => Signal::SIGTERM,
        }
    }

    /// The same load as echod's, in lines where it echoes only those.
    fn traffic(&self, mode: &[&str]) -> Traffic {
        let addr = format!("tcp:{}", self.addr());
        let mut words = vec!["crr", &addr, "--sources", "1"];
        words.extend(mode);
        if self.file("how").ends_with(" yes") {
            words.push("--lines");
        }
        Traffic::start(&words)
    }

    /// Kills this child of it with SIGKILL, and says whom it served.
    fn kill(&self, pid: i32) -> Option<Vec<Death>> {
        signal(pid, Signal::SIGSTOP);
        // Until then it may still accept, or end; a dead one is no kill.
        holds_within(Duration::from_millis(100), || {
            proc::state(pid).is_none_or(|state| "TZX".contains(state))
        });
        let stopped = proc::state(pid) == Some('T');
        let clients = if stopped {
            self.clients(pid)
        } else {
            Vec::new()
        };
        signal(pid, Signal::SIGKILL);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let at = since.unwrap_or_default().as_secs_f64();
        let death = |client| Death {
            at,
            client: Some(client),
        };
        stopped.then(|| clients.into_iter().map(death).collect())
    }

    /// The other ends of the connections to the server that a process holds.
    fn clients(&self, pid: i32) -> Vec<String> {
        let fds = proc::fd_targets(pid).unwrap_or_default();
        let held: Vec<&str> = fds
            .iter()
            .filter_map(|(_, target)| target.strip_prefix("socket:[")?.strip_suffix(']'))
            .collect();
        // Not /proc/net/tcp: with 100,000 in TIME_WAIT it takes seconds to read.
        let port = format!("sport = :{}", self.port);
        let ss = Command::new("ss")
            .args([
                "-tneH",
                "exclude",
                "time-wait",
                "exclude",
                "listening",
                &port,
            ])
            .output();
        let table = ss.map_or_else(|_| Vec::new(), |out| out.stdout);
        let remote = |line: &str| {
            let mut fields = line.split_whitespace();
            let remote = fields.nth(4)?.to_owned();
            let inode = fields.find_map(|field| field.strip_prefix("ino:"))?;
            held.contains(&inode).then_some(remote)
        };
        let table = String::from_utf8_lossy(&table);
        table.lines().filter_map(remote).collect()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if !self.ended() {
            signal(self.pid(), Signal::SIGTERM);
            holds_within(Duration::from_secs(2), || self.ended());
        }
        // Whoever outlived it; the number of a group is nobody else's as long as
        // one of it lives.
        let left = proc::all()
            .iter()
            .any(|p| p.pgrp == self.pid() && p.state != 'Z');
        if left {
            proc::signal_group(self.pid(), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// S1 on each of them.
pub fn kill_soaks(plan: &Plan, time: Duration) -> Vec<Row> {
    let mut dice = Dice::new(plan.seed);
    // Bounded by time alone: some would take hours for a full count.
    let time = time.min(Duration::from_secs(120));
    let rows = PEERS.iter().map(|file| match Peer::start(file) {
        Ok(peer) => kill_soak(peer, time, &mut dice),
        Err(why) => missing(file, &why),
    });
    rows.collect()
}

/// A row that only says so.
fn missing(file: &str, why: &str) -> Row {
    let mut row = Row::new("", format!("not measured: {file}"));
    row.theirs = true;
    row.see(why);
    row
}

fn kill_soak(mut peer: Peer, time: Duration, dice: &mut Dice) -> Row {
    let mut row = Row::new(
        "",
        format!("beside S1: workers killed, {}", peer.file("name")),
    );
    row.theirs = true;
    let seconds = format!("{:.2}", time.as_secs_f64());
    let load = [
        "-c",
        "64",
        "-s",
        "1-256K",
        "-d",
        &seconds,
        "--timeout",
        "10",
    ];
    let mut traffic = peer.traffic(&load);
    let mut deaths = Vec::new();
    let mut next = Instant::now() + PAUSE;
    while traffic.runs() {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        next += PAUSE;
        // One that lives long enough to be stopped: most are gone in a moment.
        let killed = (0..20).find_map(|_| {
            let mut family = children(peer.pid());
            family.retain(|&pid| !proc::is_dead(pid));
            peer.kill(*dice.pick(&family)?)
        });
        if let Some(clients) = killed {
            row.tried += 1;
            row.survived += u64::from(!peer.ended());
            deaths.extend(clients);
        }
    }
    // One that was overtaken still hangs on to its clients.
    let report = traffic.report(DEADLINE * 3);
    report.enter(&mut row, &deaths);
    row.seen.clear();
    let kinds = kinds(
        &report
            .losses
            .iter()
            .map(|l| l.kind.as_str())
            .collect::<Vec<_>>(),
    );
    row.see(format!("{} lost in all; {kinds}", report.cut().len()));
    row
}

/// How often each: `3 reset, 1 timeout`.
fn kinds(all: &[&str]) -> String {
    let mut names = all.to_vec();
    names.sort_unstable();
    names.dedup();
    let count = |name: &&str| all.iter().filter(|kind| kind == &name).count();
    let parts = names.iter().map(|name| format!("{} {name}", count(name)));
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() {
        "nobody".to_owned()
    } else {
        parts.join(", ")
    }
}

/// S3 on each of them.
pub fn stops(plan: &Plan) -> Vec<Row> {
    let mut dice = Dice::new(plan.seed);
    let rounds = if plan.all { 100 } else { 10 };
    let start = Instant::now();
    let each = plan.time / 4 / PEERS.len() as u32;
    let mut rows = Vec::new();
    for (n, file) in (1..).zip(PEERS) {
        let mut row = missing(file, "no stop came in time");
        let mut seen = Stopped::default();
        for round in 0..rounds {
            if !plan.all && round > 0 && start.elapsed() > each * n {
                break;
            }
            match Peer::start(file) {
                Ok(peer) => stop(peer, &mut dice, &mut row, &mut seen),
                Err(why) => row = missing(file, &why),
            }
        }
        if row.tried > 0 {
            row.seen.clear();
            let Stopped {
                half_sent,
                refused,
                forced,
            } = seen;
            row.see(format!(
                "{half_sent} of them half-sent; {refused} refused, as after any stop; \
                 {forced} stops took over 10 s"
            ));
        }
        rows.push(row);
    }
    rows
}

/// What is told beside the counts.
#[derive(Default)]
struct Stopped {
    half_sent: u64,
    refused: u64,
    forced: u64,
}

fn stop(mut peer: Peer, dice: &mut Dice, row: &mut Row, seen: &mut Stopped) {
    let (name, which) = (peer.file("name"), peer.stop_signal());
    let addr = format!("tcp:{}", peer.addr());
    let mut half: Vec<Client> = (0..20)
        .filter_map(|_| Client::try_connect(&addr).ok())
        .collect();
    for client in &mut half {
        let _ = std::io::Write::write_all(client, b"half of");
    }
    let words = [&LOAD[..], &["--timeout", "1"]].concat();
    let mut traffic = peer.traffic(&words);
    thread::sleep(Duration::from_millis(50 + dice.below(200)));
    let ran = traffic.runs();
    signal(peer.pid(), which);
    let mut lost = 0;
    for mut client in half {
        lost += u64::from(!finishes(&mut client));
    }
    let ended = holds_within(DEADLINE, || peer.ended());
    drop(peer);
    let report = traffic.report(DEADLINE);
    if !ran || report.complete == 0 {
        return; // the stop came too late, or too early: it shows nothing
    }
    row.what = format!("beside S3: stops under load, {name}, by {which}");
    row.tried += 1;
    row.survived += u64::from(ended);
    report.enter(row, &[]);
    row.lost += lost;
    seen.half_sent += lost;
    seen.refused += report.refused;
    seen.forced += u64::from(!ended);
}

/// Says the rest of its line: does all of it come back?
fn finishes(client: &mut Client) -> bool {
    use std::io::{Read, Write};
    client.set_timeouts(Duration::from_secs(1));
    let mut got = Vec::new();
    let said = client
        .write_all(b" a message\n")
        .and_then(|()| client.shutdown_write());
    said.is_ok() && client.read_to_end(&mut got).is_ok() && got == b"half of a message\n"
}
