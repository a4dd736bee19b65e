//! What the black-box tests stand on: the real server as a process, its outside world, and ways to look at it.
//!
//! A test reads as a story: it sets up a [`world`], starts [`pacer::TestPacer`] against it, lets things happen, and
//! looks at what an operator or GitHub would see. Nothing here knows the inside of the server; it is reached over
//! HTTP, its command line and its files only. What a test starts ends with it, by process id.

pub mod api;
pub mod binaries;
pub mod browser;
pub mod daemon;
pub mod engine;
pub mod guard;
pub mod libvirt;
pub mod machine;
pub mod metrics;
pub mod pacer;
pub mod process;
pub mod raw;
pub mod secrets;
pub mod wait;
pub mod webhook;
pub mod world;
