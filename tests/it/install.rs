//! scripts/install.sh, into a directory that is thrown away.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs the script as a packager would, on the binaries in `built`.
fn install(built: &Path, dest: &Path, prefix: Option<&str>) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install.sh");
    let mut command = Command::new(script);
    command.arg(built).env("DESTDIR", dest).env_remove("PREFIX");
    if let Some(prefix) = prefix {
        command.env("PREFIX", prefix);
    }
    command.output().expect("sh runs scripts/install.sh")
}

fn built() -> &'static Path {
    let echod = Path::new(env!("CARGO_BIN_EXE_echod"));
    echod.parent().expect("a directory")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn installs_programs_pages_and_units_where_they_belong_and_names_them() {
    let dest = tempfile::tempdir().expect("a directory");
    // Twice: a second install replaces the first.
    for _ in 0..2 {
        let output = install(built(), dest.path(), None);
        assert!(output.status.success(), "{}", said(&output));
        let root = dest.path().join("usr/local");
        for (file, mode) in [
            ("sbin/echod", 0o755),
            ("bin/echoc", 0o755),
            ("bin/echoload", 0o755),
            ("share/man/man1/echoc.1", 0o644),
            ("share/man/man1/echoload.1", 0o644),
            ("share/man/man7/echod-models.7", 0o644),
            ("share/man/man8/echod.8", 0o644),
            ("lib/systemd/system/echod.service", 0o644),
            ("lib/systemd/system/echod.socket", 0o644),
            ("lib/sysusers.d/echod.conf", 0o644),
            ("share/echod/no-network.conf", 0o644),
            ("share/echod/echod.toml", 0o644),
        ] {
            let path = root.join(file);
            let meta = fs::metadata(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
            assert_eq!(meta.permissions().mode() & 0o7777, mode, "{file}");
            let line = format!("{}\n", path.display());
            assert!(said(&output).contains(&line), "{}", said(&output));
        }
        let pages = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("man"));
        let pages = pages.expect("man/").count();
        assert_eq!(said(&output).lines().count(), 8 + pages, "one line a file");
    }
}

#[test]
fn what_is_installed_runs() {
    let dest = tempfile::tempdir().expect("a directory");
    let output = install(built(), dest.path(), Some("/opt/echo"));
    assert!(output.status.success(), "{}", said(&output));
    for program in ["sbin/echod", "bin/echoc", "bin/echoload"] {
        let path = dest.path().join("opt/echo").join(program);
        let output = Command::new(path).arg("--version").output();
        let output = output.expect("it was installed");
        assert!(said(&output).ends_with(concat!(env!("CARGO_PKG_VERSION"), "\n")));
    }
    // What the unit starts is what was installed, less the packager's DESTDIR.
    let unit = dest
        .path()
        .join("opt/echo/lib/systemd/system/echod.service");
    let unit = fs::read_to_string(unit).expect("it was installed");
    let starts: Vec<_> = unit
        .lines()
        .filter(|l| l.starts_with("ExecStart="))
        .collect();
    assert_eq!(starts, ["ExecStart=/opt/echo/sbin/echod --sandbox strict"]);
}

#[test]
fn without_a_build_it_installs_nothing_and_says_what_to_do() {
    let (empty, dest) = (tempfile::tempdir(), tempfile::tempdir());
    let (empty, dest) = (empty.expect("a directory"), dest.expect("a directory"));
    let output = install(empty.path(), dest.path(), None);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("cargo build --release"),
        "{}",
        said(&output)
    );
    assert_eq!(fs::read_dir(dest.path()).expect("dest").count(), 0);
}
