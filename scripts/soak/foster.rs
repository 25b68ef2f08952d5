//! Double-forked children as children of ours: they are nobody's once their parent
//! has left, and init may be far away, or not reap at all in a container. While a
//! [`Foster`] lives they become the soak's (PR_SET_CHILD_SUBREAPER, prctl(2)), so
//! that they can be found in time, and it reaps them.

use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;

use crate::common::{Daemon, proc};
use crate::watch::children;

/// See the module.
#[derive(Debug)]
pub struct Foster {
    daemon: i32,
    group: i32,
    /// Ends with the daemon.
    _reaper: JoinHandle<()>,
}

impl Foster {
    /// Takes in what this daemon double-forks from now on.
    pub fn of(daemon: &Daemon) -> Foster {
        set_child_subreaper(true).expect("PR_SET_CHILD_SUBREAPER");
        let (daemon, group) = (daemon.pid(), daemon.group());
        Foster {
            daemon,
            group,
            _reaper: thread::spawn(move || reap(daemon, group)),
        }
    }

    /// Those that live now.
    pub fn children(&self) -> Vec<i32> {
        let ours = children(std::process::id().cast_signed()).into_iter();
        let its = |p: &proc::Stat| p.pgrp == self.group && p.pid != self.daemon && p.state != 'Z';
        let its = ours.filter_map(proc::stat).filter(its);
        its.map(|p| p.pid).collect()
    }
}

impl Drop for Foster {
    fn drop(&mut self) {
        let _ = set_child_subreaper(false);
    }
}

/// Reaps whoever of the group dies, but for the daemon, whose end is for others to
/// see: it is looked at first, and left alone.
fn reap(daemon: i32, group: i32) {
    loop {
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        match waitid(Id::PGid(Pid::from_raw(group)), look) {
            Ok(status) if status.pid() == Some(Pid::from_raw(daemon)) => return,
            Ok(status) => {
                let _ = waitpid(status.pid(), None);
            }
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}
