//! `livestore-sidecar`: see the library.

use std::process::ExitCode;

use clap::Parser;
use livestore_sidecar::Program;

/// A push allocates small pieces and frees them soon, often on another thread: with glibc that was an eighth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    avoid_huge_pages();
    Program::parse().run()
}

/// A frame header lets a client reserve the memory of a whole frame, and mimalloc asks for huge pages: the first byte of the frame would then
/// take 2 MiB. Best effort: a kernel without them has nothing to switch off.
#[cfg(target_os = "linux")]
fn avoid_huge_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

#[cfg(not(target_os = "linux"))]
fn avoid_huge_pages() {}
