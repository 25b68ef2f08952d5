//! Wrappers that no tool provides: this test binary, started again to become
//! the program that is to be run.
//!
//! `under(wrapper("PART::role_NAME"))` runs what follows below the test of that name,
//! which does its part and then executes [`rest`]; in an ordinary run nothing
//! follows, and it has nothing to do.

use std::process::Command;

/// Words for `Builder::under`: run the rest below this test of ours.
pub fn wrapper(role: &str) -> Vec<String> {
    let exe = std::env::current_exe().expect("our own path");
    let words = ["--exact", role, "--nocapture", "--test-threads=1", "--"];
    let mut all = vec![exe.display().to_string()];
    all.extend(words.map(str::to_owned));
    all
}

/// What follows `--`: the program this process is to become.
pub fn rest() -> Option<Command> {
    let mut words = std::env::args().skip_while(|word| word != "--").skip(1);
    let mut command = Command::new(words.next()?);
    command.args(words);
    Some(command)
}
