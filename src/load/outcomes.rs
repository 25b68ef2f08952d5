//! The file of `--outcomes`: a line for every unit that did not complete.
//!
//! Tab-separated: UNIX time in seconds with six decimals, kind, local address,
//! target, bytes sent, bytes received back.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use nix::errno::Errno;

use crate::error::{Error, Exit, Result};
use crate::load::fault::Outcome;
use crate::load::target::Target;

/// An open file of outcomes.
pub struct Outcomes {
    path: String,
    file: Mutex<BufWriter<File>>,
}

/// A unit that failed.
#[derive(Clone, Debug)]
pub struct Failure<'a> {
    /// How.
    pub outcome: Outcome,
    /// The client's address, or `-`.
    pub local: String,
    /// The server.
    pub target: &'a Target,
    /// Bytes sent on this unit.
    pub sent: u64,
    /// Bytes that came back.
    pub back: u64,
}

impl Outcomes {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// open(2)'s (73).
    pub fn create(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let file = File::create(path).map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            Error::os("create", &shown, errno).exit(Exit::CantCreate)
        })?;
        Ok(Outcomes {
            path: shown,
            file: Mutex::new(BufWriter::new(file)),
        })
    }

    /// Writes one line. What cannot be written shows in [`Outcomes::close`].
    pub fn write(&self, failure: &Failure) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let line = line(now.unwrap_or_default().as_secs_f64(), failure);
        let mut file = self.file.lock().expect("no thread panics with it");
        let _ = file.write_all(line.as_bytes());
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// write(2)'s (74).
    pub fn close(self) -> Result<()> {
        let mut file = self.file.into_inner().expect("no thread panics with it");
        file.flush().map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
            Error::os("write", &self.path, errno).exit(Exit::Io)
        })
    }
}

fn line(time: f64, failure: &Failure) -> String {
    let Failure {
        outcome,
        local,
        target,
        sent,
        back,
    } = failure;
    let kind = outcome.name();
    format!("{time:.6}\t{kind}\t{local}\t{target}\t{sent}\t{back}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_six_fields() {
        let target = "127.0.0.1:7".parse().unwrap();
        let failure = Failure {
            outcome: Outcome::Reset,
            local: "127.0.0.2:40000".to_owned(),
            target: &target,
            sent: 64,
            back: 10,
        };
        assert_eq!(
            line(1_700_000_000.25, &failure),
            "1700000000.250000\treset\t127.0.0.2:40000\ttcp:127.0.0.1:7\t64\t10\n"
        );
    }
}
