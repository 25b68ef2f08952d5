//! Options that the rest of the command line leaves without use.

use super::echod::Typed;
use super::names::ModelName;
use crate::addr::{Addr, ListenSpec};
use crate::error::{Error, Result};

/// Options that only `prefork` can use, and all but the last of them `prethread`.
const ONLY_PREFORK: [&str; 5] = [
    "accept",
    "start-servers",
    "min-spare-servers",
    "max-spare-servers",
    "max-connections-per-child",
];

/// Options that only datagrams over UDP can use.
const ONLY_UDP: [&str; 3] = ["udp-rate", "udp-global-rate", "udp-refuse-port"];

/// Refuses the first of them.
///
/// # Errors
/// A usage error that names the option, and why nothing uses it.
pub(super) fn check(typed: &Typed) -> Result<()> {
    let args = &typed.args;
    let model = match args.model {
        ModelName::Prefork => "prefork",
        ModelName::Fork => "fork",
        ModelName::Iterative => "iterative",
        ModelName::Thread => "thread",
        ModelName::Prethread => "prethread",
    };
    let refuse = |option: &str| {
        Err(Error::usage(
            format!("--{option}"),
            format!("not used by --model {model}"),
        ))
    };
    if typed.given("reap") && args.model != ModelName::Fork {
        return refuse("reap");
    }
    let unusable = match args.model {
        ModelName::Prefork => &[],
        ModelName::Prethread => &ONLY_PREFORK[4..],
        _ => &ONLY_PREFORK[..],
    };
    if let Some(option) = unusable.iter().find(|option| typed.given(option)) {
        return refuse(option);
    }
    if args.model == ModelName::Iterative && typed.given("max-clients") {
        return Err(Error::usage(
            "--max-clients",
            "--model iterative serves one at a time",
        ));
    }
    let is_udp = |spec: &ListenSpec| matches!(spec.addr, Addr::Udp { .. });
    if !args.listen.iter().any(is_udp)
        && let Some(option) = ONLY_UDP.into_iter().find(|option| typed.given(option))
    {
        return Err(Error::usage(
            format!("--{option} without --listen udp:ADDR"),
            "there are no datagrams to limit",
        ));
    }
    let together = |a: &str, b: &str, why: &str| {
        Err(Error::usage(format!("--{a} with --{b}"), why.to_owned()))
    };
    if args.daemon && typed.given("log-target") && args.log_target == "stderr" {
        return together(
            "daemon",
            "log-target stderr",
            "a daemon has no standard error: syslog or a path",
        );
    }
    if args.daemon && args.print {
        return together("daemon", "print", "a daemon has no standard output");
    }
    if args.print && (args.ready_fd == Some(1)) {
        return together("print", "ready-fd 1", "standard output cannot be both");
    }
    if args.inetd {
        let unusable = [
            "listen",
            "model",
            "reap",
            "max-clients",
            "backlog",
            "overflow",
            "max-per-source",
            "connection-rate",
            "exempt",
            "daemon",
            "pidfile",
            "ready-fd",
            "print",
            "log-target",
            "log-format",
            "verbose",
            "quiet",
        ];
        let unusable = unusable.into_iter().chain(ONLY_PREFORK);
        if let Some(option) = unusable.into_iter().find(|option| typed.given(option)) {
            return together("inetd", option, "there is one connection, already accepted");
        }
    }
    Ok(())
}
