//! Who is served: which options go together.

use super::echod::{Args, Typed};
use super::names::{AcceptName, ModelName};
use crate::access::{Policy, Rules};
use crate::addr::{Addr, ListenSpec};
use crate::error::{Error, Result};

/// What was asked for.
pub fn policy(args: &Args) -> Policy {
    Policy {
        rules: Rules::new(&args.allow, &args.deny),
        per_source: args.max_per_source,
        rate: args.connection_rate,
        exempt: args.exempt.clone(),
    }
}

/// How a pool comes by its connections: where one process must see all of them,
/// that is the default.
pub fn accept(typed: &Typed) -> AcceptName {
    match counting(&typed.args) {
        Some(_) if !typed.given("accept") => AcceptName::Pass,
        _ => typed.args.accept,
    }
}

/// The option, if one is given, for which one process must see all connections.
fn counting(args: &Args) -> Option<&'static str> {
    let per_source = args.max_per_source.map(|_| "--max-per-source");
    per_source.or(args.connection_rate.map(|_| "--connection-rate"))
}

/// Refuses what cannot be meant, or would not do what it says.
///
/// # Errors
/// A usage error that names what does not go together.
pub fn check(typed: &Typed) -> Result<()> {
    let args = &typed.args;
    check_listeners(args)?;
    let counting = counting(args);
    if let Some(net) = args.exempt.first()
        && counting.is_none()
    {
        return Err(Error::usage(
            format!("--exempt {net}"),
            "there is no --max-per-source and no --connection-rate to be exempt from",
        ));
    }
    if args.max_per_source.is_some() && args.model == ModelName::Iterative {
        return Err(Error::usage(
            "--max-per-source with --model iterative",
            "it serves one at a time",
        ));
    }
    match (counting, accept(typed)) {
        (None, _) | (_, AcceptName::Pass) => Ok(()),
        // These have one way to accept, by one process.
        _ if !matches!(args.model, ModelName::Prefork | ModelName::Prethread) => Ok(()),
        (Some(option), how) => Err(Error::usage(
            format!("--accept {} with {option}", word(how)),
            "one process must see all connections before they are served: \
             leave --accept out, or say pass",
        )),
    }
}

/// Each option has somebody to be about.
fn check_listeners(args: &Args) -> Result<()> {
    if args.inetd {
        return Ok(()); // whose socket it is, is for whoever made it to know
    }
    let has = |kind: fn(&Addr) -> bool| args.listen.iter().any(|spec| kind(&spec.addr));
    let lacks = |option: String, listener: &str, why: &str| {
        Err(Error::usage(
            format!("{option} without --listen {listener}"),
            why.to_owned(),
        ))
    };
    let tcp = has(|addr| matches!(addr, Addr::Tcp { .. }));
    let unix = has(|addr| matches!(addr, Addr::Unix(_)));
    let addressed = has(|addr| matches!(addr, Addr::Tcp { .. } | Addr::Udp { .. }));
    if args.max_per_source.is_some() && !tcp {
        let why = "clients of other sockets have no source to count";
        return lacks("--max-per-source".to_owned(), "tcp:ADDR", why);
    }
    if args.connection_rate.is_some() && !tcp && !unix {
        let why = "there are no connections";
        return lacks("--connection-rate".to_owned(), "tcp:ADDR or unix:PATH", why);
    }
    let allowed = args.allow.iter().map(|who| ("--allow", *who));
    for (option, who) in allowed.chain(args.deny.iter().map(|who| ("--deny", *who))) {
        let option = format!("{option} {who}");
        if who.is_net() && !addressed {
            let why = "clients of a Unix socket have no address: uid:N or gid:N";
            return lacks(option, "tcp:ADDR or udp:ADDR", why);
        }
        if !who.is_net() {
            check_identities(args, &option, unix)?;
        }
    }
    Ok(())
}

fn check_identities(args: &Args, option: &str, unix: bool) -> Result<()> {
    let untold = |spec: &&ListenSpec| matches!(spec.addr, Addr::UnixGram(_));
    if let Some(spec) = args.listen.iter().find(untold) {
        return Err(Error::usage(
            format!("{option} with --listen {spec}"),
            "a datagram does not tell whose it is: give the socket a mode and a group",
        ));
    }
    match unix {
        true => Ok(()),
        false => Err(Error::usage(
            format!("{option} without --listen unix:PATH"),
            "only clients of a Unix socket have an identity",
        )),
    }
}

