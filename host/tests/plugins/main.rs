//! The wall against components that try it: each guard has a test in which it is the only thing that holds.

mod calls;
mod commands;
mod compiling;
mod limits;
mod loading;
mod network;
mod secrets;
mod support;
