//! What this project grew from: the programs of tutorials, each as a line of
//! echod-models(7) that must run, and one test for each way in which the
//! tutorials' own versions go wrong. The lessons are run here too.
//!
//! A pitfall's test says in its comment what the tutorial's code does there.

mod common;

#[path = "tutorial/client.rs"]
mod client;
#[path = "tutorial/command.rs"]
mod command;
#[path = "tutorial/datagram.rs"]
mod datagram;
#[path = "tutorial/lesson.rs"]
mod lesson;
#[path = "tutorial/lines.rs"]
mod lines;
#[allow(dead_code)]
#[path = "client/run.rs"]
mod run;
#[path = "tutorial/server.rs"]
mod server;
#[allow(dead_code)]
#[path = "client/servers.rs"]
mod servers;
#[path = "tutorial/stream.rs"]
mod stream;
