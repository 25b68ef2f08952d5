//! Holds each program's page and its `--help` to each other, both ways, and
//! the pages to mandoc's judgement.
//!
//! A page is the specification, so neither may know an option, a short form,
//! a value or a default that the other does not. The page states a default in
//! one way only: a line `Default:` and then a line `.Cm VALUE .`. The parsing
//! is simple on purpose, and says so loudly when it no longer understands.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A program and what is written about it.
struct Program {
    binary: &'static str,
    /// The page that specifies it.
    page: &'static str,
    /// Others that name its options.
    also: &'static [&'static str],
    /// Fewer options than this, and a parser has gone blind.
    at_least: usize,
}

const PROGRAMS: [Program; 3] = [
    Program {
        binary: env!("CARGO_BIN_EXE_echod"),
        page: "echod.8",
        also: &["echod-models.7"],
        at_least: 30,
    },
    Program {
        binary: env!("CARGO_BIN_EXE_echoc"),
        page: "echoc.1",
        also: &[],
        at_least: 14,
    },
    Program {
        binary: env!("CARGO_BIN_EXE_echoload"),
        page: "echoload.1",
        also: &[],
        at_least: 18,
    },
];

/// What is said of one option.
#[derive(Debug, Default, PartialEq, Eq)]
struct Described {
    short: Option<String>,
    takes_value: bool,
    default: Option<String>,
}

/// By long name.
type Options = BTreeMap<String, Described>;

/// clap's help: a line indented little and starting with `-` opens an option,
/// one indented not at all ends the list, anything else is its text. The text
/// may follow on the same line, after two blanks.
fn from_help(help: &str) -> Options {
    let mut found: Vec<(&str, String)> = Vec::new();
    let mut inside = false;
    for line in help.lines().filter(|line| !line.trim().is_empty()) {
        let body = line.trim_start();
        match line.len() - body.len() {
            0 => inside = false,
            1..=6 if body.starts_with('-') => {
                let (names, text) = body.split_once("  ").unwrap_or((body, ""));
                found.push((names, text.to_owned()));
                inside = true;
            }
            _ if inside => {
                let (_, text) = found.last_mut().expect("inside one");
                *text = format!("{text} {body}");
            }
            _ => {}
        }
    }
    let mut options = Options::new();
    for (names, text) in found {
        let mut described = Described::default();
        let mut long = None;
        for word in names.split_whitespace() {
            let word = word.trim_end_matches(',').trim_end_matches("...");
            if let Some(name) = word.strip_prefix("--") {
                long = Some(name.to_owned());
            } else if let Some(name) = word.strip_prefix('-') {
                described.short = Some(name.to_owned());
            } else {
                assert!(
                    word.starts_with('<') || word.starts_with("[<"),
                    "--help: what is {word:?} in {names:?}?"
                );
                described.takes_value = true;
            }
        }
        described.default = text.split_once("[default: ").map(|(_, rest)| {
            let (value, _) = rest.split_once(']').expect("--help: an open [default:");
            value.to_owned()
        });
        let long = long.unwrap_or_else(|| panic!("--help: no long name in {names:?}"));
        let twice = options.insert(long, described);
        assert_eq!(twice, None, "--help: twice: {names}");
    }
    options
}

/// The page: `.It Fl ...` opens an option, the next one or a heading ends it.
fn from_page(page: &str) -> Options {
    let mut options = Options::new();
    let mut inside: Option<String> = None;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(names) = line.strip_prefix(".It Fl ") {
            let (long, described) = item(names);
            inside = Some(long.clone());
            let twice = options.insert(long, described);
            assert_eq!(twice, None, "page: twice: {line}");
        } else if line.starts_with(".Ss ") || line.starts_with(".Sh ") {
            inside = None;
        } else if line == "Default:" {
            let value = lines.next().unwrap_or_default();
            let value = value
                .strip_prefix(".Cm ")
                .and_then(|rest| rest.strip_suffix(" ."))
                .unwrap_or_else(|| panic!("page: not `.Cm VALUE .` but {value:?}"));
            let option = inside.as_ref().and_then(|long| options.get_mut(long));
            let option = option.unwrap_or_else(|| panic!("page: whose default is {value}?"));
            let twice = option.default.replace(value.to_owned());
            assert_eq!(twice, None, "page: two defaults for {inside:?}");
        }
    }
    options
}

/// `l Ar ADDR , Fl Fl listen Ar ADDR`: what follows the first `Fl`.
fn item(names: &str) -> (String, Described) {
    let words: Vec<_> = names.split_whitespace().collect();
    let mut described = Described::default();
    let mut long = None;
    let mut before = ["", "Fl"];
    for word in words {
        match (before, word) {
            (_, "Ar") => described.takes_value = true,
            (_, "Fl") => {}
            (["Fl", "Fl"], name) => long = Some(name.to_owned()),
            ([_, "Fl"], name) => described.short = Some(name.to_owned()),
            _ => {}
        }
        before = [before[1], word];
    }
    let long = long.unwrap_or_else(|| panic!("page: no long name in {names:?}"));
    (long, described)
}

