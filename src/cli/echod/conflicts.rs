//! Which options do not go together, and which the rest of the command line leaves
//! without use.

use std::collections::BTreeSet;

use clap::ValueEnum;

use crate::addr::{Addr, ListenSpec};
use crate::cli::echod::args::{Args, Opt, Typed, opt};
use crate::config::{Accept, LogTarget, MOST, Model, ModelName, ServiceKind};
use crate::error::{Error, Result};

/// Options that only `prefork` can use, and all but the last of them `prethread`.
const ONLY_PREFORK: [Opt; 5] = [
    opt!(accept),
    opt!(start_servers),
    opt!(min_spare_servers),
    opt!(max_spare_servers),
    opt!(max_connections_per_child),
];

/// Options that only datagrams over UDP can use.
const ONLY_UDP: [Opt; 3] = [opt!(udp_rate), opt!(udp_global_rate), opt!(udp_refuse_port)];

/// Options about a listener, a pool or a daemon, of which `--inetd` has none.
const NOT_INETD: [Opt; 17] = [
    opt!(listen),
    opt!(model),
    opt!(reap),
    opt!(max_clients),
    opt!(backlog),
    opt!(overflow),
    opt!(max_per_source),
    opt!(connection_rate),
    opt!(exempt),
    opt!(daemon),
    opt!(pidfile),
    opt!(ready_fd),
    opt!(print),
    opt!(log_target),
    opt!(log_format),
    opt!(verbose),
    opt!(quiet),
];

/// Refuses what cannot be meant, or would not do what it says.
///
/// # Errors
/// A usage error that names what does not go together.
pub(super) fn check(typed: &Typed) -> Result<()> {
    check_model(typed)?;
    check_standard_output(typed)?;
    if typed.args.inetd {
        let mut conflicts = NOT_INETD.into_iter().chain(ONLY_PREFORK);
        if let Some(option) = conflicts.find(|option| typed.given(*option)) {
            return Err(Error::usage(
                format!("--inetd with {option}"),
                "there is one connection, already accepted",
            ));
        }
    }
    check_access(typed)
}

/// An option that the design cannot use, or datagrams that there are none of.
fn check_model(typed: &Typed) -> Result<()> {
    let args = &typed.args;
    let refuse = |option: Opt| {
        Err(Error::usage(
            option.to_string(),
            format!("not used by --model {}", word(args.model)),
        ))
    };
    if typed.given(opt!(reap)) && args.model != ModelName::Fork {
        return refuse(opt!(reap));
    }
    let conflicts = match args.model {
        ModelName::Prefork => &[],
        ModelName::Prethread => &ONLY_PREFORK[4..],
        _ => &ONLY_PREFORK[..],
    };
    if let Some(option) = conflicts.iter().find(|option| typed.given(**option)) {
        return refuse(*option);
    }
    if args.model == ModelName::Iterative && typed.given(opt!(max_clients)) {
        return Err(Error::usage(
            "--max-clients",
            "--model iterative serves one at a time",
        ));
    }
    let is_udp = |spec: &ListenSpec| matches!(spec.addr, Addr::Udp { .. });
    if !args.listen.iter().any(is_udp)
        && let Some(option) = ONLY_UDP.into_iter().find(|option| typed.given(*option))
    {
        return Err(Error::usage(
            format!("{option} without --listen udp:ADDR"),
            "there are no datagrams to limit",
        ));
    }
    Ok(())
}

/// Standard output and error, as far as there are any, are for one thing each.
fn check_standard_output(typed: &Typed) -> Result<()> {
    let args = &typed.args;
    let together = |both: &str, why: &str| Err(Error::usage(both, why));
    let (output, error) = (LogTarget::Stdout, LogTarget::Stderr);
    if args.daemon && typed.given(opt!(log_target)) && args.log_target == error {
        return together(
            "--daemon with --log-target stderr",
            "a daemon has no standard error: syslog or a path",
        );
    }
    if args.daemon && args.log_target == output {
        return together(
            "--daemon with --log-target stdout",
            "a daemon has no standard output: syslog or a path",
        );
    }
    if args.daemon && args.print {
        return together("--daemon with --print", "a daemon has no standard output");
    }
    let both = "standard output cannot be both";
    if args.print && args.log_target == output {
        return together("--print with --log-target stdout", both);
    }
    if args.print && args.ready_fd == Some(1) {
        return together("--print with --ready-fd 1", both);
    }
    if args.log_target == output && args.ready_fd == Some(1) {
        return together("--ready-fd 1 with --log-target stdout", both);
    }
    if args.log_target == error && !args.daemon && args.ready_fd == Some(2) {
        return together(
            "--ready-fd 2 with --log-target stderr",
            "standard error cannot be both",
        );
    }
    Ok(())
}

