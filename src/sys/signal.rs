//! Signals: blocked for life, and read from a descriptor.
//!
//! The supervisor reads what it takes orders by from a signalfd(2) beside its
//! other descriptors. So none is lost between a look and the wait, and it has no
//! handler that a child could inherit. All the others that end a process it
//! blocks as well, for its children: a worker obeys no signal that somebody can
//! send to a whole process group, and is deaf from the moment it is born.
//!
//! Not opened inside ppoll(2): that answers with a descriptor that is ready
//! before it lets a signal in, so under steady load none would ever come, the
//! dead would be reaped seldom and TERM heard late. And a handler's frame (2.7
//! KiB where the processor has AVX-512) dirtied a page of the stack that the next
//! fork had to copy again.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libc::c_int;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::sys::termios::tcgetattr;
use nix::unistd::{Pid, getpgid, getpgrp};

use crate::sys::raw;

/// What the supervisor takes orders by, most urgent stop first.
pub const ORDERS: [Signal; 9] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCHLD,
];

/// What a worker never hears: whatever may be sent to all of a terminal's, a
/// manager's or a script's processes, and is meant for the supervisor. Beside KILL
/// and STOP, which nobody can block, there is left what a fault raises, which
/// blocked would end it all the same, and CONT.
const DEAF: u64 = !(bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGFPE)
    | bit(libc::SIGILL)
    | bit(libc::SIGTRAP)
    | bit(libc::SIGABRT)
    | bit(libc::SIGSYS)
    | bit(libc::SIGCONT));

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// What the supervisor hears.
pub struct Signals {
    fd: SignalFd,
    /// Signal n, heard and not yet taken, is bit n - 1.
    heard: u64,
    /// Who sent the last TERM.
    term_sender: Pid,
}

/// Bytes of a signalfd_siginfo.
const SIGINFO: usize = 128;

impl Signals {
    /// Blocks what workers do not hear, which is more than the [`ORDERS`], and
    /// opens a descriptor to hear these by. From here on a TERM is an orderly stop.
    /// Ctrl-Z stops the supervisor as it does any program.
    ///
    /// # Errors
    /// signalfd(2)'s.
    pub fn install() -> Result<Self, Errno> {
        let orders: SigSet = ORDERS.into_iter().collect();
        raw::set_mask(DEAF & !bit(libc::SIGTSTP));
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Signals {
            fd: SignalFd::with_flags(&orders, flags)?,
            heard: 0,
            term_sender: Pid::from_raw(0),
        })
    }

    /// Readable when a signal has come.
    pub fn wakeup(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Notes what has come.
    pub fn hear(&mut self) {
        let mut news = [0; 2 * SIGINFO];
        while let Ok(n) = raw::read(self.fd.as_fd(), &mut news) {
            for info in news[..n].chunks_exact(SIGINFO) {
                let word = |at: usize| {
                    i32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]])
                };
                let (number, sender) = (word(0), word(12)); // ssi_signo, ssi_pid
                self.heard |= bit(number);
                if number == libc::SIGTERM {
                    self.term_sender = Pid::from_raw(sender);
                }
            }
            if n < news.len() {
                return;
            }
        }
    }

    /// Was `signal` heard since this was last asked?
    pub fn take(&mut self, signal: Signal) -> bool {
        let taken = self.heard & bit(signal as i32);
        self.heard ^= taken;
        taken != 0
    }

    /// Was the TERM that was heard last sent by a process of our own group, such as
    /// timeout(1)?
    pub fn is_term_from_our_group(&self) -> bool {
        let sender = self.term_sender;
        sender.as_raw() > 0 && getpgid(Some(sender)) == Ok(getpgrp())
    }
}

/// Asks the kernel to reap children itself. SIGCHLD still comes (Linux), and
/// waitpid(2) answers ECHILD for a child that is gone.
///
/// # Errors
/// sigaction(2)'s.
pub fn let_kernel_reap() -> Result<(), Errno> {
    // SAFETY: an all-zero sigaction is a valid value for the kernel to fill.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action only reads the present one into `action`.
    Errno::result(unsafe { libc::sigaction(libc::SIGCHLD, std::ptr::null(), &mut action) })?;
    action.sa_flags |= libc::SA_NOCLDWAIT;
    // SAFETY: `action` is the disposition of now, which runs no code of ours, with
    // one more flag.
    Errno::result(unsafe { libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()) })?;
    Ok(())
}

/// Has whoever started us had this signal ignored?
pub fn is_ignored(signal: Signal) -> bool {
    // SAFETY: an all-zero sigaction is a valid value for the kernel to fill.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null new action only reads the present one into `action`.
    let read = unsafe { libc::sigaction(signal as libc::c_int, std::ptr::null(), &mut action) };
    read == 0 && action.sa_sigaction == libc::SIG_IGN
}

