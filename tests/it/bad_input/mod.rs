//! Input that nobody thought of, into every parser (`bad_input/parsers.rs`):
//! nothing panics, a refusal is one line, and what is accepted can be written and
//! read again.
//!
//! A few hundred cases each; `PROPTEST_CASES=10000` makes it the 10,000 of
//! `scripts/soak.sh S15`, and `scripts/fuzz.sh` looks for more by what the code
//! does with them. A case that failed is printed in its smallest form; it belongs
//! into a test of its own then.

pub mod parsers;

use ::echod::cli::{echoc, echod, echoload};
use ::echod::error::Error;
use proptest::prelude::*;

use crate::common::Builder;
use parsers::{PARSERS, Parser};

/// Words that parsers know, so that more than the first character is reached.
/// scripts/fuzz.sh makes a dictionary of them.
const WORDS: &[&str] = &[
    "tcp:",
    "udp:",
    "unix:",
    "unixgram:",
    "@",
    "*",
    "[::1]",
    "[",
    "]",
    "127.0.0.1",
    "::",
    ":",
    ":0",
    ":7777",
    ":65536",
    ",",
    "\\,",
    "service=",
    "command",
    "mode=",
    "0660",
    "user=",
    "group=root",
    "backlog=",
    "freebind",
    "/",
    "/tmp/x",
    "..",
    "off",
    "0",
    "1",
    "-1",
    "1e9",
    "99999999999999999999999999999999999999",
    "s",
    "ms",
    "5m",
    "h",
    " ",
    "\t",
    "\n",
    "\0",
    "é",
    "50/1s",
    "-",
    "0-1023",
    "=",
    "/32",
    "64/32:64",
    "10.0.0.0/8",
    "::ffff:1.2.3.4",
    "uid:",
    "gid:0",
    "64K",
    "forever",
    "crr",
    "hold",
    "date",
];

/// Anything, or known words in an order nobody meant.
fn text() -> impl Strategy<Value = String> {
    let words = prop::collection::vec(prop::sample::select(WORDS), 0..6);
    prop_oneof![
        any::<String>(),
        words.prop_map(|words| words.concat()),
        "[ -~]{0,40}"
    ]
}

/// Keeps no file of failed cases.
fn unsaved() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(unsaved())]

    #[test]
    fn what_nobody_meant_is_refused_in_one_line(text in text()) {
        for (_, parser) in PARSERS {
            parser(text.as_bytes());
        }
    }

    #[test]
    fn bytes_that_are_no_text_too(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        for (_, parser) in PARSERS {
            parser(&bytes);
        }
    }

    #[test]
    fn a_command_line((parser, typed) in command_line()) {
        let words: Vec<&str> = typed.iter().flat_map(|(o, v)| [o.as_str(), v]).collect();
        parser(words.join("\0").as_bytes());
    }
}

/// The parser of one of the programs, and some options of its own.
fn command_line() -> impl Strategy<Value = (Parser, Vec<(String, String)>)> {
    let helps = [
        ("echod_options", echod_help()),
        (
            "echoc_options",
            help(echoc::parse(&["echoc".into(), "--help".into()], false)),
        ),
        (
            "echoload_options",
            help(echoload::parse(["echoload".into(), "--help".into()])),
        ),
    ];
    let programs = helps.map(|(name, help)| {
        let found = PARSERS.iter().find(|parser| parser.0 == name);
        (found.expect("a parser of that name").1, options(&help))
    });
    prop::sample::select(programs.to_vec()).prop_flat_map(|(parser, options)| {
        let typed = prop::collection::vec((prop::sample::select(options), text()), 0..4);
        (Just(parser), typed)
    })
}

fn echod_help() -> String {
    match echod::parse(["echod".into(), "--help".into()]) {
        Err(echod::Refused::Text(help)) => help,
        _ => panic!("no help"),
    }
}

fn help<T>(parsed: Result<T, Result<String, Error>>) -> String {
    match parsed {
        Err(Ok(help)) => help,
        _ => panic!("no help"),
    }
}

/// Every option that a help names, so that no new one is missed.
fn options(help: &str) -> Vec<String> {
    let words = help
        .split_whitespace()
        .filter(|word| word.starts_with("--"));
    let trim = |word: &str| {
        word.trim_end_matches(|c: char| !c.is_ascii_lowercase())
            .to_owned()
    };
    let mut names: Vec<String> = words.map(trim).collect();
    names.sort();
    names.dedup();
    names
}

proptest! {
    // A process each, and a shell before it: fewer.
    #![proptest_config(ProptestConfig { cases: unsaved().cases / 50, ..unsaved() })]

    /// The whole program: a status of the page, one line, nothing created.
    #[test]
    fn a_whole_program(option in prop::sample::select(options(&echod_help())), value in "[!-~]{1,20}") {
        let builder = Builder::new();
        let dir = builder.dir();
        let done = builder.bare().args(["--check", &option, &value]).run(crate::common::DEADLINE);
        let code = done.status.code();
        prop_assert!(
            matches!(code, Some(0 | 64 | 69 | 71 | 73 | 77 | 78)),
            "{option} {value}: {code:?} {}", done.stderr,
        );
        prop_assert!(code == Some(0) || done.stderr.contains("echod: "), "{}", done.stderr);
        prop_assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
        drop(dir);
    }
}