/// Long options named anywhere in a page's macros.
fn mentioned(page: &str) -> BTreeSet<&str> {
    let macros = page.lines().filter_map(|line| line.strip_prefix('.'));
    macros
        .flat_map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let longs = words.windows(3).filter(|w| w[..2] == ["Fl", "Fl"]);
            longs.map(|w| w[2]).collect::<Vec<_>>()
        })
        .collect()
}

fn man_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("man")
}

fn page(name: &str) -> String {
    fs::read_to_string(man_dir().join(name)).expect(name)
}

fn help(program: &Program) -> Options {
    let output = Command::new(program.binary)
        .arg("--help")
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}: {output:?}", program.binary);
    let help = String::from_utf8(output.stdout).expect("help is text");
    let options = from_help(&help);
    assert!(
        options.len() >= program.at_least,
        "only {} options found in --help:\n{help}",
        options.len()
    );
    options
}

#[test]
fn the_pages_and_help_say_the_same() {
    for program in PROGRAMS {
        let name = program.page;
        let (page, help) = (from_page(&page(name)), help(&program));
        assert!(
            page.len() >= program.at_least,
            "only {} options found in {name}: {:?}",
            page.len(),
            page.keys()
        );
        let names: BTreeSet<_> = page.keys().chain(help.keys()).collect();
        let differences: Vec<_> = names
            .into_iter()
            .filter(|&long| page.get(long) != help.get(long))
            .map(|long| {
                let (page, help) = (page.get(long), help.get(long));
                format!("--{long}\n  {name}: {page:?}\n  --help:  {help:?}")
            })
            .collect();
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }
}

#[test]
fn the_pages_name_no_option_that_does_not_exist() {
    for program in PROGRAMS {
        let help = help(&program);
        for name in program.also.iter().chain([&program.page]) {
            let page = page(name);
            let mentioned = mentioned(&page);
            assert!(!mentioned.is_empty(), "no option found in {name}");
            for long in mentioned {
                assert!(help.contains_key(long), "{name} names --{long}");
            }
        }
    }
}

#[test]
fn mandoc_has_nothing_to_say() {
    let is_page = |path: &PathBuf| {
        let section = path.extension().and_then(|section| section.to_str());
        matches!(section, Some("1" | "5" | "7" | "8"))
    };
    let pages: Vec<_> = fs::read_dir(man_dir())
        .expect("man/")
        .map(|entry| entry.expect("man/").path())
        .filter(is_page)
        .collect();
    assert!(pages.len() >= 2, "pages: {pages:?}");
    let run = Command::new("mandoc")
        .args(["-Tlint", "-Wwarning"])
        .args(&pages)
        .output();
    let output = match run {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let skipped = "skipped: mandoc is not installed";
            assert!(
                std::env::var_os("ECHOD_TESTS_NO_SKIP").is_none(),
                "{skipped}"
            );
            println!("{skipped}");
            return;
        }
        run => run.expect("mandoc runs"),
    };
    let said = [output.stdout, output.stderr].concat();
    assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
    assert!(output.status.success(), "{}", output.status);
}

#[test]
fn the_pages_fit_a_terminal() {
    for name in ["echoc.1", "echoload.1", "echod-models.7", "echod.8"] {
        let run = Command::new("mandoc")
            .args(["-Tutf8", "-Owidth=78"])
            .arg(man_dir().join(name))
            .output();
        let Ok(output) = run else {
            // Said by the test above.
            return;
        };
        let text = String::from_utf8(output.stdout).expect("a page is text");
        for line in text.lines() {
            // Bold and underlined letters are struck over: X, backspace, X.
            let struck = 2 * line.matches('\u{8}').count();
            let width = line.chars().count() - struck;
            assert!(width <= 80, "{name}: {width} columns: {line}");
        }
    }
}

#[test]
fn the_parsers_read_both_shapes() {
    let long_form = "About.\n\nUsage: echod [OPTIONS]\n\nOptions:\n  \
                     -l, --listen <ADDR>\n          Where, not\n          --here\n\n          \
                     [default: a:1]\n\n      --reap <HOW>\n          How\n\n          \
                     Possible values:\n          - wait: as ever\n\n          [default:\n          \
                     wait]\n\n  -v, --verbose...\n          More\n\nEnd: -x\n";
    let short_form = "Options:\n  -l, --listen <ADDR>  Where [default: a:1]\n      \
                      --reap <HOW>     How [default: wait]\n  -v, --verbose...     More\n";
    let on_page = ".Sh DESCRIPTION\n.It Fl l Ar ADDR , Fl Fl listen Ar ADDR\nWhere.\nDefault:\n\
                   .Cm a:1 .\n.It Fl Fl reap Ar HOW\n.Bl -tag\n.It Cm wait\n.El\n.Pp\nDefault:\n\
                   .Cm wait .\n.It Fl v , Fl Fl verbose\nSee\n.Fl Fl other .\n.Sh SIGNALS\n";
    assert_eq!(from_help(long_form), from_page(on_page));
    assert_eq!(from_help(short_form), from_page(on_page));
    assert_eq!(from_page(on_page).len(), 3);
    assert_eq!(
        mentioned(on_page),
        BTreeSet::from(["listen", "other", "reap", "verbose"])
    );
}
