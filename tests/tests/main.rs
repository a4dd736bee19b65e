//! Stories about pacer as operators, workflow authors and GitHub live them, told against the real binary.
//!
//! One program for all of them, so that it is linked once.

mod bootstrap;
mod closed_door;
mod command_line;
mod containers;
mod crashes;
mod credentials;
mod exchanges;
mod looks;
mod machine_ends;
mod machines;
mod main_job;
mod recovery;
mod refusals;
mod secrets;
mod start_script;
mod virtual_machines;
mod webhook;
