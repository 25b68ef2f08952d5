//! The one place with `unsafe`: what nix does not wrap, each call with the
//! fact it rests on.
//!
//! Nothing here decides anything; it knows no client, no pool and no log.

#![allow(unsafe_code)]

pub mod fd;
pub mod lock;
pub mod memory;
pub mod mmsg;
pub mod process;
pub mod raw;
pub mod sandbox;
pub mod signal;
pub mod sockopt;
pub mod startup;
