//! FAULTS row 107: senders on Unix sockets whose name means another socket to
//! echod than to them. Nobody is answered for ever, nobody is sent what the sender
//! could not have sent, and whoever is at home at its name misses nothing.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;

use crate::common::{Builder, DEADLINE, Daemon, Signal, need, need_root, poll_until, proc};
use crate::udp::peer::{Gram, count, end};

/// A client with these arguments: its name, the server, what it says, how often
/// (each answer is waited for; with 0 it says it once and waits for none), and
/// whether it is connected. Prints how many answers came back right, and from which
/// names.
const CLIENT: &str = r#"
import os, socket, sys
own, server, what, times, connected = sys.argv[1:]
uid = int(os.environ.get("CLIENT_UID", "0"))
if uid:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
name = lambda s: "\0" + s[1:] if s.startswith("@") else s
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.settimeout(20)
s.bind(name(own))
if own and own[0] != "@":
    os.chmod(own, 0o777)
if connected == "connected":
    s.connect(name(server))
right, names = 0, set()
for n in range(int(times) or 1):
    said = (what if what != "numbers" else str(n)).encode()
    s.send(said) if connected == "connected" else s.sendto(said, name(server))
    if times == "0":
        break
    answer, of = s.recvfrom(70000)
    right += answer == said
    names.add("@" + of[1:].decode() if isinstance(of, bytes) else of or "")
print(right, *sorted(names), sep="|")
"#;

/// Runs a client, under these words: what it printed.
#[track_caller]
fn client(under: &[&str], args: [&str; 5]) -> Vec<String> {
    let words = [under, &["python3", "-c", CLIENT], &args].concat();
    let out = Command::new(words[0]).args(&words[1..]).output();
    let out = out.expect("a client runs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{words:?}: {said}");
    let told = String::from_utf8_lossy(&out.stdout).trim().to_owned();
    told.split('|').map(str::to_owned).collect()
}

fn tools() -> bool {
    need_root() && ["python3", "unshare"].iter().all(|tool| need(tool))
}

/// In a mount namespace where this directory is another, for all to write to.
fn elsewhere(dir: &Path) -> Vec<String> {
    let script = "mount -t tmpfs none \"$0\" && chmod 0777 \"$0\" && exec \"$@\"";
    let words = [
        "unshare",
        "-m",
        "sh",
        "-c",
        script,
        &dir.display().to_string(),
    ];
    words.map(str::to_owned).to_vec()
}

/// Another user, once what it needs is loaded.
const STRANGER: [&str; 2] = ["env", "CLIENT_UID=65533"];

