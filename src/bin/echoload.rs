//! echoload: load for an echo server, every byte verified. See `echod::load`.

use std::process::ExitCode;

fn main() -> ExitCode {
    echod::cli::echoload::main()
}
