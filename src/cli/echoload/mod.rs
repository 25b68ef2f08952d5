//! echoload: what was typed (`args`), made into a [`Plan`] (`validate`), run
//! and reported.
//!
//! The only part of echoload that prints. Knows no socket.

use std::cell::Cell;
use std::ffi::OsString;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nix::errno::Errno;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::addr::Target;
use crate::cli::Unparsed;
use crate::cli::echoload::args::{Args, Typed};
use crate::cli::echoload::validate::Job;
use crate::error::{Error, Exit, Result};
use crate::load::fault::Outcomes;
use crate::load::progress::{self, Progress, Stage};
use crate::load::report::{Report, Versus};
use crate::load::run::Run;
use crate::load::server::Server;
use crate::load::sweep::Knee;
use crate::load::{self, Around, Plan, Rounds, Sweep, json};

mod args;
mod validate;

/// How often a terminal is told.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(1);

/// The program: parses, runs, prints, and says how it went.
pub fn main() -> ExitCode {
    let done = match typed(std::env::args_os()) {
        Ok((args, plan, job)) => run(&args, &plan, &job),
        Err(Ok(help)) => print(&help).map(|()| Exit::Ok),
        Err(Err(error)) => Err(error),
    };
    match done {
        Ok(status) => status.into(),
        Err(error) => {
            complain(&error);
            error.status().into()
        }
    }
}

/// All that can be typed, for clap and what reads it, such as completions.
pub fn command() -> clap::Command {
    super::command::<Args>()
}

/// Command line to plan; `Err(Ok(text))` is help to print.
///
/// # Errors
/// The text of --help or --version, or one usage error.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> std::result::Result<Plan, Unparsed> {
    typed(argv).map(|(_, plan, _)| plan)
}

fn typed(
    argv: impl IntoIterator<Item = OsString>,
) -> std::result::Result<(Args, Plan, Job), Unparsed> {
    let typed = Typed::parse(argv)?;
    let (plan, job) = validate::plan(&typed).map_err(Err)?;
    Ok((typed.args, plan, job))
}

fn run(args: &Args, plan: &Plan, job: &Job) -> Result<Exit> {
    let outcomes = args.outcomes.as_deref().map(Outcomes::create).transpose()?;
    let hdr = args.hdr.as_deref().map(create).transpose()?;
    let terminal = io::stderr().is_terminal();
    let instead = json_instead(args);
    let every = match args.interval {
        None if terminal && !instead => Some(DEFAULT_INTERVAL),
        given => given,
    };
    let tell = |plan: &Plan, stage, news| {
        let every = every.unwrap_or_default();
        match instead {
            true => {
                let line = progress::json_line(plan, stage, every, &news);
                let _ = writeln!(io::stderr(), "{line}");
            }
            false => watch(plan, stage, every, &news, terminal),
        }
    };
    let around = Around {
        outcomes: outcomes.as_ref(),
        watcher: every.map(|every| (every, &tell as _)),
        next: Cell::default(),
        rounds: Cell::default(),
        interrupt: Arc::default(),
        servers: servers(args, plan, job)?,
    };
    catch(&around.interrupt)?;
    let status = match job {
        Job::Run => one(args, plan, &around, hdr)?,
        Job::Compare(rounds) => two(args, plan, rounds, &around)?,
        Job::Sweep(sweep) => many(args, plan, sweep, &around)?,
    };
    let signal = i32::try_from(around.interrupt.load(Relaxed));
    outcomes.map_or(Ok(()), Outcomes::close)?;
    if let Ok(signal @ 1..) = signal {
        // A shell's loop goes on after a program that merely says 130.
        let _ = low_level::emulate_default_handler(signal);
    }
    Ok(status)
}

fn one(args: &Args, plan: &Plan, around: &Around, hdr: Option<File>) -> Result<Exit> {
    let run = load::run(plan, around)?;
    unwatch(around);
    let report = Report {
        plan,
        run: &run,
        block: Some(block()),
    };
    tell_of(args, &report, || json::run(plan, &run))?;
    if let Some(mut file) = hdr {
        file.write_all(json::hgrm(&run.tally.latency).as_bytes())
            .map_err(|error| Error::usage("write --hdr", error).exit(Exit::Io))?;
    }
    failures(&run);
    Ok(run.status(plan))
}

fn two(args: &Args, plan: &Plan, rounds: &Rounds, around: &Around) -> Result<Exit> {
    let done = load::compare(plan, rounds, around)?;
    unwatch(around);
    let report = Versus {
        plan,
        rounds,
        done: &done,
    };
    tell_of(args, &report, || {
        json::comparison(plan, &rounds.other, &done)
    })?;
    failures(&done.a);
    failures(&done.b);
    if let (Some(least), Some((figure, ratio))) = (done.fail_below, done.slower(plan)) {
        let (low, high) = ratio.interval.unwrap_or_default();
        complain(&Error::usage(
            format!("--fail-below {least}"),
            format!(
                "{} is slower: the ratio of {} lies within {low:.3} to {high:.3}",
                plan.target,
                figure.name()
            ),
        ));
    }
    Ok(done.status(plan))
}

