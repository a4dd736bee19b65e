//! The wall against components that try it: each guard has a test in which it is the only thing that holds.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails where it stands")]

mod calls;
mod commands;
mod compiling;
mod credentials;
mod limits;
mod loading;
mod moto;
mod network;
mod secrets;
mod support;