/// How a pool comes by its connections: where one process must see all of them,
/// that is the default.
pub(super) fn accept(typed: &Typed) -> Accept {
    match counting(&typed.args) {
        Some(_) if !typed.given(opt!(accept)) => Accept::Pass,
        _ => typed.args.accept,
    }
}

/// The option, if one is given, for which one process must see all connections.
fn counting(args: &Args) -> Option<&'static str> {
    let per_source = args.max_per_source.map(|_| "--max-per-source");
    per_source.or(args.connection_rate.map(|_| "--connection-rate"))
}

/// Who is served, and how many of them.
fn check_access(typed: &Typed) -> Result<()> {
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
        (None, _) | (_, Accept::Pass) => Ok(()),
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

/// The command service: refuses what cannot be served, and commands nobody could
/// ask for.
///
/// # Errors
/// A usage error that names what does not go together.
pub(super) fn check_commands(typed: &Typed, model: Model) -> Result<()> {
    let args = &typed.args;
    let runs = |spec: &&ListenSpec| match spec.attrs.service.as_deref() {
        Some(service) => service == "command",
        None => args.service == ServiceKind::Command,
    };
    let at = match args.inetd {
        true => (args.service == ServiceKind::Command).then(|| "--service command".to_owned()),
        false => args.listen.iter().find(runs).map(where_typed),
    };
    let Some(at) = at else {
        return match args.allow_command.first() {
            None => Ok(()),
            Some(command) => Err(Error::usage(
                format!("--allow-command {}", command.name),
                "nothing serves commands: add --service command, or service=command to a listener",
            )),
        };
    };
    check_list(args, &at)?;
    // What follows is about connections: each datagram socket has one worker,
    // whatever the model.
    let mut streams = args.listen.iter().filter(|spec| !spec.addr.is_datagram());
    let at = match args.inetd {
        true => Some(at),
        false => streams.find(runs).map(where_typed),
    };
    let Some(at) = at else {
        return Ok(());
    };
    match model {
        Model::Fork(_)
        | Model::Prefork {
            per_child: Some(1), ..
        } => Ok(()),
        Model::Prefork { .. } => Err(Error::usage(
            format!("{at} with --max-connections-per-child"),
            "a process that runs a command serves one connection: leave it at 1",
        )),
        _ => Err(Error::usage(
            format!("{at} with --model {}", word(args.model)),
            "a process that runs a command serves one connection: prefork or fork",
        )),
    }
}

fn check_list(args: &Args, at: &str) -> Result<()> {
    if args.allow_command.is_empty() {
        return Err(Error::usage(
            at,
            "no command is allowed: add --allow-command NAME=/PATH[,ARG...]",
        ));
    }
    let mut names = BTreeSet::new();
    for command in &args.allow_command {
        if !names.insert(&command.name) {
            return Err(Error::usage(
                format!("--allow-command {}", command.name),
                "is given twice",
            ));
        }
    }
    if names.len() > MOST {
        return Err(Error::usage("--allow-command", format!("at most {MOST}")));
    }
    Ok(())
}

/// What makes this listener run commands.
fn where_typed(spec: &ListenSpec) -> String {
    match spec.attrs.service {
        Some(_) => format!("--listen {spec}"),
        None => format!("--service command at --listen {spec}"),
    }
}

/// As it is typed.
pub(super) fn word(value: impl ValueEnum) -> String {
    let word = value.to_possible_value();
    word.map_or_else(String::new, |word| word.get_name().to_owned())
}
