//! scripts/install.sh, into a directory that is thrown away, and out of it again.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{
    Builder, Client, DEADLINE, Daemon, Signal, echo_once, must, need, need_root, poll_until, proc,
    tool,
};

/// The script as a packager would run it.
fn script(dest: &Path, prefix: Option<&str>) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install.sh");
    let mut command = Command::new(script);
    command.env("DESTDIR", dest).env_remove("PREFIX");
    if let Some(prefix) = prefix {
        command.env("PREFIX", prefix);
    }
    command
}

/// Runs the script on the binaries in `built`.
fn install(built: &Path, dest: &Path, prefix: Option<&str>) -> Output {
    let output = script(dest, prefix).arg(built).output();
    output.expect("sh runs scripts/install.sh")
}

fn uninstall(dest: &Path, prefix: Option<&str>) -> Output {
    let output = script(dest, prefix).arg("--uninstall").output();
    output.expect("sh runs scripts/install.sh")
}

fn built() -> &'static Path {
    let echod = Path::new(env!("CARGO_BIN_EXE_echod"));
    echod.parent().expect("a directory")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Every file and directory below.
fn everything(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(everything(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn installs_what_belongs_where_and_names_it() {
    let dest = tempfile::tempdir().expect("a directory");
    // Twice: a second install replaces the first.
    for _ in 0..2 {
        let output = install(built(), dest.path(), None);
        assert!(output.status.success(), "{}", said(&output));
        for (file, mode) in [
            ("usr/local/sbin/echod", 0o755),
            ("usr/local/bin/echoc", 0o755),
            ("usr/local/bin/echoload", 0o755),
            ("usr/local/share/man/man1/echoc.1", 0o644),
            ("usr/local/share/man/man1/echoload.1", 0o644),
            ("usr/local/share/man/man7/echod-models.7", 0o644),
            ("usr/local/share/man/man8/echod.8", 0o644),
            ("usr/local/lib/systemd/system/echod.service", 0o644),
            ("usr/local/lib/systemd/system/echod.socket", 0o644),
            ("usr/local/lib/systemd/system/echod@.service", 0o644),
            ("usr/local/lib/systemd/system/echod-inetd.socket", 0o644),
            ("usr/local/lib/systemd/system/echod-inetd@.service", 0o644),
            ("usr/local/lib/sysusers.d/echod.conf", 0o644),
            ("usr/local/share/bash-completion/completions/echod", 0o644),
            ("usr/local/share/zsh/site-functions/_echod", 0o644),
            (
                "usr/local/share/fish/vendor_completions.d/echod.fish",
                0o644,
            ),
            ("usr/local/share/doc/echod/LICENSE-MIT", 0o644),
            ("usr/local/share/doc/echod/LICENSE-APACHE", 0o644),
            ("usr/local/share/doc/echod/copyright", 0o644),
            ("usr/local/share/echod/no-network.conf", 0o644),
            ("usr/local/share/echod/notify-reload.conf", 0o644),
            ("usr/local/share/echod/echod.toml", 0o644),
            ("etc/echod.toml", 0o644),
            ("etc/default/echod", 0o644),
            ("etc/logrotate.d/echod", 0o644),
        ] {
            let path = dest.path().join(file);
            let meta = fs::metadata(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
            assert_eq!(meta.permissions().mode() & 0o7777, mode, "{file}");
            let line = format!("{}\n", path.display());
            assert!(said(&output).contains(&line), "{}", said(&output));
        }
        let mut files = everything(dest.path());
        files.retain(|path| path.is_file() && !path.ends_with("manifest"));
        assert_eq!(
            said(&output).lines().count(),
            files.len(),
            "one line a file"
        );
    }
}

#[test]
fn uninstall_leaves_nothing_but_what_was_changed() {
    let dest = tempfile::tempdir().expect("a directory");
    for prefix in [None, Some("/usr"), Some("/opt/a b"), Some("")] {
        let output = install(built(), dest.path(), prefix);
        assert!(output.status.success(), "{}", said(&output));
        let output = uninstall(dest.path(), prefix);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(everything(dest.path()), [""; 0].map(PathBuf::from));
    }
    let output = uninstall(dest.path(), None);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("nothing was installed"));

    // What was there before, and what somebody wrote.
    fs::create_dir_all(dest.path().join("usr/local/bin")).expect("mkdir");
    install(built(), dest.path(), None);
    let config = dest.path().join("etc/echod.toml");
    let ours = "max-clients = 7\n";
    fs::write(&config, ours).expect("written");
    let output = install(built(), dest.path(), None);
    let kept = format!("{}: kept, it was changed\n", config.display());
    assert!(said(&output).contains(&kept), "{}", said(&output));
    let output = uninstall(dest.path(), None);
    assert!(said(&output).contains(&kept), "{}", said(&output));
    assert_eq!(fs::read_to_string(&config).expect("kept"), ours);
    let mut left = everything(dest.path());
    left.sort();
    let names = ["etc", "etc/echod.toml", "usr", "usr/local", "usr/local/bin"];
    assert_eq!(left, names.map(|name| dest.path().join(name)));
}

/// What a version put there that this one does not have goes with the next install.
#[test]
fn an_older_versions_files_go() {
    let dest = tempfile::tempdir().expect("a directory");
    install(built(), dest.path(), None);
    let manifest = dest.path().join("usr/local/share/echod/manifest");
    let mut list = fs::read_to_string(&manifest).expect("a manifest");
    list += "/usr/local/bin/echoctl\n";
    fs::write(&manifest, list).expect("written");
    let old = dest.path().join("usr/local/bin/echoctl");
    fs::write(&old, "").expect("written");
    let output = install(built(), dest.path(), None);
    let line = format!("removed {}\n", old.display());
    assert!(said(&output).contains(&line), "{}", said(&output));
    assert!(!old.exists());
}

/// The file of a program that runs cannot be written to, and its clients see nothing
/// of its being replaced.
#[test]
fn an_install_beside_a_daemon_that_runs_cuts_nobody() {
    let dest = tempfile::tempdir().expect("a directory");
    install(built(), dest.path(), None);
    let program = dest.path().join("usr/local/sbin/echod");
    let daemon = Daemon::builder()
        .program([program.display().to_string()])
        .start();
    let before = proc::link(daemon.pid(), "exe").expect("a program");
    assert_eq!(before, program);
    let output = install(built(), dest.path(), None);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(echo_once(daemon.addr(), b"served"), b"served");
    let after = proc::link(daemon.pid(), "exe").expect("a program");
    assert_eq!(
        after,
        PathBuf::from(format!("{} (deleted)", program.display()))
    );
}

#[test]
fn a_prefix_at_home_has_units_of_the_user() {
    let home = tempfile::tempdir().expect("a directory");
    let prefix = home.path().join(".local").display().to_string();
    let run = |argument: &Path| {
        let mut command = script(Path::new(""), Some(&prefix));
        command.env("HOME", home.path()).env_remove("DESTDIR");
        command
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_DATA_HOME");
        command.arg(argument).output().expect("sh runs")
    };
    let output = run(built());
    assert!(output.status.success(), "{}", said(&output));
    let units = home.path().join(".local/share/systemd/user");
    let service = fs::read_to_string(units.join("echod.service")).expect("a unit");
    let start = format!("ExecStart={prefix}/sbin/echod -f %E/echod.toml --sandbox strict");
    assert!(service.contains(&start), "{service}");
    for not in [
        "User=",
        "IPAddress",
        "multi-user",
        "/etc/",
        "/var/",
        "Protect",
    ] {
        assert!(!service.contains(not), "{not}: {service}");
    }
    assert!(home.path().join(".config/echod.toml").exists());
    if need("systemd-analyze") {
        let runtime = tempfile::tempdir().expect("a directory");
        let runtime = format!("XDG_RUNTIME_DIR={}", runtime.path().display());
        for unit in fs::read_dir(&units).expect("units") {
            let unit = unit.expect("a unit").path().display().to_string();
            let verify = ["systemd-analyze", "verify", "--user", "--man=no", &unit];
            let (ok, said) = tool("env", &[&[runtime.as_str()], &verify[..]].concat());
            assert!(ok && said.is_empty(), "{unit}: {said}");
        }
    }
    let output = run(Path::new("--uninstall"));
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(everything(home.path()), [""; 0].map(PathBuf::from));
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
    assert_eq!(
        starts,
        ["ExecStart=/opt/echo/sbin/echod -f /etc/echod.toml --sandbox strict"]
    );
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

/// A read-only root without /proc, /dev and /etc, and process 1 in it, as engines do
/// with the file.
const CONTAINER: &str = "root=$0; mount --bind \"$root\" \"$root\" && \
    mount -o remount,bind,ro \"$root\" && \
    exec unshare --pid --fork --kill-child --root \"$root\" \
    --setgid 65534 --setuid 65534 \"$@\"";

#[test]
fn what_the_containerfile_says_serves_and_stops_by_itself() {
    if !need_root() || !need("unshare") {
        return;
    }
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/dist");
    let text = fs::read_to_string(dist.join("Containerfile")).expect("the file");
    let line = |key: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(key));
        found
            .unwrap_or_else(|| panic!("no {key}"))
            .trim()
            .to_owned()
    };
    let words = |key: &str| -> Vec<String> {
        let line = line(key);
        line.split('"')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(
        (line("FROM").as_str(), line("USER").as_str()),
        ("scratch", "65534:65534")
    );
    let builder = Builder::new();
    let root = builder.dir().join("root");
    fs::create_dir(&root).expect("mkdir");
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).expect("chmod");
    let copied = line("COPY");
    let mut copied: Vec<&str> = copied.split(' ').collect();
    assert_eq!(copied.pop(), Some("/"));
    for program in copied {
        let name = program.strip_prefix("bin/").expect("as in the tarball");
        fs::copy(built().join(name), root.join(name)).expect("copied");
    }
    let arguments: Vec<_> = words("CMD")
        .iter()
        .map(|w| w.replace(":7777", ":0"))
        .collect();
    assert_eq!(arguments.join(" "), "--listen tcp:*:0");
    let daemon = builder
        .under(["unshare", "--mount", "sh", "-c", CONTAINER])
        .under([root.display().to_string()])
        .program(words("ENTRYPOINT"))
        .args(arguments)
        .start();
    let port = daemon.addr().rsplit(':').next().expect("a port").to_owned();
    let address = format!("127.0.0.1:{port}");

    let yaml = fs::read_to_string(dist.join("kubernetes.yaml")).expect("the manifest");
    let probe = format!("command: {}\n", line("HEALTHCHECK CMD"));
    assert!(yaml.contains(&probe), "{probe}");
    let check = words("HEALTHCHECK CMD")
        .join(" ")
        .replace("127.0.0.1:7777", &address);
    let (jail, check) = (
        root.display().to_string(),
        check.split(' ').collect::<Vec<_>>(),
    );
    let ours = ["--userspec=65534:65534", jail.as_str()];
    let said = must("chroot", &[&ours[..], &check].concat());
    assert!(said.contains("OK"), "{said}");

    // One who goes when asked to, and one who never does.
    let (mut polite, mut rude) = (Client::connect(&address), Client::connect(&address));
    polite.ping(b"polite");
    rude.ping(b"rude");
    daemon.signal(Signal::SIGTERM);
    daemon.wait_log("stop", DEADLINE);
    polite.ping(b"still");
    polite.shutdown_write().expect("shutdown");
    assert!(polite.end().is_ok(), "to its end");
    poll_until(DEADLINE, "its end", || daemon.try_exit().is_some());
    assert_eq!(daemon.wait_exit(DEADLINE).code(), Some(0));
    // An engine kills after 10 s; --graceful-timeout is 8 s where nobody says else.
    assert_eq!(daemon.log_count("1 client was cut"), 1);
}
