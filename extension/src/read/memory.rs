//! The memory of a session that reads pages.

/// On its way to the client a page is copied into several buffers of its size. By default glibc gives the memory of each back to the
/// system, to get it again for the next page: that is a third of the time of a page. A session that reads pages keeps up to this much.
#[cfg(target_env = "gnu")]
const KEPT_BYTES: i32 = 4 << 20;

/// Keeps freed memory for the next page, from the first call in a session on.
#[cfg(target_env = "gnu")]
pub fn keep() {
    use std::sync::Once;

    use libc::{M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};

    static KEEP: Once = Once::new();
    KEEP.call_once(|| {
        for option in [M_TRIM_THRESHOLD, M_MMAP_THRESHOLD] {
            // SAFETY: the options take a number of bytes. If one is refused, memory is not kept.
            unsafe { mallopt(option, KEPT_BYTES) };
        }
    });
}

/// Other C libraries decide for themselves.
#[cfg(not(target_env = "gnu"))]
pub fn keep() {}
