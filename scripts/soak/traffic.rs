//! The clients: an echoload beside the echod that is being hurt.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::card::Row;
use crate::common::Daemon;
use crate::common::explain::{Death, Loss, unexplained};

/// Between two kills.
pub const PAUSE: Duration = Duration::from_millis(50);

/// The load beside every stop.
pub const LOAD: [&str; 4] = ["-c", "16", "-d", "0.4"];

/// An echoload at work.
#[derive(Debug)]
pub struct Traffic {
    child: Child,
    dir: TempDir,
}

/// What it counted.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub complete: u64,
    pub refused: u64,
    pub corrupt: u64,
    /// Every connection that was not complete, refused ones too.
    pub losses: Vec<Loss>,
    pub p99_us: f64,
}

impl Report {
    /// Connections that were made and not served in full.
    pub fn cut(&self) -> Vec<Loss> {
        let made = |loss: &&Loss| loss.kind != "refused";
        self.losses.iter().filter(made).cloned().collect()
    }

    /// Enters into the row what came through and what did not; what the log
    /// tells of the killed explains the rest.
    pub fn enter(&self, row: &mut Row, deaths: &[Death]) {
        let cut = self.cut();
        let alone = unexplained(&cut, deaths);
        row.echoed += self.complete;
        row.corrupt += self.corrupt;
        row.lost += alone.len() as u64;
        row.explained += (cut.len() - alone.len()) as u64;
        if let Some(first) = alone.first() {
            row.fail(format!("{first:?}"));
        }
    }
}

impl Traffic {
    /// Starts echoload on these arguments, such as `crr ADDR -c 64 -n 1000`.
    pub fn start<S: AsRef<str>>(args: &[S]) -> Traffic {
        let dir = TempDir::with_prefix("echod-soak-").expect("a temporary directory");
        let out = fs::File::create(dir.path().join("report")).expect("a report file");
        let child = Command::new(env!("CARGO_BIN_EXE_echoload"))
            .args(args.iter().map(AsRef::as_ref))
            .arg("--json")
            .arg("--outcomes")
            .arg(dir.path().join("outcomes"))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(Stdio::null())
            .spawn()
            .expect("echoload starts");
        Traffic { child, dir }
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Waits for its end, until `limit` at most, and reads what it counted.
    pub fn report(mut self, limit: Duration) -> Report {
        let until = Instant::now() + limit;
        while self.runs() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        if self.runs() {
            let _ = self.child.kill();
            let _ = self.child.wait();
            panic!("echoload does not end within {limit:?}");
        }
        let text = self.file("report");
        let json: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("echoload's report: {error}: {text:?}"));
        let count = |key: &str| json[key].as_u64().unwrap_or_default();
        Report {
            complete: count("complete"),
            refused: count("refused"),
            corrupt: count("corrupt"),
            losses: self
                .file("outcomes")
                .lines()
                .flat_map(Loss::parse)
                .collect(),
            p99_us: json["latency_us"]["p99"].as_f64().unwrap_or_default(),
        }
    }

    fn file(&self, name: &str) -> String {
        let path: PathBuf = self.dir.path().join(name);
        fs::read_to_string(path).unwrap_or_default()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everybody that this daemon's log says was killed.
pub fn deaths(daemon: &Daemon) -> Vec<Death> {
    daemon.log().lines().flat_map(Death::parse).collect()
}

/// How many connections a full soak opens on each design, or how long a
/// shorter one goes on: the arguments for echoload.
pub fn amount(all: bool, connections: u64, time: Duration) -> [String; 2] {
    if all {
        ["-n".to_owned(), connections.to_string()]
    } else {
        [
            "-d".to_owned(),
            format!("{:.2}", time.as_secs_f64().max(0.5)),
        ]
    }
}