fn word(how: AcceptName) -> &'static str {
    match how {
        AcceptName::Shared => "shared",
        AcceptName::Fcntl => "fcntl",
        AcceptName::Mutex => "mutex",
        AcceptName::Pass => "pass",
        AcceptName::Reuseport => "reuseport",
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::echod::parse;
    use crate::config::{Accept, Config, Model, ThreadAccept};

    fn parsed(line: &str) -> Result<Config, String> {
        let words = std::iter::once("echod").chain(line.split_whitespace());
        parse(words.map(Into::into)).map_err(|e| match e {
            Ok(help) => help,
            Err(error) => format!("{}: {error}", error.status() as u8),
        })
    }

    #[test]
    fn options_that_exclude_each_other_are_both_named() {
        for (line, begins) in [
            (
                "--max-per-source 5 --accept shared",
                "64: --accept shared with --max-per-source: one process must see all",
            ),
            (
                "--connection-rate 5/1s --accept reuseport",
                "64: --accept reuseport with --connection-rate: one process",
            ),
            (
                "-m prethread --connection-rate 5/1s --accept mutex",
                "64: --accept mutex with --connection-rate: one process",
            ),
            (
                "-m iterative --max-per-source 5",
                "64: --max-per-source with --model iterative: ",
            ),
            (
                "--max-per-source 5 -l unix:/s",
                "64: --max-per-source without --listen tcp:ADDR: ",
            ),
            (
                "--connection-rate 5/1s -l udp:127.0.0.1:0",
                "64: --connection-rate without --listen tcp:ADDR or unix:PATH: ",
            ),
            (
                "--exempt ::1",
                "64: --exempt ::1/128: there is no --max-per",
            ),
            (
                "--exempt ::1 --max-per-source off",
                "64: --exempt ::1/128: there is no --max-per",
            ),
            (
                "--deny 10.0.0.0/8 -l unix:/s",
                "64: --deny 10.0.0.0/8 without --listen tcp:ADDR or udp:ADDR: ",
            ),
            (
                "--allow uid:5",
                "64: --allow uid:5 without --listen unix:PATH: ",
            ),
            (
                "--allow gid:5 -l unix:/s -l unixgram:/t",
                "64: --allow gid:5 with --listen unixgram:/t: ",
            ),
            (
                "--deny 10.0.0.1/8",
                "64: invalid value '10.0.0.1/8' for '--deny",
            ),
            (
                "--inetd --max-per-source 5",
                "64: --inetd with --max-per-source: ",
            ),
            (
                "--inetd --connection-rate 5/1s",
                "64: --inetd with --connection-rate: ",
            ),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.starts_with(begins), "{line}: {error}");
            assert!(!error.contains('\n'), "{line}: {error}");
        }
    }

    #[test]
    fn one_process_accepts_where_it_must_see_all() {
        for (line, prefork, prethread) in [
            ("--max-per-source 5", Accept::Pass, ThreadAccept::Pass),
            ("--connection-rate 5/1s", Accept::Pass, ThreadAccept::Pass),
            (
                "--max-per-source 5 --accept pass",
                Accept::Pass,
                ThreadAccept::Pass,
            ),
            ("--deny ::1", Accept::Shared, ThreadAccept::Shared),
            (
                "--max-per-source off --accept mutex",
                Accept::Mutex,
                ThreadAccept::Mutex,
            ),
        ] {
            assert_eq!(parsed(line).unwrap().model.accept(), prefork, "{line}");
            let model = parsed(&format!("-m prethread {line}")).unwrap().model;
            let threads = matches!(model, Model::Prethread { accept, .. } if accept == prethread);
            assert!(threads, "{line}: {model:?}");
        }
        for model in ["fork", "thread"] {
            let line = format!("-m {model} --max-per-source 5 --connection-rate 5/1s");
            assert!(parsed(&line).unwrap().access.counts(), "{line}");
        }
        assert!(parsed("-m iterative --connection-rate 5/1s").is_ok());
        assert!(parsed("--inetd --deny ::1 --allow uid:5").is_ok());
    }
}
