//! Every parser of what people, files and clients say, each as a function that
//! takes any bytes and panics if the parser breaks its word. THE list: proptest
//! feeds it (tests/it/bad_input), and so does cargo-fuzz (scripts/fuzz.sh).

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::str::FromStr;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use echod::addr::{Addr, ListenSpec, Target};
use echod::cli::echod::Refused;
use echod::cli::{echoc, echod as daemon, echoload};
use echod::config::Allowed;
use echod::daemon::start::activation::{Wanted, wanted};
use echod::daemon::supervisor::notify::watchdog;
use echod::daemon::worker::fd_passing::{read_note, write_note};
use echod::error::Error;
use echod::net::connection::{Connection, Meter};
use echod::service::Command;
use echod::{access, values};

/// Takes anything, and panics if that was too much.
pub type Parser = fn(&[u8]);

/// By name, one a line: scripts/fuzz.sh reads them here.
pub const PARSERS: &[(&str, Parser)] = &[
    ("address", address),
    ("listener", listener),
    ("value", value),
    ("access", access_list),
    ("allowed_command", allowed_command),
    ("environment", environment),
    ("request_line", request_line),
    ("gossip", gossip),
    ("echod_options", echod_options),
    ("config_file", config_file),
    ("echoc_options", echoc_options),
    ("echoload_options", echoload_options),
];

/// One line, with something in it.
fn is_one_line(error: &Error) {
    let said = error.to_string();
    assert!(!said.trim().is_empty());
    assert!(!said.contains('\n'), "two lines: {said:?}");
}

/// What is text at all: every other input is one for [`echod_options`].
fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// Parses, with one line if it cannot.
fn parsed<T>(result: Result<T, Error>) -> Option<T> {
    result.inspect_err(is_one_line).ok()
}

fn address(bytes: &[u8]) {
    let text = text(bytes);
    if let Some(addr) = parsed(text.parse::<Addr>()) {
        let again = Addr::from_str(&addr.to_string()).expect("its own form is read again");
        assert_eq!(again, addr);
    }
    let _ = parsed(text.parse::<Target>());
}

fn listener(bytes: &[u8]) {
    if let Some(spec) = parsed(text(bytes).parse::<ListenSpec>()) {
        let again = ListenSpec::from_str(&spec.to_string()).expect("its own form is read again");
        assert_eq!(again, spec);
    }
}

fn value(bytes: &[u8]) {
    let text = text(bytes);
    let span = parsed(values::duration(&text));
    let limit = parsed(values::limit(&text));
    if let (Some(span), Some(limit)) = (span, limit) {
        assert_eq!(limit.unwrap_or_default(), span);
    }
    match parsed(values::rate(&text)) {
        Some(Some(rate)) => assert!(rate.count > 0 && rate.per > Duration::ZERO),
        Some(None) => assert_eq!(text, "off"),
        None => {}
    }
    if let Some(Some(ports)) = parsed(values::ports(&text)) {
        assert!(ports.0.iter().all(|(first, last)| first <= last));
    }
}

fn access_list(bytes: &[u8]) {
    let text = text(bytes);
    if let Some(Some(limit)) = parsed(access::per_source(&text)) {
        assert!(limit.most > 0 && limit.v4 <= 32 && limit.v6 <= 128);
    }
    if let Some(net) = parsed(access::network(&text)) {
        assert_eq!(net, net.trunc());
        assert_eq!(access::network(&net.to_string()).as_ref(), Ok(&net));
    }
    if let Some(who) = parsed(access::who(&text)) {
        assert_eq!(access::who(&who.to_string()).as_ref(), Ok(&who));
    }
}

fn allowed_command(bytes: &[u8]) {
    if let Some(allowed) = parsed(text(bytes).parse::<Allowed>()) {
        assert!(allowed.program.as_bytes().starts_with(b"/"));
        assert_eq!(allowed.argv.first(), Some(&allowed.program));
    }
}

/// LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES, then the watchdog's, each after a
/// NUL; an empty one is not set.
fn environment(bytes: &[u8]) {
    const OWN: u32 = 7;
    let mut words = bytes.split(|&b| b == 0);
    let mut next = || {
        let word = words.next().filter(|word| !word.is_empty())?;
        Some(OsStr::from_bytes(word).to_owned())
    };
    let (pid, fds, names) = (next(), next(), next());
    if let Some(Wanted::Sockets(count, names)) = parsed(wanted(pid, fds, names, OWN)) {
        assert!(count > 0);
        assert!(names.is_none_or(|names| names.len() == count as usize));
    }
    if let Some(Some(every)) = parsed(watchdog(next(), next(), OWN)) {
        assert!(every > Duration::ZERO);
    }
}

/// The first byte is how much is read at a time, the rest what a client sends.
fn request_line(bytes: &[u8]) {
    let Some((&chunk, sent)) = bytes.split_first() else {
        return;
    };
    let commands = ["date=/bin/date", "dat=/bin/x"].map(|c| c.parse().expect("a command"));
    let service = Command::new(commands.into());
    // Said once more, plainly: up to the first line's end, a CR before that aside.
    let line = sent.split(|&b| b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let number = match line {
        b"date" => Some(0),
        b"dat" => Some(1),
        _ => None,
    };
    assert_eq!(service.named_in(sent).ok(), number);

    let pair = || UnixStream::pair().expect("a pair of sockets");
    let ((mut client, conn), (mut helper, child)) = (pair(), pair());
    // All of it fits: neither end has to wait for the other.
    let sent = &sent[..sent.len().min(16 << 10)];
    client.write_all(sent).expect("sent");
    client.shutdown(Shutdown::Write).expect("ended");
    helper.shutdown(Shutdown::Write).expect("no output");
    let (received, answered) = (AtomicU64::new(0), AtomicU64::new(0));
    let meter = Meter {
        received: &received,
        sent: &answered,
    };
    let mut buffer = vec![0; usize::from(chunk) + 1];
    let mut served = Connection::new(&conn, meter, None);
    service.serve(&mut served, Some(child.as_fd()), &mut buffer);
    drop((conn, child));
    let (mut asked, mut reply) = (Vec::new(), Vec::new());
    // Either may be told of bytes that nobody wanted (ECONNRESET, unix(7)).
    let _ = helper.read_to_end(&mut asked);
    let _ = client.read_to_end(&mut reply);
    assert_eq!(asked, number.map(|n| vec![n]).unwrap_or_default());
    let told = reply.starts_with(b"unknown command; allowed: ");
    assert_eq!(told, number.is_none() && !sent.is_empty());
}

/// What a child that was taken over may tell of its client.
fn gossip(bytes: &[u8]) {
    let mut note = [0; 24];
    let len = bytes.len().min(note.len());
    note[..len].copy_from_slice(&bytes[..len]);
    let (peer, listener) = read_note(note);
    let _ = peer.to_string();
    assert_eq!(read_note(write_note(peer, listener)), (peer, listener));
}

/// NUL separated words: no other byte is never in a command line.
fn words(program: &str, bytes: &[u8]) -> Vec<OsString> {
    let typed = bytes.split(|&b| b == 0).map(|word| word.to_vec());
    let typed = typed.map(OsString::from_vec);
    std::iter::once(program.into()).chain(typed).collect()
}

fn echod_options(bytes: &[u8]) {
    if let Err(Refused::Wrong(errors)) = daemon::parse(words("echod", bytes)) {
        errors.iter().for_each(is_one_line);
    }
}

fn config_file(bytes: &[u8]) {
    if let Err(errors) = daemon::layers::check_text(&text(bytes)) {
        assert!(!errors.is_empty());
        errors.iter().for_each(is_one_line);
    }
}

fn echoc_options(bytes: &[u8]) {
    let words = words("echoc", bytes);
    let words: Vec<String> = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if let Err(Err(error)) = echoc::parse(&words, bytes.first() == Some(&0)) {
        is_one_line(&error);
    }
}

fn echoload_options(bytes: &[u8]) {
    if let Err(Err(error)) = echoload::parse(words("echoload", bytes)) {
        is_one_line(&error);
    }
}
