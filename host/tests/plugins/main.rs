//! The wall against components that try it. The limits on handles, tables, instances and memories of one component, on
//! the lines of a log and on stores at once lie behind others that are reached first; they are not tried here.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up fails where it stands")]

mod calls;
mod commands;
mod compiling;
mod credentials;
mod limits;
mod loading;
mod moto;
mod network;
mod reloading;
mod secrets;
mod support;
