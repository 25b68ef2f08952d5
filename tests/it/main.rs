//! The programs from outside: started, talked to, killed and looked at, as users,
//! operators and the kernel would. A folder or file for each part; `common` has
//! what they share, and in `common/design.rs` the list of the designs.

mod accept;
mod access;
mod bad_input;
mod bench;
mod client;
mod command;
mod common;
mod completions;
mod contained;
mod daemon;
mod echo;
mod examples;
mod explain;
mod faults;
mod inetd;
mod install;
mod limits;
mod load;
mod locks;
mod log;
mod man;
mod models;
mod print;
mod sandbox;
mod signals;
mod startup;
mod threads;
mod tutorial;
mod udp;
mod units;
