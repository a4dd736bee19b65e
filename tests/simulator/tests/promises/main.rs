//! The simulator against GitHub's published description, and against what it promises by itself.
//!
//! One binary, with a file for each promise. [`play`] is the fixture: each answer that a test gets through it is held
//! against the description first.

mod agreement;
mod assignment;
mod cloud;
mod command;
mod faults;
mod outside;
mod play;
mod refusals;
mod webhooks;
