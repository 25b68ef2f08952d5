//! What echoload's command line means: a [`Plan`], and what is done with it.

use std::time::Duration;

use clap::ValueEnum;

use crate::addr::{Addr, Target};
use crate::cli::echoload::args::{Args, Typed, Word};
use crate::cli::host_and_port;
use crate::error::{Error, Result};
use crate::load::run::PERCENTILES;
use crate::load::{Bound, Mode, Plan, Rounds, Sweep, compare};

const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// One rate of a sweep.
const DEFAULT_STEP: Duration = Duration::from_secs(1);

const DEFAULT_P99: Duration = Duration::from_millis(5);

/// Where a sweep begins, and between what it ends, unless it is told.
const FIRST: f64 = 1000.0;
const ANY: (f64, f64) = (1.0, 1e7);

/// What is done with a plan.
#[derive(Debug, PartialEq)]
pub(super) enum Job {
    Run,
    Compare(Rounds),
    Sweep(Sweep),
}

/// Bytes in a message.
const DEFAULT_SIZE: u64 = 64;

/// Bytes in one write of a stream.
const DEFAULT_STREAM: u64 = 64 << 10;

/// # Errors
/// What cannot be meant, by the name of the option (64).
pub(super) fn plan(typed: &Typed) -> Result<(Plan, Job)> {
    let args = &typed.args;
    let is_word = |text: &String| Word::from_str(text, false).is_ok();
    let (word, addrs) = match args.what.split_first() {
        Some((word, addrs)) if is_word(word) || addrs.len() == 2 => (word.as_str(), addrs),
        _ => ("rr", args.what.as_slice()),
    };
    let word = Word::from_str(word, false)
        .map_err(|_| Error::usage(word, "not a mode: rr, crr, stream, hold or sweep"))?;
    let mode = match word {
        Word::Rr | Word::Sweep => Mode::Rr,
        Word::Crr => Mode::Crr,
        Word::Stream => Mode::Stream,
        Word::Hold => Mode::Hold,
    };
    let port = |text: &str| !text.contains(':');
    let (addr, other) = match addrs {
        [addr] => (addr.clone(), None),
        [host, digits] if port(digits) => (host_and_port(host, digits), None),
        [addr, other] => (addr.clone(), Some(other)),
        _ => {
            let example = "which server? As in: echoload 127.0.0.1:7777, or echoload crr h 7 -d 5s";
            return Err(Error::usage(args.what.join(" "), example));
        }
    };
    refuse(typed, mode, other.is_some())?;
    let sweep = (word == Word::Sweep || args.sweep.is_some()).then(|| sweep(args));
    sweeps(typed, mode, other.is_some(), sweep.is_some())?;
    let time = args.duration.unwrap_or(match mode {
        Mode::Hold => Duration::ZERO,
        _ if sweep.is_some() => DEFAULT_STEP,
        _ => DEFAULT_DURATION,
    });
    let (pairs, round) = compare::rounds(time, args.rounds);
    let bound = match (args.count, other) {
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
        connections: args.connections,
        size: args.size.clone().unwrap_or(match mode {
            Mode::Stream => DEFAULT_STREAM..=DEFAULT_STREAM,
            _ => DEFAULT_SIZE..=DEFAULT_SIZE,
        }),
        lines: args.lines,
        threads: args.threads,
        rate: args.rate,
        warmup: match sweep.is_some() && !typed.given("warmup") {
            true => (time / 5).min(DEFAULT_STEP / 5),
            false => args.warmup,
        },
        ramp_up: args.ramp_up,
        think: args.think,
        timeout: args.timeout,
        sources: args.sources,
        window: args.window,
        percentiles: match &args.percentiles {
            Some(list) => list.0.clone(),
            None => PERCENTILES.to_vec(),
        },
    };
    let targets: Vec<&Target> = std::iter::once(&plan.target).chain(&other).collect();
    for target in &targets {
        fits(&plan, target)?;
    }
    spread(typed, &targets)?;
    let job = match (other, sweep) {
        (Some(other), _) => Job::Compare(Rounds {
            other,
            pairs,
            fail_below: args.fail_below,
        }),
        (None, Some(sweep)) => Job::Sweep(sweep),
        (None, None) => Job::Run,
    };
    Ok((plan, job))
}

fn sweep(args: &Args) -> Sweep {
    Sweep {
        first: args.sweep.map_or(FIRST, |(from, _)| from),
        range: args.sweep.unwrap_or(ANY),
        p99: args.p99.unwrap_or(DEFAULT_P99),
    }
}

