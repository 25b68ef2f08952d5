//! What echoload's command line means: a [`Plan`], with [`Rounds`] of it where
//! two servers are compared.

use std::time::Duration;

use clap::ValueEnum;

use super::typed::{Cli, Word};
use crate::error::{Error, Result};
use crate::load::{Bound, Mode, Plan, Rounds, Target, ratio};

const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// Bytes in a message.
const DEFAULT_SIZE: u64 = 64;

/// Bytes in one write of a stream.
const DEFAULT_STREAM: u64 = 64 << 10;

/// # Errors
/// What cannot be meant, by the name of the option (64).
pub(super) fn plan(cli: &Cli) -> Result<(Plan, Option<Rounds>)> {
    let is_word = |text: &String| Word::from_str(text, false).is_ok();
    let (word, addrs) = match cli.what.split_first() {
        Some((word, addrs)) if is_word(word) || addrs.len() == 2 => (word.as_str(), addrs),
        _ => ("rr", cli.what.as_slice()),
    };
    let word = Word::from_str(word, false)
        .map_err(|_| Error::usage(word, "not a mode: rr, crr, stream or hold"))?;
    let mode = match word {
        Word::Rr => Mode::Rr,
        Word::Crr => Mode::Crr,
        Word::Stream => Mode::Stream,
        Word::Hold => Mode::Hold,
    };
    let (addr, other) = match addrs {
        [addr] => (addr, None),
        [addr, other] => (addr, Some(other)),
        _ => return Err(Error::usage(cli.what.join(" "), "an address is missing")),
    };
    refuse(cli, mode, other.is_some())?;
    let time = cli.duration.unwrap_or(match mode {
        Mode::Hold => Duration::ZERO,
        _ => DEFAULT_DURATION,
    });
    let (pairs, round) = ratio::rounds(time, cli.rounds);
    let bound = match (cli.count, other) {
        (Some(count), _) => Bound::Count(count),
        (None, None) => Bound::Time(time),
        (None, Some(_)) => Bound::Time(round),
    };
    let target: Target = addr.parse()?;
    let other: Option<Target> = other.map(|other| other.parse()).transpose()?;
    let plan = Plan {
        target,
        mode,
        bound,
        connections: cli.connections,
        size: cli.size.clone().unwrap_or(match mode {
            Mode::Stream => DEFAULT_STREAM..=DEFAULT_STREAM,
            _ => DEFAULT_SIZE..=DEFAULT_SIZE,
        }),
        lines: cli.lines,
        threads: cli.threads,
        rate: cli.rate,
        warmup: cli.warmup,
        timeout: cli.timeout,
        sources: cli.sources,
        window: cli.window,
    };
    for target in [Some(&plan.target), other.as_ref()].into_iter().flatten() {
        fits(&plan, target)?;
    }
    Ok((plan, other.map(|other| Rounds { other, pairs })))
}

/// Options that the mode cannot use.
fn refuse(cli: &Cli, mode: Mode, two: bool) -> Result<()> {
    let streams = matches!(mode, Mode::Stream | Mode::Hold);
    let sizes = cli.size.as_ref();
    let many = sizes.is_some_and(|size| size.start() != size.end());
    for (wrong, option, why) in [
        (
            mode == Mode::Hold && cli.count.is_some(),
            "-n",
            "hold echoes twice on each of -c connections",
        ),
        (
            mode == Mode::Hold && two,
            "hold",
            "has no rate to compare: give one ADDR",
        ),
        (
            mode == Mode::Hold && !cli.warmup.is_zero(),
            "--warmup",
            "hold has nothing to warm up",
        ),
        (streams && cli.rate.is_some(), "-R", "is for rr and crr"),
        (
            mode == Mode::Stream && cli.lines,
            "--lines",
            "a stream is one message without an end",
        ),
        (
            mode == Mode::Stream && many,
            "-s",
            "a stream has one size, of each write",
        ),
        (
            cli.rounds.is_some() && !two,
            "--rounds",
            "is for two servers: give ADDR2",
        ),
        (cli.hdr.is_some() && two, "--hdr", "is for one server"),
        (
            cli.hdr.is_some() && mode == Mode::Stream,
            "--hdr",
            "a stream has no latencies",
        ),
        (
            cli.server_pid.is_some() && two,
            "--server-pid",
            "is for one server",
        ),
    ] {
        if wrong {
            return Err(Error::usage(option, why));
        }
    }
    Ok(())
}

