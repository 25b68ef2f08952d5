//! The daemon; see `man/echod.8`.

use std::process::ExitCode;

fn main() -> ExitCode {
    echod::daemon::main(std::env::args_os()).into()
}
