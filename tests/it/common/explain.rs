//! Which loss belongs to which killed process.
//!
//! A client that was cut is explained by the connection line of a killed
//! process with the client's address in it. One more is explained by each
//! process that died before it could say whom it served: to echod it was idle.
//! A process of threads takes along those it had just accepted, too: at most
//! as many again as it says it served.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// How far apart, in seconds, a client's clock reading and the log line of the
/// death may lie: the log is written when the dead is reaped. Ports come round
/// again, so a line of another minute explains nothing.
const WINDOW: f64 = 10.0;

/// One connection that did not come back whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// Seconds since 1970.
    pub at: f64,
    /// `reset`, `short`, …
    pub kind: String,
    /// The client's own address, as echod's log shows it.
    pub client: String,
}

impl Loss {
    /// A line of `echoload --outcomes`: tab-separated time, kind, local address
    /// and more.
    pub fn parse(line: &str) -> Option<Loss> {
        let mut fields = line.split('\t');
        Some(Loss {
            at: fields.next()?.parse().ok()?,
            kind: fields.next()?.to_owned(),
            client: fields.next()?.to_owned(),
        })
    }
}

/// A process that was killed, as the log tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Death {
    /// Seconds since 1970.
    pub at: f64,
    /// Whom it served, if it said so in time.
    pub client: Option<String>,
}

impl Death {
    /// The deaths that a line of echod's log tells of.
    pub fn parse(line: &str) -> Vec<Death> {
        let silent = |at, n| vec![Death { at, client: None }; n];
        let threads = line.split_once("while serving ").and_then(|(_, n)| {
            let n = n.split_once(" client")?.0.parse().ok()?;
            Some(silent(seconds(time(line)?), n))
        });
        threads.unwrap_or_else(|| Death::of_one(line).into_iter().collect())
    }

    fn of_one(line: &str) -> Option<Death> {
        let at = seconds(time(line)?);
        let word = |key: &str| line.split_whitespace().find_map(|w| w.strip_prefix(key));
        if line.contains("conn pid=") && word("end=")?.starts_with("killed:") {
            let client = Some(word("peer=")?.to_owned());
            return Some(Death { at, client });
        }
        let idle = line.contains("idle process") && line.contains("died of SIGKILL");
        idle.then_some(Death { at, client: None })
    }
}

/// When a line of the log was written.
fn time(line: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(line.split_whitespace().next()?).ok()
}

/// Seconds since 1970.
fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}

/// The losses that nothing explains.
pub fn unexplained(losses: &[Loss], deaths: &[Death]) -> Vec<Loss> {
    let mut named: HashMap<&str, Vec<f64>> = HashMap::new();
    let mut silent: Vec<f64> = Vec::new();
    for death in deaths {
        match &death.client {
            Some(client) => named.entry(client).or_default().push(death.at),
            None => silent.push(death.at),
        }
    }
    let take = |times: &mut Vec<f64>, at: f64| {
        let near = times.iter().position(|time| (time - at).abs() < WINDOW);
        near.map(|n| times.swap_remove(n)).is_some()
    };
    let left: Vec<&Loss> = losses
        .iter()
        .filter(|loss| {
            let times = named.get_mut(loss.client.as_str());
            !times.is_some_and(|times| take(times, loss.at))
        })
        .collect();
    // Second, so that no silent death is spent on a loss that has a name.
    let alone = left.into_iter().filter(|loss| !take(&mut silent, loss.at));
    alone.cloned().collect()
}