/// In a process that starts another and will not wait for it: the kernel reaps
/// it, at once. A child that is to wait for children of its own undoes this.
///
/// # Errors
/// sigaction(2)'s.
pub fn let_kernel_discard_children() -> Result<(), Errno> {
    // SAFETY: all zeroes is a sigaction with no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = libc::SIG_IGN;
    // SAFETY: `action` runs no code; the old one is not asked for.
    Errno::result(unsafe { libc::sigaction(libc::SIGCHLD, &action, std::ptr::null_mut()) })?;
    Ok(())
}

/// The child arm's first act: a worker hears no order. What it does hear is at
/// its default, since the supervisor has no handlers.
pub fn become_worker() {
    raw::set_mask(DEAF);
}

/// What runs when a signal comes: its number, and who sent it.
type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// In a worker, which is deaf: opens `signal`, for `handler`. A call that it
/// interrupts is restarted where it can be.
///
/// # Errors
/// sigaction(2)'s.
///
/// # Safety
/// `handler` must do nothing but what signal-safety(7) allows, and leave errno as
/// it found it.
pub unsafe fn handle(signal: Signal, handler: Handler) -> Result<(), Errno> {
    // SAFETY: all zeroes is a sigaction with no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: a handler of the kind that SA_SIGINFO asks for, as safe as the
    // caller promises; the old action is not asked for.
    Errno::result(unsafe {
        libc::sigaction(signal as libc::c_int, &action, std::ptr::null_mut())
    })?;
    SigSet::from(signal).thread_unblock()
}

/// In a worker: when the time of [`alarm`] is up it leaves with this status. An
/// ALRM that a process sends is not the kernel's timer, and says so: see
/// si_code in sigaction(2).
///
/// # Errors
/// sigaction(2)'s.
pub fn leave_at_alarm<const STATUS: i32>() -> Result<(), Errno> {
    extern "C" fn expired<const STATUS: i32>(
        _: libc::c_int,
        info: *mut libc::siginfo_t,
        _: *mut libc::c_void,
    ) {
        // SAFETY: the kernel passes a siginfo to a handler with SA_SIGINFO.
        if unsafe { (*info).si_code } == libc::SI_KERNEL {
            raw::exit(STATUS);
        }
    }
    // SAFETY: it reads what it is given and makes at most one system call, which
    // does not return.
    unsafe { handle(Signal::SIGALRM, expired::<STATUS>) }
}

/// The timers that execve(2) keeps, each with its signal. (Those of
/// timer_create(2) it does not.)
const TIMERS: [(libc::c_int, Signal); 3] = [
    (libc::ITIMER_REAL as libc::c_int, Signal::SIGALRM),
    (libc::ITIMER_VIRTUAL as libc::c_int, Signal::SIGVTALRM),
    (libc::ITIMER_PROF as libc::c_int, Signal::SIGPROF),
];

/// At start: ends the timers that whoever started us has armed, and leaves their
/// signals ignored. That forgets one that has come and waits behind a mask.
pub fn disarm_inherited() {
    for (timer, signal) in TIMERS {
        // SAFETY: all zeroes is a time, of none, which disarms.
        let never: libc::itimerval = unsafe { std::mem::zeroed() };
        // SAFETY: `never` lives across the call; a null old value is allowed. The
        // type of `timer` is not the same with every C library.
        unsafe { libc::setitimer(timer as _, &never, std::ptr::null_mut()) };
        // SAFETY: it runs no code of ours.
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) };
    }
}

/// From one ALRM to the next, when the time is up: a process that sends them
/// while this one is stopped would have the timer's merged with its own.
const AGAIN: i32 = 1;

/// Arms the timer of [`leave_at_alarm`] (`setitimer(2)`; not inherited by fork).
/// Zero disarms it.
pub fn alarm(after: std::time::Duration) {
    let value = libc::itimerval {
        it_interval: libc::timeval {
            tv_sec: AGAIN.into(),
            tv_usec: 0,
        },
        it_value: libc::timeval {
            tv_sec: after.as_secs().try_into().unwrap_or(i32::MAX.into()),
            // Less than one of what it counts in must not disarm it.
            tv_usec: match (after.as_secs(), after.subsec_micros()) {
                (0, 0) => (!after.is_zero()).into(),
                (_, micros) => micros.into(),
            },
        },
    };
    // SAFETY: `value` lives across the call; a null old value is allowed.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &value, std::ptr::null_mut()) };
}

// Signal dispositions, all at once: what a program resets when it starts,
// and a forked child before it unblocks a signal.
//
// Rust's runtime installs SIGSEGV and SIGBUS handlers to report a stack
// overflow; they go too, so that a child dies of those signals by name. What
// a signal means to echod is not known here.

