//! Paths as they were typed, made to mean the same from everywhere.
//!
//! A relative path counts from where echod was started. A daemon works in `/`,
//! so whoever detaches does this first. Opens nothing and does not ask whether
//! anything is there.

use std::path::{Path, PathBuf};

use crate::addr::{Addr, UnixPath};
use crate::config::{Config, LogTarget};
use crate::error::{Error, Result};

/// Makes every path of the configuration absolute: pidfile, log, chroot and
/// Unix sockets.
///
/// # Errors
/// 64 for a path that is empty, or a working directory that is gone.
pub fn anchor(config: &mut Config) -> Result<()> {
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
    use super::*;
    use crate::cli::echod::parse;

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
