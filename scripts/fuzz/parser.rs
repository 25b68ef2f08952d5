//! What libFuzzer makes up, into the parser that the variable PARSER names.
#![no_main]

#[path = "../../tests/it/bad_input/parsers.rs"]
mod parsers;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use parsers::{PARSERS, Parser};

static PARSER: LazyLock<Parser> = LazyLock::new(|| {
    let name = std::env::var("PARSER").expect("PARSER is set");
    let found = PARSERS.iter().find(|parser| parser.0 == name);
    found
        .expect("PARSER is one of tests/it/bad_input/parsers.rs")
        .1
});

fuzz_target!(|data: &[u8]| PARSER(data));
