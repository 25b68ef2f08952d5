//! What was asked of the soak.

use std::time::Duration;

use clap::Parser;

/// The longest a full soak may take when no time is given: its counts bound it
/// long before.
const FULL: Duration = Duration::from_secs(24 * 3600);

/// echod under the worst that can be done to it, and a report card at the end.
#[derive(Parser, Debug)]
#[command(name = "soak.sh", disable_version_flag = true)]
struct Args {
    /// Only these scenarios, by name: S1 S3
    scenarios: Vec<String>,
    /// Everything at its full size, however long it takes
    #[arg(long)]
    all: bool,
    /// A minute in all: a smoke of every scenario
    #[arg(long, conflicts_with = "all")]
    quick: bool,
    /// Time in all, shared out among the scenarios
    #[arg(long, value_name = "DURATION", default_value = "10m", conflicts_with_all = ["all", "quick"], value_parser = humantime::parse_duration)]
    time: Duration,
    /// S1 and S3 on other servers too, those of scripts/peers that are installed
    #[arg(long)]
    peers: bool,
    /// What every random choice follows from
    #[arg(long, value_name = "N", default_value_t = 862)]
    seed: u64,
    /// What cargo bench adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one scenario may do.
#[derive(Clone, Debug)]
pub struct Plan {
    scenarios: Vec<String>,
    /// Full counts, bounded by nothing else.
    pub all: bool,
    /// Other servers too.
    pub peers: bool,
    /// Time for all of it.
    pub time: Duration,
    pub seed: u64,
}

impl Plan {
    /// Reads the command line; a mistake in it ends the program with status 64.
    pub fn from_args() -> Plan {
        let args = Args::try_parse().unwrap_or_else(|error| {
            let _ = error.print();
            std::process::exit(if error.use_stderr() { 64 } else { 0 })
        });
        let time = match (args.all, args.quick) {
            (true, _) => FULL,
            (_, true) => Duration::from_secs(60),
            _ => args.time,
        };
        Plan {
            scenarios: args.scenarios,
            all: args.all,
            peers: args.peers,
            time,
            seed: args.seed,
        }
    }

    /// Whether a scenario was asked for; all are when none is named.
    pub fn wants(&self, name: &str) -> bool {
        self.scenarios.is_empty() || self.scenarios.iter().any(|s| s.eq_ignore_ascii_case(name))
    }

    /// The plan of a scenario that gets `share` of `of`.
    pub fn share(&self, share: u32, of: u32) -> Plan {
        Plan {
            time: self.time * share / of,
            ..self.clone()
        }
    }
}

/// A small generator of random numbers (xorshift64*, by Marsaglia and Vigna):
/// the same seed, the same choices.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    /// One of several; `None` of none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let n = from.len() as u64;
        (n > 0).then(|| &from[self.below(n) as usize])
    }
}