fn words(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// An echod in a directory of its own, at `d` there and at what `more` says.
fn start(args: &[&str], more: &[&str]) -> Daemon {
    let builder = Builder::new();
    let path = format!("unixgram:{}", builder.path("d"));
    let more = more.iter().flat_map(|addr| ["-l", addr]);
    builder.args(["-l", &path]).args(more).args(args).start()
}

fn path(daemon: &Daemon) -> String {
    daemon.addr().trim_start_matches("unixgram:").to_owned()
}

/// Other clients are served, while a loop would go round thousands of times.
fn serve_others(daemons: &[&Daemon]) {
    for daemon in daemons {
        let gram = Gram::to(daemon.addr());
        for n in 0..OTHERS as u32 {
            gram.ping(&n.to_be_bytes());
        }
    }
}
const OTHERS: u64 = 500;

/// How many it answered beside those.
fn answered(daemon: &Daemon) -> u64 {
    let said = end(daemon);
    count(&said, "datagrams") - OTHERS
}

/// What one datagram may lead to, at most: a few times there and back.
const FEW: u64 = 16;

#[test]
fn row_107_a_relative_name_is_not_looked_up_here() {
    if !tools() {
        return;
    }
    let builder = Builder::new();
    let (dir, listen) = (builder.dir(), format!("unixgram:{}", builder.path("d")));
    let here = format!("cd {} && exec \"$@\"", dir.display());
    let daemon = builder
        .under(["sh", "-c", &here, "sh"])
        .args(["-l", &listen])
        .start();
    let there = tempfile::tempdir().expect("a directory");
    // Where it runs, and from the root of all.
    let from_root = dir.join("d").display().to_string();
    let from_root = from_root.trim_start_matches('/');
    let parent = there.path().join(from_root);
    std::fs::create_dir_all(parent.parent().expect("one")).expect("directories");
    let there = format!("cd {} && exec \"$@\"", there.path().display());
    for name in ["d", from_root, "./other"] {
        let args = [name, &path(&daemon), "round and round", "0", ""];
        client(&["sh", "-c", &there, "sh"], args);
    }
    serve_others(&[&daemon]);
    assert_eq!(daemon.log_count("from a relative path"), 1, "one line");
    let said = end(&daemon);
    let expected = format!("{OTHERS} datagrams answered, 3 dropped (not the sender's socket 3)");
    assert!(said.contains(&expected), "{said}");
}

/// The name of one of our sockets, from where it is another's.
#[test]
fn row_107_our_own_sockets_are_not_answered() {
    if !tools() {
        return;
    }
    let own = Builder::new();
    let other = own.path("other");
    let hidden = elsewhere(&own.dir());
    let abstract_name = format!("@echod-names-{}", std::process::id());
    let listen = [
        format!("unixgram:{other}"),
        format!("unixgram:{abstract_name}"),
    ];
    let daemon = start(&["--allow-root"], &words(&listen));
    let server = path(&daemon);
    client(&words(&hidden), [&other, &server, "round", "0", ""]);
    let another_network = ["unshare", "-n"];
    client(
        &another_network,
        [&abstract_name, &server, "round", "0", ""],
    );
    serve_others(&[&daemon]);
    end(&daemon);
    let expected = format!("{OTHERS} datagrams answered, 2 dropped (our own answers 2)");
    assert_eq!(daemon.log_count(&expected), 1);
    assert_eq!(daemon.log_count(": 0 datagrams answered, none dropped"), 2);
}

/// Two servers, as different as their rights can be.
fn two(args: &[&str], uid: Option<u32>) -> [Daemon; 2] {
    [(), ()].map(|()| {
        let builder = Builder::new();
        let path = format!("unixgram:{}", builder.path("d"));
        let builder = builder.args(["-l", &path]).args(args);
        match uid {
            Some(uid) => builder.uid(uid).start(),
            None => builder.start(),
        }
    })
}

#[test]
fn row_107_two_servers_do_not_answer_each_other_for_ever() {
    if !tools() {
        return;
    }
    for (args, uid, sender) in [
        (&[][..], None, &[][..]),
        (&["--allow-root"], None, &[]),
        (&["--allow-root"], None, &STRANGER),
        (&[], Some(65_533), &[]),
        (&[], Some(65_533), &STRANGER),
    ] {
        let [a, b] = two(args, uid);
        let hidden = elsewhere(b.dir());
        let under = [&words(&hidden)[..], sender].concat();
        client(&under, [&path(&b), &path(&a), "round and round", "0", ""]);
        serve_others(&[&a, &b]);
        let (a, b) = (answered(&a), answered(&b));
        assert!(a.max(b) <= FEW, "{args:?} {uid:?} {sender:?}: {a} and {b}");
    }
}

#[test]
fn row_107_nor_by_an_abstract_name_from_another_network() {
    if !tools() {
        return;
    }
    let name = format!("@echod-names-b-{}", std::process::id());
    let a = start(&[], &[]);
    let listen = format!("unixgram:{name}");
    let b = Builder::new().args(["-l", &listen]).start();
    for what in ["round", "and round"] {
        client(&["unshare", "-n"], [&name, &path(&a), what, "0", ""]);
    }
    serve_others(&[&a, &b]);
    let (a, b) = (answered(&a), answered(&b));
    assert!(a >= 2 && a.max(b) <= 2 * FEW, "{a} and {b}");
}

/// The path is the sender's when it sends, and another's when it is answered.
#[test]
fn row_107_a_path_that_changes_hands_leads_nowhere() {
    if !tools() {
        return;
    }
    let [a, b] = two(&["--allow-root"], None);
    let dir = a.dir().join("swapped");
    std::fs::create_dir(&dir).expect("a directory");
    let own = dir.join("own");
    let worker = a.role("echod-udp")[0];
    for by_link_of_directory in [false, true] {
        proc::signal(worker, Signal::SIGSTOP);
        poll_until(DEADLINE, "stopped", || proc::state(worker) == Some('T'));
        let name = match by_link_of_directory {
            false => own.clone(),
            true => dir.join("d"),
        };
        let gram = UnixDatagram::bind(&name).expect("bind");
        gram.send_to(b"round and round", path(&a)).expect("send");
        std::fs::remove_file(&name).expect("remove");
        match by_link_of_directory {
            false => symlink(path(&b), &name).expect("link"),
            true => {
                std::fs::remove_dir_all(&dir).expect("remove");
                symlink(b.dir(), &dir).expect("link");
            }
        }
        proc::signal(worker, Signal::SIGCONT);
        serve_others(&[&a, &b]);
    }
    let (a, b) = (answered(&a) - OTHERS, answered(&b) - OTHERS);
    assert!(a.max(b) <= FEW, "{a} and {b}");
}

#[test]
fn row_107_nobody_is_lent_our_rights() {
    if !tools() {
        return;
    }
    let victims = Builder::new();
    let (dir, name) = (victims.dir(), victims.path("victim"));
    let victim = UnixDatagram::bind(&name).expect("bind");
    victim.set_nonblocking(true).expect("nonblocking");
    for (args, mode) in [(&[][..], 0o777), (&["--allow-root"][..], 0o600)] {
        std::fs::set_permissions(&name, PermissionsExt::from_mode(mode)).expect("chmod");
        let daemon = start(args, &[]);
        let hidden = elsewhere(&dir);
        let under = [&words(&hidden)[..], &STRANGER].concat();
        client(&under, [&name, &path(&daemon), "do as echod says", "0", ""]);
        serve_others(&[&daemon]);
        let said = end(&daemon);
        assert!(said.contains("not the sender's socket 1"), "{said}");
        assert!(victim.recv(&mut [0; 99]).is_err(), "{args:?}: it came");
    }
}

/// Everybody who is at home at its name: all of them are answered, each time.
#[test]
fn row_107_clients_at_home_miss_nothing() {
    if !tools() {
        return;
    }
    let daemon = start(&["--sandbox", "strict"], &[]);
    let server = path(&daemon);
    let mut asked = 0;
    let mut ask = |under: &[&str], own: &str, what: &str, connected: &str| {
        let told = client(under, [own, &server, what, "100", connected]);
        asked += 100;
        assert_eq!(told[0], "100", "{own:?} {connected} {what}");
        let from: Vec<&str> = told[1..].iter().map(String::as_str).collect();
        // One that repeats itself, and would hear anybody, does so.
        match (what, connected) {
            ("ping", "no") => assert_eq!(from, ["", &server], "{own:?}"),
            _ => assert_eq!(from, [&server], "{own:?} {connected} {what}"),
        }
    };
    let name = format!("@echod-names-c-{}", std::process::id());
    for (n, under) in [&[][..], &STRANGER].into_iter().enumerate() {
        for connected in ["connected", "no"] {
            for what in ["numbers", "ping"] {
                let file = daemon.dir().join(format!("{n}-{connected}-{what}"));
                ask(under, &file.display().to_string(), what, connected);
                if n == 1 {
                    ask(under, &name, what, connected);
                }
            }
        }
    }
    // Its name is the kernel's choice.
    ask(&STRANGER, "", "ping", "no");
    let said = end(&daemon);
    let expected = format!("{asked} datagrams answered, none dropped");
    assert!(said.contains(&expected), "{said}");
}

/// There is no /proc in it, and the names are the jail's.
#[test]
fn row_107_in_a_chroot_too() {
    if !tools() {
        return;
    }
    let builder = Builder::new();
    let (jail, listen) = (builder.path(""), format!("unixgram:{}", builder.path("d")));
    let daemon = builder
        .args(["-l", &listen, "--chroot", &jail, "--sandbox", "strict"])
        .start();
    let script = CLIENT.replace(
        "import os, socket, sys\n",
        "import os, socket, sys, encodings.idna\nos.chroot(sys.argv.pop(1))\n",
    );
    let run = |args: &[&str]| {
        let out = Command::new("python3")
            .args(["-c", &script, &jail])
            .args(args)
            .output();
        let out = out.expect("a client runs");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{said}");
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    // The server's name is the path from outside.
    let name = path(&daemon);
    assert_eq!(
        run(&["/c", "/d", "numbers", "20", "no"]),
        format!("20|{name}")
    );
    assert_eq!(
        run(&["/c2", "/d", "numbers", "20", "connected"]),
        format!("20|{name}")
    );
    let said = end(&daemon);
    assert!(
        said.contains("40 datagrams answered, none dropped"),
        "{said}"
    );
}
