//! What this project grew from: the programs of tutorials, each as a line of
//! echod-models(7) that must run, and one test for each way in which the
//! tutorials' own versions go wrong. The lessons are run here too.
//!
//! A pitfall's test says in its comment what the tutorial's code does there.

pub mod client;
pub mod command;
pub mod datagram;
pub mod lesson;
pub mod lines;

pub mod server;

pub mod stream;
