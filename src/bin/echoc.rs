//! echoc: talk to an echo server, measure it, check it. See `echod::client`.

use std::process::ExitCode;

fn main() -> ExitCode {
    echod::cli::echoc::main()
}
