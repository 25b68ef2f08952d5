//! A log that is full, whose reader is dead or asleep: serving goes on, and
//! what was lost is counted and said.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, pipe};
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{
    Builder, Client, DEADLINE, DESIGNS, Daemon, Signal, many, need, need_root, poll_until, zombies,
};
use crate::log::stop;

/// How many lines the log says were lost.
fn lost(log: &str) -> u64 {
    let count = |line: &str| -> Option<u64> {
        let head = line.strip_suffix(" log lines lost")?;
        head.rsplit(' ').next()?.parse().ok()
    };
    log.lines().filter_map(count).sum()
}

fn assert_serves_and_stops(daemon: &Daemon, n: u64) {
    many(daemon.addr(), n, 4, 300).assert_all_complete();
    poll_until(DEADLINE, "the dead are reaped", || {
        zombies(daemon.pid()).is_empty()
    });
    stop(daemon);
}

#[test]
fn row_64_a_full_disk_takes_the_log_and_nothing_else() {
    for design in DESIGNS {
        let full = ["--log-target", "/dev/full"];
        let daemon = Builder::new().args(design.args).args(full).start();
        assert_serves_and_stops(&daemon, 100);
        assert_eq!(daemon.log(), "");
        let full = OpenOptions::new().write(true).open("/dev/full");
        let builder = Builder::new().args(design.args);
        let daemon = builder.stderr(full.expect("/dev/full")).start();
        assert_serves_and_stops(&daemon, 100);
    }
}

/// In a mount namespace of its own: a file system of four pages.
#[test]
fn row_64_what_a_full_disk_lost_is_counted_when_it_has_room_again() {
    if !need_root() || !need("unshare") {
        return;
    }
    let builder = Builder::new();
    let disk = builder.dir().join("disk");
    fs::create_dir(&disk).expect("mkdir");
    fs::set_permissions(&disk, fs::Permissions::from_mode(0o777)).expect("chmod");
    let script = "mount -t tmpfs -o size=16k,mode=777 none \"$0\" \
                  && head -c 8192 /dev/zero >\"$0/ballast\" && exec \"$@\"";
    let at = disk.display().to_string();
    let daemon = builder
        .under(["unshare", "-m", "sh", "-c", script, &at])
        .args(["--log-target", &format!("{at}/log")])
        .start();
    // Its own view of the disk, as proc(5) shows it.
    let seen = format!("/proc/{}/root{at}", daemon.pid());
    let log = || fs::read_to_string(format!("{seen}/log")).expect("a log");
    many(daemon.addr(), 100, 4, 300).assert_all_complete();
    // A client is done before its line is: the ballast stays until they all are.
    poll_until(DEADLINE, "the dead are reaped", || {
        daemon.role("echod-conn").is_empty() && zombies(daemon.pid()).is_empty()
    });
    assert_eq!(lost(&log()), 0);
    fs::remove_file(format!("{seen}/ballast")).expect("unlink");
    many(daemon.addr(), 5, 1, 300).assert_all_complete();
    poll_until(DEADLINE, "the loss is said", || lost(&log()) > 0);
    // A line that was torn is a lost one.
    let whole = |text: &str| {
        text.lines()
            .filter(|line| line.ends_with("end=eof"))
            .count()
    };
    poll_until(DEADLINE, "every line is there or counted", || {
        let text = log();
        whole(&text) as u64 + lost(&text) >= 105
    });
    let text = log();
    assert_eq!(whole(&text) as u64 + lost(&text), 105, "{text}");
}

#[test]
fn row_65_a_dead_reader_of_the_log_is_no_reason_to_stop() {
    for design in DESIGNS {
        let (reader, writer) = pipe().expect("a pipe");
        let daemon = Builder::new().args(design.args).stderr(writer).start();
        drop(reader);
        assert_serves_and_stops(&daemon, 100);
    }
}

/// Takes what is in the pipe without waiting for more.
fn drain(reader: &mut (impl Read + Send)) -> String {
    let mut text = Vec::new();
    let mut buf = [0; 65536];
    loop {
        let n = reader.read(&mut buf).expect("read");
        text.extend_from_slice(&buf[..n]);
        if n < buf.len() {
            return String::from_utf8(text).expect("text");
        }
    }
}

#[test]
fn row_66_a_reader_that_stopped_reading_delays_nobody() {
    for design in DESIGNS {
        let (mut reader, writer) = pipe().expect("a pipe");
        let daemon = Builder::new()
            .env("RUST_LOG", "trace")
            .args(design.args)
            .args(["--graceful-timeout", "5s"])
            .stderr(writer)
            .start();
        // 64 KiB are about 450 lines.
        many(daemon.addr(), 700, 4, 100).assert_all_complete();
        let start = Instant::now();
        let mut client = Client::connect(daemon.addr());
        client.ping(b"not delayed");
        assert!(start.elapsed() < Duration::from_secs(2), "{}", design.name);
        let before = drain(&mut reader);
        assert_eq!(lost(&before), 0, "{}: it had room", design.name);
        drop(client);
        many(daemon.addr(), 1, 1, 100).assert_all_complete();
        let rest = thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
        let after = rest.join().expect("a reader").expect("text");
        // A worker that serves many counts for itself, and says so with its
        // next line: with those that say nothing any more it is gone.
        let least = if design.pooled && design.reuses {
            1
        } else {
            100
        };
        assert!(lost(&after) >= least, "{}: {after}", design.name);
        assert!(after.contains("stopped"), "{}: {after}", design.name);
    }
}

/// Nobody reads, and nobody ever will: the stop does not wait for it either.
#[test]
fn row_66_a_full_pipe_does_not_keep_echod_from_stopping() {
    let (reader, writer) = pipe().expect("a pipe");
    let builder = Builder::new().env("RUST_LOG", "trace");
    let daemon = builder.stderr(writer).start();
    many(daemon.addr(), 700, 4, 100).assert_all_complete();
    let mut client = Client::connect(daemon.addr());
    client.ping(b"busy");
    let start = Instant::now();
    daemon.signal(Signal::SIGINT);
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(reader);
}

#[test]
fn row_66_a_fifo_nobody_reads_any_more_delays_nobody() {
    let builder = Builder::new();
    let fifo = builder.path("fifo");
    crate::common::must("mkfifo", &["-m", "0666", &fifo]);
    let reader: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&fifo)
        .expect("open");
    let builder = builder.env("RUST_LOG", "trace");
    let daemon = builder.args(["--log-target", &fifo]).start();
    assert_serves_and_stops(&daemon, 700);
    drop(reader);
}
