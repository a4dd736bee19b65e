//! The binary: everything is in the library.

use std::process::ExitCode;

/// Many small allocations of many threads, and memory that goes back after a burst.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    pacer::cli::main()
}
