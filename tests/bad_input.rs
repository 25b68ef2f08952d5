//! Input that nobody thought of, into every parser: nothing panics, a refusal
//! is one line, and what is accepted can be written and read again.
//!
//! A few hundred cases each; `PROPTEST_CASES=10000` makes it the 10,000 of
//! `scripts/soak.sh S15`. A case that failed is printed in its smallest form;
//! it belongs into a test of its own then.

mod common;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use echod::addr::{Addr, ListenSpec};
use echod::cli::echod::parse;
use echod::error::Error;
use echod::values;
use proptest::prelude::*;

use common::Builder;

/// Words that parsers know, so that more than the first character is reached.
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

/// One line, with something in it.
fn is_one_line(error: &Error) -> Result<(), TestCaseError> {
    let said = error.to_string();
    prop_assert!(!said.trim().is_empty());
    prop_assert!(!said.contains('\n'), "two lines: {said:?}");
    Ok(())
}

proptest! {
    #![proptest_config(unsaved())]

    #[test]
    fn an_address_is_one_or_one_line_says_why_not(text in text()) {
        match text.parse::<Addr>() {
            Ok(addr) => {
                let again: Addr = addr.to_string().parse().expect("its own form is read again");
                prop_assert_eq!(again, addr);
            }
            Err(error) => is_one_line(&error)?,
        }
    }

    #[test]
    fn a_listener_with_attributes_too(text in text()) {
        if let Err(error) = text.parse::<ListenSpec>() {
            is_one_line(&error)?;
        }
    }

    #[test]
    fn durations_rates_and_ports(text in text()) {
        if let Err(error) = values::duration(&text) {
            is_one_line(&error)?;
        }
        if let Err(error) = values::limit(&text) {
            is_one_line(&error)?;
        }
        match values::rate(&text) {
            Ok(Some(rate)) => prop_assert!(rate.count > 0 && rate.per > Duration::ZERO),
            Ok(None) => prop_assert_eq!(text.as_str(), "off"),
            Err(error) => is_one_line(&error)?,
        }
        if let Err(error) = values::ports(&text) {
            is_one_line(&error)?;
        }
    }

    #[test]
    fn a_command_line(options in prop::collection::vec((option(), text()), 0..4)) {
        let words = options.iter().flat_map(|(option, value)| [option.clone(), value.clone()]);
        let argv = ["echod".to_owned()].into_iter().chain(words);
        if let Err(Err(error)) = parse(argv.map(OsString::from)) {
            is_one_line(&error)?;
        }
    }

    #[test]
    fn a_command_line_that_is_not_text(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
        let argv = ["echod".into(), "--listen".into(), OsString::from_vec(bytes)];
        if let Err(Err(error)) = parse(argv) {
            is_one_line(&error)?;
        }
    }
}

/// An option of echod's, taken from its help so that no new one is missed.
fn option() -> impl Strategy<Value = String> {
    let Err(Ok(help)) = parse(["echod".into(), "--help".into()]) else {
        panic!("no help");
    };
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
    prop::sample::select(names)
}

proptest! {
    // A process each, and a shell before it: fewer.
    #![proptest_config(ProptestConfig { cases: unsaved().cases / 50, ..unsaved() })]

    /// The whole program: a status of the page, one line, nothing created.
    #[test]
    fn a_whole_program(option in option(), value in "[!-~]{1,20}") {
        let builder = Builder::new();
        let dir = builder.dir();
        let done = builder.bare().args(["--check", &option, &value]).run(common::DEADLINE);
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
