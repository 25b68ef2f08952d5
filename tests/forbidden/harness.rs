//! As much of libtest as this binary needs: it cannot have libtest itself, whose
//! threads are there before `main`, and the supervisor forks.
//!
//! Takes the arguments that cargo and CI give (a part of a name, `--exact`,
//! `--skip`, `--list`) and says what libtest says.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

pub struct Test {
    pub name: String,
    pub run: Box<dyn Fn()>,
}

/// Runs what the arguments choose.
pub fn run(args: impl Iterator<Item = String>, tests: Vec<Test>) -> ExitCode {
    let mut args = args.peekable();
    let (mut filters, mut skips, mut exact) = (Vec::new(), Vec::new(), false);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--exact" => exact = true,
            "--list" => {
                tests
                    .iter()
                    .for_each(|test| println!("{}: test", test.name));
                return ExitCode::SUCCESS;
            }
            "--skip" => skips.extend(args.next()),
            "--test-threads" | "--format" | "--color" | "--logfile" | "-Z" => drop(args.next()),
            option if option.starts_with('-') => {}
            _ => filters.push(arg),
        }
    }
    let says = |name: &str, part: &String| match exact {
        true => name == part,
        false => name.contains(part.as_str()),
    };
    let chosen = |test: &&Test| {
        (filters.is_empty() || filters.iter().any(|part| says(&test.name, part)))
            && !skips.iter().any(|part| says(&test.name, part))
    };
    let chosen: Vec<&Test> = tests.iter().filter(chosen).collect();
    println!("\nrunning {} tests", chosen.len());
    let mut failed = Vec::new();
    for test in &chosen {
        let passed = catch_unwind(AssertUnwindSafe(|| (test.run)())).is_ok();
        println!(
            "test {} ... {}",
            test.name,
            if passed { "ok" } else { "FAILED" }
        );
        if !passed {
            failed.push(test.name.as_str());
        }
    }
    if !failed.is_empty() {
        println!("\nfailures:\n    {}", failed.join("\n    "));
    }
    let (word, n) = (
        if failed.is_empty() { "ok" } else { "FAILED" },
        failed.len(),
    );
    println!(
        "\ntest result: {word}. {} passed; {n} failed; 0 ignored; 0 measured; {} filtered out\n",
        chosen.len() - n,
        tests.len() - chosen.len(),
    );
    ExitCode::from(if n == 0 { 0 } else { 101 })
}
