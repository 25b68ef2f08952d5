//! What whoever started us gave us beside the command line: descriptors, the words of a
//! service manager, and a process in whatever state.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use crate::addr::{Addr, UnixPath};
use crate::config::{Config, LogTarget};
use crate::daemon::start::activation::Activation;
use crate::daemon::start::detach::ReadyFd;
use crate::daemon::supervisor::notify::Asked;
use crate::error::{Error, Result};
use crate::net::Handed;
use crate::sys::signal::Terminal;
use crate::sys::{fd, signal};

/// What whoever started us gave us, beside the command line.
pub(crate) struct Inherited {
    /// Whom to tell that we serve.
    pub(crate) ready_fd: Option<ReadyFd>,
    /// Open sockets to serve at.
    pub(crate) sockets: Vec<Handed>,
    /// What a service manager asked to be told.
    pub(crate) manager: Asked,
    /// The terminal, in the foreground, unless we are to outlive it.
    pub(crate) terminal: Option<Terminal>,
    /// What is odd about any of that, for the log.
    pub(crate) notices: Vec<String>,
}

/// Makes the process what we take it to be, whoever started it, and of what it
/// inherited keeps what is meant for it.
///
/// # Errors
/// A descriptor that was named is not there, or means two things.
pub(crate) fn inherit(
    config: &mut Config,
    activation: Activation,
    manager: Asked,
) -> Result<Inherited> {
    anchor(config)?;
    let sockets = match config.inetd {
        // The connection is descriptor 0, and all there is. These are closed now:
        // what comes next closes them by number.
        true => {
            drop(activation.sockets);
            Vec::new()
        }
        false => activation.sockets?,
    };
    let mut keep: Vec<_> = sockets.iter().map(Handed::number).collect();
    if let Some(number) = config.ready_fd {
        let refuse = |why| Err(Error::usage(format!("--ready-fd {number}"), why));
        if keep.contains(&number) {
            return refuse("this is a socket of LISTEN_FDS; name another descriptor");
        }
        if !fd::is_open(number) {
            return refuse("descriptor is not open");
        }
        if !fd::is_writable(number) {
            return refuse("descriptor is not open for writing");
        }
        keep.push(number);
    }
    let mut notices: Vec<_> = activation.notice.into_iter().collect();
    if config.print && fd::was_closed(1) {
        notices.push("--print: standard output is closed: nothing is copied".to_owned());
    }
    if let Some(number) = config.ready_fd.filter(|number| fd::was_closed(*number)) {
        notices.push(format!("--ready-fd {number}: it is closed: nobody is told"));
    }
    // As by nohup(1).
    let stays = signal::is_ignored(Signal::SIGHUP);
    sanitize(&keep)?;
    let foreground = !config.daemon && !config.inetd && !stays;
    Ok(Inherited {
        terminal: foreground.then(Terminal::find).flatten(),
        ready_fd: config.ready_fd.map(ReadyFd::adopt).transpose()?,
        sockets,
        manager,
        notices,
    })
}

/// Opens 0 to 2 on /dev/null where they are closed, closes every other
/// descriptor but those in `keep` (what the command line names by number),
/// disarms the timers of setitimer(2) and alarm(2), sets every signal to its
/// default (SIGPIPE stays ignored, and SIGXFSZ is) and empties the signal mask.
///
/// To be called once, before the program opens anything. Reading the command
/// line opens nothing, so it may come first.
///
/// # Errors
/// 71 when nothing can be opened in place of a closed one, or the mask cannot be
/// set.
fn sanitize(keep: &[RawFd]) -> Result<()> {
    fd::fill_standard()?;
    fd::close_all_but(keep);
    signal::disarm_inherited();
    signal::reset_all();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(|errno| Error::os("sigprocmask", "", errno))
}

