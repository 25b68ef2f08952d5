//! A command that clients may ask for, as the operator typed it:
//! `NAME=/abs/path[,fixed,args...]`.
//!
//! Parsing touches no file: whether the program is there is found out at start,
//! under the identity and the root directory it will be run with. Everything a
//! command will ever see is fixed here; a client adds nothing to it.

use std::ffi::CString;
use std::str::FromStr;

use crate::addr::split_attrs;
use crate::error::{Error, Result};

/// The longest line a client can send, and so the longest name, in bytes.
pub const LONGEST_NAME: usize = 255;
/// A command's number travels in one byte.
pub const MOST: usize = 256;

/// One allowed command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// What a client sends to get it.
    pub name: String,
    /// The program, an absolute path.
    pub program: CString,
    /// Its arguments, argv\[0\] (the program's path) first.
    pub argv: Vec<CString>,
}

impl FromStr for Allowed {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::usage(text.escape_debug(), why);
        let (name, rest) = text
            .split_once('=')
            .ok_or_else(|| bad("expected NAME=/PATH[,ARG...]"))?;
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(bad("a name has 1 to 255 bytes"));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if !name.bytes().all(plain) {
            return Err(bad("a name is of letters, digits, '-', '_' and '.'"));
        }
        let (path, args) = split_attrs(rest);
        if !path.starts_with('/') {
            return Err(bad("the program is named by its absolute path"));
        }
        let string = |text: &str| CString::new(text).map_err(|_| bad("no NUL can be passed on"));
        let program = string(&path)?;
        let argv = std::iter::once(Ok(program.clone()))
            .chain(args.iter().map(|arg| string(arg)))
            .collect::<Result<_>>()?;
        Ok(Allowed {
            name: name.to_owned(),
            program,
            argv,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_a_program_and_what_it_is_given() {
        for (text, name, argv) in [
            ("date=/bin/date", "date", &["/bin/date"][..]),
            ("date=/bin/date,-u", "date", &["/bin/date", "-u"]),
            ("a.b-C_9=/x,", "a.b-C_9", &["/x", ""]),
            ("e=/bin/echo,a\\,b,c=d", "e", &["/bin/echo", "a,b", "c=d"]),
            ("e=/with\\,comma,\\n", "e", &["/with,comma", "\\n"]),
            ("e=/bin/echo,a b", "e", &["/bin/echo", "a b"]),
        ] {
            let allowed: Allowed = text.parse().expect(text);
            assert_eq!(allowed.name, name, "{text}");
            let given: Vec<_> = allowed.argv.iter().map(|a| a.to_str().unwrap()).collect();
            assert_eq!(given, argv, "{text}");
            assert_eq!(allowed.program, allowed.argv[0], "{text}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_one_line() {
        let long = format!("{}=/x", "n".repeat(256));
        for text in [
            "",
            "date",
            "=/bin/date",
            "date=",
            "date=bin/date",
            "date=,/bin/date",
            "a b=/x",
            "a;b=/x",
            "a\nb=/x",
            "ä=/x",
            "d=/bin/da\0te",
            "d=/x,\0",
            &long,
        ] {
            let error = text.parse::<Allowed>().expect_err(text);
            assert_eq!(error.status(), crate::error::Exit::Usage, "{text:?}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        assert!(format!("{}=/x", "n".repeat(255)).parse::<Allowed>().is_ok());
    }
}
