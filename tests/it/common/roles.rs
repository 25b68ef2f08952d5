//! Which of a daemon's processes does what: by the names they give themselves
//! and by the sockets they hold.

use super::client::tcp_addr;
use super::proc::{self, Stat};
use super::{Client, DEADLINE, Daemon, poll_some};

impl Daemon {
    /// The process named echod whose parent is not one of echod's.
    pub(super) fn supervisor(&self) -> Option<i32> {
        let members = self.members();
        let echod = |p: &&Stat| p.comm.starts_with("echod");
        let root = members.iter().filter(echod).find(|p| {
            let parent = members.iter().find(|parent| parent.pid == p.ppid);
            parent.is_none_or(|parent| !parent.comm.starts_with("echod"))
        });
        root.map(|p| p.pid)
    }

    /// The live processes with this role's name (`echod-idle`, `echod-conn`),
    /// sorted.
    pub fn role(&self, comm: &str) -> Vec<i32> {
        let members = self.members().into_iter();
        let mut pids: Vec<i32> = members.filter(|p| p.comm == comm).map(|p| p.pid).collect();
        pids.sort_unstable();
        pids
    }

    /// Connects, has one echo, and finds the process that serves: by the
    /// socket's inode where /proc/PID/fd may be read, else as the one process
    /// newly named `echod-conn` (so no other client may come meanwhile).
    #[track_caller]
    pub fn connect_served(&self) -> (Client, i32) {
        let before = self.role("echod-conn");
        let mut client = Client::connect(self.addr());
        client.ping(b"?");
        let pid = poll_some(DEADLINE, "the serving process", || {
            self.serving_pid_for(&client).or_else(|| {
                let mut now = self.role("echod-conn");
                now.retain(|pid| !before.contains(pid));
                // With threads, the one process that serves everybody.
                now.extend(self.role("echod-thread"));
                (now.len() == 1).then(|| now[0])
            })
        });
        (client, pid)
    }

    /// The one process, not the supervisor, that holds this TCP connection.
    pub fn serving_pid_for(&self, client: &Client) -> Option<i32> {
        let server = tcp_addr(self.addr()).port();
        let inode = proc::socket_inode(self.pid(), server, client.local_port())?;
        let socket = format!("socket:[{inode}]");
        let holds = |pid: i32| {
            let fds = proc::fd_targets(pid).unwrap_or_default();
            fds.iter().any(|(_, target)| *target == socket)
        };
        let members = self.members().into_iter().map(|p| p.pid);
        let holders: Vec<i32> = members.filter(|&pid| holds(pid)).collect();
        (holders.len() == 1 && holders[0] != self.pid()).then(|| holders[0])
    }
}