fn many(args: &Args, plan: &Plan, sweep: &Sweep, around: &Around) -> Result<Exit> {
    let swept = &load::sweep(plan, sweep, around)?;
    unwatch(around);
    let report = Knee {
        plan,
        sweep,
        swept,
        block: block(),
    };
    tell_of(args, &report, || json::swept(plan, sweep, swept))?;
    let first = swept.steps.iter().map(|step| &step.run);
    let first = first.max_by_key(|run| run.tally.local.is_some() || run.tally.connected == 0);
    if let (Some(run), true) = (first, swept.status() != Exit::Ok) {
        failures(run);
    }
    Ok(swept.status())
}

/// The first INT or TERM sets `interrupt`: the report is then of what was done,
/// and the program ends by that signal. The second has its default effect.
fn catch(interrupt: &Arc<AtomicUsize>) -> Result<()> {
    let caught = Arc::default();
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, Arc::clone(&caught))
            .and_then(|_| {
                let number = signal.unsigned_abs() as usize;
                flag::register_usize(signal, Arc::clone(interrupt), number)
            })
            .and_then(|_| flag::register(signal, Arc::clone(&caught)))
            .map_err(|error| Error::usage("sigaction", error).exit(Exit::Os))?;
    }
    Ok(())
}

/// Whose processor time can be told.
fn servers(args: &Args, plan: &Plan, job: &Job) -> Result<Vec<(Target, Server)>> {
    let mut servers = Vec::new();
    if let Some(pid) = args.server_pid.and_then(|pid| i32::try_from(pid).ok()) {
        servers.push((plan.target.clone(), Server::of_pid(pid)?));
    }
    let other = match job {
        Job::Compare(rounds) => Some(&rounds.other),
        Job::Run | Job::Sweep(_) => None,
    };
    for target in std::iter::once(&plan.target).chain(other) {
        if let Some(server) = Server::of_target(target) {
            servers.push((target.clone(), server));
        }
    }
    Ok(servers)
}

/// How it goes: a line for each interval, and below them, on a terminal, a bar.
fn watch(plan: &Plan, stage: Stage, every: Duration, news: &Progress, terminal: bool) {
    let line = progress::interval(plan, stage, every, news);
    let text = match terminal {
        true => format!("{CLEAR}{line}\n{}", progress::bar(plan, stage)),
        false => format!("{line}\n"),
    };
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Removes the bar.
fn unwatch(around: &Around) {
    if around.watcher.is_some() && io::stderr().is_terminal() {
        let _ = io::stderr().write_all(CLEAR.as_bytes());
    }
}

/// To the start of the line, and nothing in it.
const CLEAR: &str = "\r\x1b[K";

/// What bars are made of: the locale says whether others are understood.
fn block() -> char {
    let set = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
    let locale = locale.unwrap_or_default().to_ascii_uppercase();
    match locale.contains("UTF-8") || locale.contains("UTF8") {
        true => '\u{2588}',
        false => '#',
    }
}

fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
        Error::os("create", path.display(), errno).exit(Exit::CantCreate)
    })
}

/// Is JSON what goes to standard output?
fn json_instead(args: &Args) -> bool {
    args.json.as_deref() == Some(Path::new("-"))
}

/// The report, or JSON instead, or JSON beside it.
fn tell_of(args: &Args, report: &impl Display, json: impl Fn() -> Value) -> Result<()> {
    if json_instead(args) {
        return print(&format!("{}\n", json()));
    }
    if let Some(path) = &args.json {
        let text = format!("{}\n", json());
        let written = create(path)?.write_all(text.as_bytes());
        written.map_err(|error| Error::usage("write --json", error).exit(Exit::Io))?;
    }
    let colours =
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    match colours {
        true => print(&coloured(&report.to_string())),
        false => print(&report.to_string()),
    }
}

/// What must be seen, in red; what was looked for, bold.
fn coloured(report: &str) -> String {
    let mut text = String::new();
    for line in report.lines() {
        let bad = line.starts_with("WARNING")
            || line.contains(": RATE NOT REACHED")
            || line.contains(": INTERRUPTED");
        let good = line.starts_with("holds ") || line.starts_with("ratio of ");
        text += &match (bad, good) {
            (true, _) => format!("\x1b[1;31m{line}\x1b[0m\n"),
            (false, true) => format!("\x1b[1m{line}\x1b[0m\n"),
            (false, false) => format!("{line}\n"),
        };
    }
    text
}

fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Ok(()),
        // Whoever reads has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Error::usage("write the report", error).exit(Exit::Io)),
    }
}

fn failures(run: &Run) {
    for error in run.tally.first.iter().chain(&run.tally.local) {
        complain(error);
    }
}

fn complain(error: &Error) {
    let _ = writeln!(io::stderr(), "echoload: {error}");
}
