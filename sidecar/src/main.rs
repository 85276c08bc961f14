//! `livestore-sidecar`: see the library.

use std::process::ExitCode;

use clap::Parser;
use livestore_sidecar::Program;

/// A push allocates small pieces and frees them soon, often on another thread: with glibc that was an eighth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Program::parse().run()
}