/// Every signal at its default, whoever changed it; SIGPIPE is ignored, so
/// that a client that left is an EPIPE, and SIGXFSZ, so that a file that may not
/// grow (RLIMIT_FSIZE) is an EFBIG.
pub fn reset_all() {
    for signal in 1..=libc::SIGRTMAX() {
        match signal {
            libc::SIGKILL | libc::SIGSTOP => {}
            libc::SIGPIPE | libc::SIGXFSZ => set(signal, libc::SIG_IGN),
            _ => set(signal, libc::SIG_DFL),
        }
    }
}

/// Every signal at its default, SIGPIPE too: what a program that is not ours may
/// expect. To be called before execve(2), which resets handlers and leaves what
/// is ignored ignored. Also of 32 and 33, by a call of our own: whoever started
/// us may have left them ignored.
pub fn default_all() {
    for signal in 1..=libc::SIGRTMAX() {
        raw::default_signal(signal);
    }
}

/// 32 and 33 belong to glibc (thread cancellation, setuid of all threads), which
/// answers EINVAL: left alone.
fn set(signal: c_int, handler: libc::sighandler_t) {
    // SAFETY: all zeroes is a sigaction with no flags and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    // SAFETY: the new action is a valid one that runs no code of ours, the
    // old one is not asked for.
    let done = unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    debug_assert!(
        done == 0 || Errno::last() == Errno::EINVAL,
        "signal {signal}"
    );
}

// The terminal of a program in the foreground: is it still there?
//
// Its end comes as SIGHUP, from the kernel to its session's leader and to the
// foreground, and from a shell to its jobs by kill(2): nothing in the signal
// tells it from one that somebody sends for another reason. So the terminal is
// asked. A descriptor of it, opened before, has POLLHUP for ever once it is gone;
// opened afterwards it would only be none.

/// Whose end ends the program.
pub struct Terminal(OwnedFd);

impl Terminal {
    /// The controlling terminal; of a program without one, what its standard
    /// input, output or error is.
    pub fn find() -> Option<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let controlling = open("/dev/tty", flags, Mode::empty()).ok();
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let standard = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let standard = || standard.into_iter().find(IsTerminal::is_terminal);
        controlling
            .or_else(|| standard()?.try_clone_to_owned().ok())
            .map(Terminal)
    }

    /// Has it hung up, or was it closed?
    pub fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        let polled = poll(&mut fds, PollTimeout::ZERO).is_ok();
        let hung_up = |events: PollFlags| events.contains(PollFlags::POLLHUP);
        polled && fds[0].revents().is_some_and(hung_up) || tcgetattr(&self.0) == Err(Errno::EIO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd::Wait;

    /// In a forked child, because masks and handlers belong to the process.
    #[test]
    fn a_signal_is_heard_once_and_by_a_worker_not_at_all() {
        let pid = crate::sys::process::fork(|| {
            let Ok(mut signals) = Signals::install() else {
                return 1;
            };
            for signal in ORDERS {
                let _ = nix::sys::signal::raise(signal);
            }
            if signals.take(Signal::SIGTERM) {
                return 2; // not heard yet
            }
            signals.hear();
            // Also those that do nothing, or stop a process, by default.
            if !ORDERS.into_iter().all(|signal| signals.take(signal)) {
                return 3;
            }
            signals.hear();
            if ORDERS.into_iter().any(|signal| signals.take(signal)) {
                return 4;
            }
            // A descriptor that is always ready does not keep it from being heard.
            let (Ok(mut wait), Ok((read, write))) = (Wait::new(2), nix::unistd::pipe()) else {
                return 5;
            };
            let _ = nix::unistd::write(&write, b"x");
            let _ = nix::sys::signal::raise(Signal::SIGTERM);
            wait.add(Some(read.as_fd()));
            wait.add(Some(signals.wakeup()));
            if !wait.sleep(None) || !wait.came(0) || !wait.came(1) {
                return 6;
            }
            signals.hear();
            become_worker();
            for signal in Signal::iterator() {
                if bit(signal as i32) & DEAF & !bit(libc::SIGKILL) & !bit(libc::SIGSTOP) != 0 {
                    let _ = nix::sys::signal::raise(signal);
                }
            }
            // The kernel's timer, and nobody else's.
            if leave_at_alarm::<7>().is_err() {
                return 8;
            }
            let _ = nix::sys::signal::raise(Signal::SIGALRM);
            alarm(std::time::Duration::from_millis(1));
            loop {
                nix::unistd::pause();
            }
        })
        .unwrap();
        let status = nix::sys::wait::waitpid(pid, None).unwrap();
        assert_eq!(status, nix::sys::wait::WaitStatus::Exited(pid, 7));
    }

    #[test]
    fn it_is_gone_when_its_other_end_is_closed() {
        let pair = nix::pty::openpty(None, None).unwrap();
        let terminal = Terminal(pair.slave);
        assert!(!terminal.is_gone());
        drop(pair.master);
        assert!(terminal.is_gone());
    }
}
