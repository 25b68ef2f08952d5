//! The connection line of the log, taken apart.

/// `conn pid=1240 peer=… listener=… in=5 out=5 dur=0.8ms end=eof`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnLine {
    pub pid: i32,
    pub peer: String,
    pub listener: String,
    /// Bytes received from the client.
    pub received: u64,
    /// Bytes sent to the client.
    pub sent: u64,
    pub dur: String,
    pub end: String,
}

impl ConnLine {
    /// The connection line in one line of a text log, if it is one.
    pub fn parse(line: &str) -> Option<ConnLine> {
        let fields = &line[line.find("conn pid=")?..];
        let value = |key: &str| {
            let mut words = fields.split_whitespace();
            words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        };
        Some(ConnLine {
            pid: value("pid")?.parse().ok()?,
            peer: value("peer")?.to_owned(),
            listener: value("listener")?.to_owned(),
            received: value("in")?.parse().ok()?,
            sent: value("out")?.parse().ok()?,
            dur: value("dur")?.to_owned(),
            end: value("end")?.to_owned(),
        })
    }

    /// Every connection line of a text log.
    pub fn all(log: &str) -> Vec<ConnLine> {
        log.lines().filter_map(ConnLine::parse).collect()
    }
}