/// Options that a sweep cannot use, or only a sweep can.
fn sweeps(typed: &Typed, mode: Mode, two: bool, sweeps: bool) -> Result<()> {
    let given = |option| typed.given(option);
    if !sweeps {
        return match given("p99") {
            true => Err(Error::usage("--p99 without --sweep", "it is for a sweep")),
            false => Ok(()),
        };
    }
    let conflicts = [
        "rate",
        "think",
        "ramp-up",
        "count",
        "rounds",
        "hdr",
        "fail-below",
    ];
    let conflicts = conflicts.into_iter().find(|option| given(option));
    let conflicts = conflicts.map(|option| format!("--{option}"));
    let mode = matches!(mode, Mode::Stream | Mode::Hold).then(|| mode.name().to_owned());
    match conflicts.or(mode).or(two.then(|| "ADDR2".to_owned())) {
        Some(what) => Err(Error::usage(
            format!("{what} with a sweep"),
            "it steps the rate of rr or crr, of one server",
        )),
        None => Ok(()),
    }
}

/// Options that the mode, or the other options, cannot use.
fn refuse(typed: &Typed, mode: Mode, two: bool) -> Result<()> {
    let args = &typed.args;
    let given = |option| typed.given(option);
    let streams = matches!(mode, Mode::Stream | Mode::Hold);
    let sizes = args.size.as_ref();
    let many = sizes.is_some_and(|size| size.start() != size.end());
    let (hold, stream) = (mode == Mode::Hold, mode == Mode::Stream);
    let name = mode.name();
    for (wrong, option, with, why) in [
        (
            hold && args.count.is_some(),
            "-n",
            name,
            "hold echoes twice on each of -c connections",
        ),
        (
            hold && two,
            "hold",
            "ADDR2",
            "it has no rate to compare: give one ADDR",
        ),
        (
            hold && given("warmup"),
            "--warmup",
            name,
            "hold has nothing to warm up",
        ),
        (
            streams && args.rate.is_some(),
            "-R",
            name,
            "it is for rr and crr",
        ),
        (
            stream && args.lines,
            "--lines",
            name,
            "a stream is one message without an end",
        ),
        (
            stream && many,
            "a range of -s",
            name,
            "a stream has one size, of each write",
        ),
        (
            !stream && given("window"),
            "--window",
            name,
            "it is for stream",
        ),
        (
            args.rounds.is_some() && !two,
            "--rounds",
            "one ADDR",
            "it is for two servers",
        ),
        (
            streams && given("think"),
            "--think",
            name,
            "it is for rr and crr",
        ),
        (
            given("think") && args.rate.is_some(),
            "--think",
            "-R",
            "an open loop does not wait for answers",
        ),
        (
            hold && given("ramp-up"),
            "--ramp-up",
            name,
            "hold opens 64 at once on their way",
        ),
        (
            two && given("ramp-up"),
            "--ramp-up",
            "ADDR2",
            "rounds are too short for it",
        ),
        (
            args.fail_below.is_some() && !two,
            "--fail-below",
            "one ADDR",
            "it is for two servers",
        ),
        (
            args.fail_below.is_some() && args.rounds.is_some_and(|pairs| pairs < compare::FEWEST),
            "--fail-below",
            "--rounds below 6",
            "there is no interval of so few",
        ),
        (
            args.hdr.is_some() && two,
            "--hdr",
            "ADDR2",
            "it is for one server",
        ),
        (
            args.hdr.is_some() && stream,
            "--hdr",
            name,
            "a stream has no latencies",
        ),
        (
            stream && args.percentiles.is_some(),
            "--percentiles",
            name,
            "a stream has no latencies",
        ),
        (
            args.server_pid.is_some() && two,
            "--server-pid",
            "ADDR2",
            "it is for one server",
        ),
    ] {
        if wrong {
            return Err(Error::usage(format!("{option} with {with}"), why));
        }
    }
    Ok(())
}

