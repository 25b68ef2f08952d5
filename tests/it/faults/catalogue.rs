//! The catalogue of faults, `scripts/soak/FAULTS.md`, held to the tests: each row is
//! shown by tests that are named after it, `row_NUMBER_…`, or has a reason there why
//! it is not. `cargo test catalogue -- --nocapture` prints both.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::clock::sources;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A row by its number: what goes wrong, or why nothing shows it.
type Rows = BTreeMap<u32, String>;

/// The rows of the catalogue, and those at its end that have no test.
fn rows() -> (Rows, Rows) {
    let page = fs::read_to_string(root().join("scripts/soak/FAULTS.md")).expect("the catalogue");
    let (all, not_shown) = page
        .split_once("\n## Not shown\n")
        .expect("what is not shown stands at the end");
    (numbered(all), numbered(not_shown))
}

/// `| 7 | what goes wrong | …`: the first two cells of each row with a number.
fn numbered(table: &str) -> Rows {
    let mut rows = Rows::new();
    for line in table.lines() {
        let mut cells = line.split('|').skip(1).map(str::trim);
        let (Some(number), Some(what)) = (cells.next(), cells.next()) else {
            continue;
        };
        if let Ok(number) = number.parse() {
            let twice = rows.insert(number, what.to_owned());
            assert_eq!(twice, None, "row {number} stands twice");
        }
    }
    rows
}

/// The tests named after each row, with their files.
fn tests() -> BTreeMap<u32, Vec<String>> {
    let mut found: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    let files: Vec<_> = ["src", "tests"]
        .iter()
        .flat_map(|dir| sources(&root().join(dir)))
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source");
            let name = path.strip_prefix(root()).expect("below");
            (name.display().to_string(), text)
        })
        .collect();
    for (file, text) in &files {
        let mut last = "";
        for line in text.lines().map(str::trim) {
            let before = std::mem::replace(&mut last, line);
            let Some((_, rest)) = line.split_once("fn row_") else {
                continue;
            };
            let name = rest.split('(').next().unwrap_or(rest);
            let Some(Ok(number)) = name.split('_').next().map(str::parse) else {
                continue;
            };
            let name = format!("row_{name}");
            // Run as it stands, or once a design.
            let by_design = format!("::{name},");
            let runs = before == "#[test]" || files.iter().any(|(_, t)| t.contains(&by_design));
            assert!(runs, "{file}: {name} is no test");
            found
                .entry(number)
                .or_default()
                .push(format!("{file}: {name}"));
        }
    }
    found
}

#[test]
fn the_catalogue_and_the_tests_know_the_same_rows() {
    let ((rows, not_shown), tests) = (rows(), tests());
    for (number, what) in &rows {
        println!("{number:3}  {what}");
        for test in tests.get(number).into_iter().flatten() {
            println!("       {test}");
        }
    }
    println!("\nnot shown:");
    for (number, why) in &not_shown {
        println!("{number:3}  {why}");
    }
    println!(
        "\n{} of {} are shown",
        rows.len() - not_shown.len(),
        rows.len()
    );

    let last = u32::try_from(rows.len()).expect("a few");
    let all: BTreeSet<u32> = (1..=last).collect();
    assert_eq!(rows.keys().copied().collect::<BTreeSet<_>>(), all);
    let shown: BTreeSet<u32> = tests.keys().copied().collect();
    let strange: Vec<_> = shown.difference(&all).collect();
    assert!(strange.is_empty(), "tests of no row: {strange:?}");
    let reasons: BTreeSet<u32> = not_shown.keys().copied().collect();
    let missing: Vec<_> = all
        .difference(&shown)
        .filter(|n| !reasons.contains(n))
        .collect();
    assert!(
        missing.is_empty(),
        "neither a test nor a reason: {missing:?}"
    );
    let both: Vec<_> = shown.intersection(&reasons).collect();
    assert!(both.is_empty(), "a test and a reason against it: {both:?}");
}
