//! What a hostile or broken manager puts into the environment: one clear line,
//! or a clean start, and never a hang.

use crate::common::{DEADLINE, Daemon, echo_once};

/// Runs echod with its own pid where a value says `$$`. Descriptor 3 is a pipe,
/// 5 to 8 are closed.
fn under_shell(words: &[(&str, String)]) -> Vec<String> {
    let mut script = String::new();
    for (name, value) in words {
        if value == "$$" {
            script += &format!("export {name}=$$; ");
        }
    }
    script += "exec \"$@\"";
    ["/bin/sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

fn variables(line: &str) -> Vec<(&str, String)> {
    let words = line.split(' ').filter(|word| !word.is_empty());
    words
        .map(|word| {
            let (name, value) = word.split_once('=').expect("NAME=VALUE");
            let value = value.replace("\\n", "\n").replace("_", " ");
            let value = value.replace("{long}", &"9".repeat(5000));
            let name = match name {
                "PID" => "LISTEN_PID",
                "FDS" => "LISTEN_FDS",
                "NAMES" => "LISTEN_FDNAMES",
                "NOTIFY" => "NOTIFY_SOCKET",
                "USEC" => "WATCHDOG_USEC",
                "WPID" => "WATCHDOG_PID",
                other => panic!("{other}?"),
            };
            (name, value)
        })
        .collect()
}

/// `_` is a blank, `\n` a newline.
const REFUSED: [(&str, &str); 22] = [
    ("PID= FDS=1", "LISTEN_PID=: not a process id"),
    ("PID=self FDS=1", "LISTEN_PID=self: "),
    ("PID=-1 FDS=1", "LISTEN_PID=-1: "),
    ("PID=0 FDS=1", "LISTEN_PID=0: "),
    ("PID=_1 FDS=1", "LISTEN_PID= 1: "),
    ("PID={long} FDS=1", "LISTEN_PID=9999"),
    ("PID=1\\n FDS=1", "LISTEN_PID=1?: "),
    ("PID=$$ FDS=", "LISTEN_FDS=: not a number"),
    ("PID=$$ FDS=0", "LISTEN_FDS=0: "),
    ("PID=$$ FDS=-1", "LISTEN_FDS=-1: "),
    ("PID=$$ FDS=+1", "LISTEN_FDS=+1: "),
    ("PID=$$ FDS=one", "LISTEN_FDS=one: "),
    ("PID=$$ FDS=1;2", "LISTEN_FDS=1;2: "),
    ("PID=$$ FDS=1\\n2", "LISTEN_FDS=1?2: "),
    ("PID=$$ FDS={long}", "LISTEN_FDS=9999"),
    ("PID=$$ FDS=2147483647", "LISTEN_FDS=2147483647: "),
    ("PID=$$ FDS=4294967297", "LISTEN_FDS=4294967297: "),
    ("PID=$$ FDS=1", "LISTEN_FDS: descriptor 3: not a socket"),
    (
        "PID=$$ FDS=2147483644",
        "LISTEN_FDS: descriptor 3: not a socket",
    ),
    (
        "PID=$$ FDS=1 NAMES=pipe",
        "LISTEN_FDS: descriptor 3 (pipe): not a socket",
    ),
    (
        "PID=$$ FDS=1 NAMES=a:b",
        "LISTEN_FDNAMES=a:b: 2 names for 1 sockets",
    ),
    ("PID=$$ FDS=1 NAMES=a\\nb", "LISTEN_FDNAMES=a?b: not names"),
];

#[test]
fn row_63_garbage_that_speaks_of_descriptors_is_refused_by_name() {
    for (line, expected) in REFUSED {
        let variables = variables(line);
        let mut builder = Daemon::builder().under(under_shell(&variables));
        for (name, value) in variables.iter().filter(|(_, value)| value != "$$") {
            builder = builder.env(name, value);
        }
        let ended = builder.run(DEADLINE);
        assert_eq!(ended.status.code(), Some(78), "{line}: {}", ended.stderr);
        let lines: Vec<_> = ended.stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{line}: {lines:?}");
        assert!(
            lines[0].starts_with(&format!("echod: {expected}")),
            "{line}: {lines:?}"
        );
        assert!(lines[0].len() < 300, "{line}: {lines:?}");
    }
}

/// A descriptor that is not open at all.
#[test]
fn row_63_a_descriptor_that_is_not_open_is_named() {
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\" 3>&-";
    let ended = Daemon::builder()
        .bare()
        .under(["/bin/sh", "-c", script, "sh"])
        .run(DEADLINE);
    assert_eq!(ended.status.code(), Some(78));
    let expected = "echod: LISTEN_FDS: descriptor 3: it is not open\n";
    assert_eq!(ended.stderr, expected);
}

/// The log line, or none.
const SERVED: [(&str, &str); 22] = [
    ("FDS=1", "LISTEN_FDS without LISTEN_PID: ignored"),
    ("FDS=garbage", "LISTEN_FDS without LISTEN_PID: ignored"),
    (
        "PID=1 FDS=1",
        "LISTEN_PID=1: its sockets are not for this process",
    ),
    (
        "PID=1 FDS=garbage",
        "LISTEN_PID=1: its sockets are not for this process",
    ),
    ("PID=$$", ""),
    ("PID=garbage", ""),
    ("PID=$$ NAMES=a:b", ""),
    ("NOTIFY=", "NOTIFY_SOCKET=: neither"),
    ("NOTIFY=relative", "NOTIFY_SOCKET=relative: neither"),
    ("NOTIFY=@", "NOTIFY_SOCKET=@: neither"),
    ("NOTIFY=vsock:2:1234", "NOTIFY_SOCKET=vsock:2:1234: neither"),
    ("NOTIFY=\\n", "NOTIFY_SOCKET=?: neither"),
    ("NOTIFY=/", "NOTIFY_SOCKET=/: "),
    ("NOTIFY=/no/such/socket", "(ENOENT)"),
    ("NOTIFY=/dev/null", "NOTIFY_SOCKET=/dev/null: "),
    ("NOTIFY=/{long}", "(ENAMETOOLONG)"),
    ("NOTIFY=@{long}", "(ENAMETOOLONG)"),
    ("NOTIFY=@echod-no-such-manager", "(ECONNREFUSED)"),
    (
        "NOTIFY=@echod-no-such-manager USEC=garbage",
        "WATCHDOG_USEC=garbage: not a time",
    ),
    (
        "NOTIFY=@echod-no-such-manager USEC=0",
        "WATCHDOG_USEC=0: not a time",
    ),
    (
        "NOTIFY=@echod-no-such-manager USEC=1000000 WPID=x",
        "WATCHDOG_PID=x: not a process",
    ),
    ("USEC=garbage WPID=garbage", ""),
];

#[test]
fn row_63_garbage_that_can_be_ignored_is_named_once_and_serves() {
    for (line, expected) in SERVED {
        let variables = variables(line);
        let mut builder = Daemon::builder()
            .args(["--stop-settle", "0"])
            .under(under_shell(&variables));
        for (name, value) in variables.iter().filter(|(_, value)| value != "$$") {
            builder = builder.env(name, value);
        }
        let daemon = builder.start();
        assert_eq!(echo_once(daemon.addr(), b"served"), b"served", "{line}");
        let warned = |line: &&str| line.contains(" WARN ");
        let log = daemon.log();
        let warnings: Vec<_> = log.lines().filter(warned).collect();
        match expected {
            "" => assert_eq!(warnings, [""; 0], "{line}"),
            _ => assert!(warnings[0].contains(expected), "{line}: {warnings:?}"),
        }
    }
}

#[test]
fn the_ready_descriptor_is_not_also_a_socket() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let ended = Daemon::builder()
        .bare()
        .handed(socket)
        .args(["--ready-fd", "3"])
        .run(DEADLINE);
    assert_eq!(ended.status.code(), Some(64));
    let expected = "echod: --ready-fd 3: this is a socket of LISTEN_FDS; name another descriptor\n";
    assert_eq!(ended.stderr, expected);
}