/// Source addresses are for servers that are called over IP.
fn spread(typed: &Typed, targets: &[&Target]) -> Result<()> {
    let local = |target: &&&Target| matches!(target.addr(), Addr::Unix(_) | Addr::UnixGram(_));
    match targets.iter().find(local) {
        Some(target) if typed.given("sources") => Err(Error::usage(
            format!("--sources with {target}"),
            "a Unix socket is called from no address",
        )),
        _ => Ok(()),
    }
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
mod tests {
    use super::*;

    fn typed(line: &str) -> Result<Plan, String> {
        let words = std::iter::once("echoload").chain(line.split_whitespace());
        let typed =
            Typed::parse(words.map(Into::into)).map_err(|error| error.unwrap_err().to_string())?;
        let both = plan(&typed).map_err(|error| error.to_string())?;
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
        let plan = typed(
            "crr h:1 -c 3 -s 2K-3K -n 9 --timeout 200ms -t 2 -R 50 --warmup 1 --sources 3 --lines",
        )
        .unwrap();
        assert_eq!((plan.mode, plan.bound), (Mode::Crr, Bound::Count(9)));
        assert_eq!((plan.threads, plan.rate), (2, Some(50.0)));
        assert!(plan.lines && !typed("h:1").unwrap().lines);
        assert_eq!((plan.warmup, plan.sources), (Duration::from_secs(1), 3));
        assert_eq!(typed("stream h:1 --window 9K").unwrap().window, 9216);
        assert_eq!(plan.target.to_string(), "tcp:h:1");
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
    fn what_people_know_from_other_programs_is_meant() {
        for (line, target) in [
            ("h 7", "tcp:h:7"),
            ("crr ::1 7", "tcp:[::1]:7"),
            ("tcp://h:7", "tcp:h:7"),
            ("--json h:7", "tcp:h:7"),
            ("--json crr h:7", "tcp:h:7"),
            ("crr --json h:7", "tcp:h:7"),
            ("h:7 --json out.json", "tcp:h:7"),
        ] {
            let plan = typed(line).unwrap();
            assert_eq!(plan.target.to_string(), target, "{line}");
            assert_eq!(plan.mode == Mode::Crr, line.contains("crr"), "{line}");
        }
        let plan = typed("h:1 -z 10s -c 1k -R 5k --percentiles 50,99.9").unwrap();
        assert_eq!(plan.bound, Bound::Time(Duration::from_secs(10)));
        assert_eq!((plan.connections, plan.rate), (1000, Some(5000.0)));
        assert_eq!(plan.percentiles, [50.0, 99.9]);
        assert_eq!(typed("h:1 -n 10k").unwrap().bound, Bound::Count(10_000));
        assert!(typed("").unwrap_err().contains("echoload 127.0.0.1:7777"));
        for line in [
            "h:1 --percentiles x",
            "h:1 --percentiles 101",
            "h:1 -n 1.5k",
        ] {
            assert!(typed(line).is_err(), "{line}");
        }
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
            "h:1 --sweep 5",
            "h:1 --sweep 9:5",
            "h:1 --sweep 0:5",
            "h:1 h:2 --fail-below 0",
            "h:1 h:2 --fail-below 1.5",
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

    #[test]
    fn an_option_that_nothing_uses_is_refused_by_both_names() {
        for (line, option, with) in [
            ("h:1 --window 9K", "--window", "rr"),
            ("crr h:1 --window 9K", "--window", "crr"),
            ("hold h:1 --window 256K", "--window", "hold"),
            ("hold h:1 --warmup 0", "--warmup", "hold"),
            ("stream h:1 -R 5", "-R", "stream"),
            ("hold h:1 -R 5", "-R", "hold"),
            ("h:1 -R 5 --think 1", "--think", "-R"),
            ("stream h:1 --think 1", "--think", "stream"),
            ("hold h:1 --ramp-up 1", "--ramp-up", "hold"),
            ("h:1 h:2 --ramp-up 1", "--ramp-up", "ADDR2"),
            ("sweep h:1 --think 1", "--think", "sweep"),
            ("stream h:1 --percentiles 50", "--percentiles", "stream"),
            ("h:1 --p99 5ms", "--p99", "--sweep"),
            ("sweep h:1 -R 5", "--rate", "sweep"),
            ("sweep h:1 h:2", "ADDR2", "sweep"),
            ("stream h:1 --sweep 1:2", "stream", "sweep"),
            ("stream h:1 --hdr x", "--hdr", "stream"),
            ("h:1 --rounds 3", "--rounds", "ADDR"),
            ("h:1 --fail-below 0.9", "--fail-below", "ADDR"),
            (
                "h:1 h:2 --rounds 5 --fail-below 1",
                "--fail-below",
                "--rounds",
            ),
            ("unix:@e --sources 2", "--sources", "unix:@e"),
            ("h:1 unixgram:/e --sources 8", "--sources", "unixgram:/e"),
        ] {
            let error = typed(line).unwrap_err();
            assert!(error.contains(option) && error.contains(with), "{error}");
        }
    }

    /// Values at the edge of their type are usage errors that say what works.
    #[test]
    fn row_106_the_largest_that_works_is_named() {
        let most = u64::MAX;
        for (option, largest) in [
            ("-c", "1000000"),
            ("-s", "1G"),
            ("-d", "365d"),
            ("-t", "1024"),
            ("-R", "100000000"),
            ("--warmup", "365d"),
            ("--timeout", "365d"),
            ("--rounds", "100000"),
            ("--window", "1G"),
            ("--sources", "250"),
            ("--server-pid", "2147483647"),
            ("--interval", "365d"),
        ] {
            let other = if option == "--rounds" { "h:2" } else { "" };
            for value in [most.to_string(), format!("{most}0"), "1e300".to_owned()] {
                let error = typed(&format!("stream h:1 {other} {option} {value}")).unwrap_err();
                let plain = value.starts_with('1') && !error.contains(largest);
                assert!(
                    plain || error.contains(largest),
                    "{option} {value}: {error}"
                );
            }
        }
        let whole = typed(&format!("stream h:1 -c 1 -s 1G -n {most}")).unwrap();
        assert_eq!(whole.messages(0), Some(most));
    }
}