/// Datagrams have no connection to hold, and no stream.
fn fits(plan: &Plan, target: &Target) -> Result<()> {
    if target.is_datagram() && matches!(plan.mode, Mode::Stream | Mode::Hold) {
        let why = format!("{} needs a stream: tcp: or unix:", plan.mode.name());
        return Err(Error::usage(target, why));
    }
    match target.longest() {
        Some(longest) if *plan.size.end() > longest => Err(Error::usage(
            format!("-s {}", plan.size.end()),
            format!("no datagram of {target} is longer than {longest} bytes"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn typed(line: &str) -> Result<Plan, String> {
        let words = std::iter::once("echoload").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
        let both = plan(&cli).map_err(|error| error.to_string())?;
        Ok(both.0)
    }

    #[test]
    fn the_defaults_are_the_pages() {
        let plan = typed("127.0.0.1:7").unwrap();
        assert_eq!(
            (plan.mode, plan.bound),
            (Mode::Rr, Bound::Time(DEFAULT_DURATION))
        );
        assert_eq!(plan.target.to_string(), "tcp:127.0.0.1:7");
        assert_eq!((plan.connections, plan.size), (16, 64..=64));
        assert_eq!(
            (plan.threads, plan.rate, plan.warmup),
            (1, None, Duration::ZERO)
        );
        assert_eq!((plan.sources, plan.window), (8, 256 << 10));
        assert_eq!(typed("stream h:1").unwrap().size, 65_536..=65_536);
        assert_eq!(plan.timeout, Duration::from_secs(5));
    }

    #[test]
    fn every_option_reaches_the_plan() {
        let plan = typed("crr unix:@e -c 3 -s 2K-3K -n 9 --timeout 200ms -t 2 -R 50 --warmup 1 --sources 3 --window 9K --lines").unwrap();
        assert_eq!((plan.mode, plan.bound), (Mode::Crr, Bound::Count(9)));
        assert_eq!((plan.threads, plan.rate), (2, Some(50.0)));
        assert!(plan.lines && !typed("h:1").unwrap().lines);
        assert_eq!(
            (plan.warmup, plan.sources, plan.window),
            (Duration::from_secs(1), 3, 9216)
        );
        assert_eq!(plan.target.to_string(), "unix:@e");
        assert_eq!((plan.connections, plan.size), (3, 2048..=3072));
        assert_eq!(plan.timeout, Duration::from_millis(200));
        let kept = typed("hold h:1 -d 5").unwrap();
        assert_eq!(
            (kept.mode, kept.keep()),
            (Mode::Hold, Duration::from_secs(5))
        );
        assert!(typed("hold h:1").unwrap().keep().is_zero());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "",
            "crr",
            "bulk h:1",
            "stream udp:h:1",
            "hold udp:h:1",
            "udp:h:1 -s 65508",
            "stream h:1 -R 5",
            "stream h:1 --lines",
            "hold h:1 -R 5",
            "stream h:1 -s 1-2",
            "h:1 -s 9-8",
            "h:1 -R 0",
            "h:1 -t 0",
            "h:1 h:2 --server-pid 1",
            "h:1 h:2 --hdr x",
            "h:1 --sources 0",
            "rr h:1 h:2 h:3",
            "x h:1 h:2",
            "h:1 --rounds 3",
            "hold h:1 h:2",
            "h:1 -c 0",
            "h:1 -s 0",
            "h:1 -s 2G",
            "h:1 -s K",
            "h:1 -d 0",
            "h:1 -d -1",
            "h:1 -d 5 -n 5",
            "h:1 -n 0",
            "h:1 --timeout 1us",
            "hold h:1 -n 5",
            "nowhere",
        ] {
            assert!(typed(line).is_err(), "{line}");
        }
    }
}