/// Makes every path of the configuration absolute: pidfile, log, chroot and
/// Unix sockets. A relative path counts from where echod was started, and a daemon works
/// in `/`. Opens nothing and does not ask whether anything is there.
///
/// # Errors
/// 64 for a path that is empty, or a working directory that is gone.
fn anchor(config: &mut Config) -> Result<()> {
    if let Some(path) = &mut config.pidfile {
        *path = absolute("--pidfile ", path)?;
    }
    if let LogTarget::File(path) = &mut config.log.target {
        *path = absolute("--log-target ", path)?;
    }
    if let Some(path) = &mut config.identity.chroot {
        *path = absolute("--chroot ", path)?;
    }
    for spec in config.listen.iter_mut().skip(config.handed) {
        if let Addr::Unix(UnixPath::Path(path)) | Addr::UnixGram(UnixPath::Path(path)) =
            &mut spec.addr
        {
            *path = absolute("unix:", path)?;
        }
    }
    Ok(())
}

/// `what` is how the path's option begins in a message.
fn absolute(what: &str, path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::usage(format!("{what}{}", path.display()), e))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::cli::echod::parse;
    use crate::rerun;

    /// Runs as the process of its own that the next test starts.
    #[test]
    fn sanitize_role() {
        if rerun::role().is_none() {
            return;
        }
        let kept = fs::File::open("/dev/zero").expect("open").as_raw_fd();
        // The File is closed: its number is free, and is what we take next.
        let kept_file = std::mem::ManuallyDrop::new(fs::File::open("/dev/zero").expect("open"));
        assert_eq!(kept_file.as_raw_fd(), kept);
        for _ in 0..3 {
            std::mem::forget(fs::File::open("/dev/zero").expect("open"));
        }
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTERM);
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None).expect("mask");
        sanitize(&[kept]).expect("sanitize");
        let mut open: Vec<i32> = (0..64).filter(|&n| fd::is_open(n)).collect();
        open.retain(|&n| n != kept);
        rerun::say(format!("open={open:?}"));
        rerun::say(format!("kept={}", fd::is_open(kept)));
        let status = fs::read_to_string("/proc/thread-self/status").expect("status");
        for key in ["SigBlk:", "SigIgn:", "SigCgt:"] {
            let line = status.lines().find(|l| l.starts_with(key)).expect(key);
            let mask = u64::from_str_radix(line[key.len()..].trim(), 16).expect("a mask");
            // 32 and 33 are glibc's own: it neither uses them in a program
            // without threads nor lets us reset them.
            rerun::say(format!("{key} {:x}", mask & !(0b11 << 31)));
        }
    }

    #[test]
    fn row_22_a_program_starts_from_a_known_state() {
        let mut child = rerun::start("daemon::start::inherited::tests::sanitize_role", "go");
        let said: Vec<_> = (0..5).map(|_| child.hear()).collect();
        // SIGPIPE is 13, so bit 12; SIGXFSZ is 25.
        assert_eq!(
            said,
            [
                "open=[0, 1, 2]",
                "kept=true",
                "SigBlk: 0",
                "SigIgn: 1001000",
                "SigCgt: 0",
            ]
        );
        child.end();
    }

    fn parsed(line: &str) -> Config {
        let argv = std::iter::once("echod")
            .chain(line.split(' '))
            .map(Into::into);
        parse(argv).expect("a command line")
    }

    #[test]
    fn a_relative_path_counts_from_here() {
        let here = std::env::current_dir().expect("a directory");
        let typed = "--pidfile p --log-target ./l --chroot c -l unix:s -l unix:@s -l unix:/s";
        let mut config = parsed(typed);
        anchor(&mut config).expect("paths");
        assert_eq!(config.pidfile, Some(here.join("p")));
        assert_eq!(config.log.target, LogTarget::File(here.join("l")));
        assert_eq!(config.identity.chroot, Some(here.join("c")));
        let addrs: Vec<_> = config.listen.iter().map(|s| s.addr.to_string()).collect();
        let own = format!("unix:{}", here.join("s").display());
        assert_eq!(addrs, [&own, "unix:@s", "unix:/s"]);
    }
}
