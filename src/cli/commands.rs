//! The command service: which options go together.

use std::collections::BTreeSet;

use super::echod::Typed;
use super::names::{ModelName, ServiceName};
use crate::addr::ListenSpec;
use crate::allowed::MOST;
use crate::config::Model;
use crate::error::{Error, Result};

/// Refuses what cannot be served, and commands nobody could ask for.
///
/// # Errors
/// A usage error that names what does not go together.
pub fn check(typed: &Typed, model: Model) -> Result<()> {
    let args = &typed.args;
    let runs = |spec: &&ListenSpec| match spec.attrs.service.as_deref() {
        Some(service) => service == "command",
        None => args.service == ServiceName::Command,
    };
    let at = match args.inetd {
        true => (args.service == ServiceName::Command).then(|| "--service command".to_owned()),
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

fn check_list(args: &super::echod::Args, at: &str) -> Result<()> {
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

fn word(model: ModelName) -> String {
    use clap::ValueEnum;
    let word = model.to_possible_value();
    word.map_or_else(String::new, |word| word.get_name().to_owned())
}

#[cfg(test)]
mod tests {
    use crate::cli::echod::parse;
    use crate::config::ServiceKind;

    fn parsed(line: &str) -> Result<crate::config::Config, String> {
        let argv = std::iter::once("echod")
            .chain(line.split_whitespace())
            .map(Into::into);
        parse(argv).map_err(|e| match e {
            Ok(help) => help,
            Err(error) => format!("{}: {error}", error.status() as u8),
        })
    }

    #[test]
    fn what_cannot_be_meant_names_what_was_typed() {
        for (line, expected) in [
            (
                "-l h:1,service=command",
                "64: --listen tcp:h:1,service=command: no command is allowed: \
                 add --allow-command NAME=/PATH[,ARG...]",
            ),
            (
                "--allow-command d=/bin/date",
                "64: --allow-command d: nothing serves commands: \
                 add --service command, or service=command to a listener",
            ),
            (
                "--service command --allow-command d=/x --allow-command d=/y",
                "64: --allow-command d: is given twice",
            ),
            (
                "-l h:1,service=command --allow-command d=/x -m iterative",
                "64: --listen tcp:h:1,service=command with --model iterative: \
                 a process that runs a command serves one connection: prefork or fork",
            ),
            (
                "-l h:1,service=command --allow-command d=/x --max-connections-per-child 0",
                "64: --listen tcp:h:1,service=command with --max-connections-per-child: \
                 a process that runs a command serves one connection: leave it at 1",
            ),
        ] {
            assert_eq!(parsed(line).unwrap_err(), expected, "{line}");
        }
        for line in [
            "--service chargen",
            "--service command --allow-command date",
            "--service command --allow-command d=date",
            "--inetd --service command",
            "-l udp:h:1,service=command",
        ] {
            let error = parsed(line).unwrap_err();
            assert!(
                error.starts_with("64: ") && !error.contains('\n'),
                "{line}: {error}"
            );
        }
    }

    #[test]
    fn datagrams_that_name_commands_go_with_every_model() {
        for more in ["", " -m iterative", " -m thread", " -l h:2 -m prethread"] {
            let line = format!("-l udp:h:1,service=command --allow-command d=/x{more}");
            assert!(parsed(&line).unwrap().runs_commands(), "{line}");
        }
        let line = "-l udp:h:1 -l h:1 --service command --allow-command d=/x -m thread";
        let error = parsed(line).unwrap_err();
        assert!(
            error.contains("at --listen tcp:h:1 with --model thread"),
            "{error}"
        );
    }

    #[test]
    fn each_listener_serves_what_it_says_or_the_default() {
        let config = parsed("-l h:1 -l h:2,service=command --allow-command d=/x,a").unwrap();
        assert!(config.runs_commands());
        let served: Vec<_> = config
            .listen
            .iter()
            .map(|spec| config.served(spec.attrs.service.as_deref()))
            .collect();
        assert_eq!(served, [ServiceKind::Echo, ServiceKind::Command]);
        let config =
            parsed("--service command -l h:1,service=echo -l h:2 --allow-command d=/x -m fork");
        assert!(config.unwrap().runs_commands());
        assert!(!parsed("").unwrap().runs_commands());
        assert!(
            !parsed("--service command -l h:1,service=echo")
                .unwrap()
                .runs_commands()
        );
        assert!(
            parsed("--inetd --service command --allow-command d=/x")
                .unwrap()
                .runs_commands()
        );
    }
}
