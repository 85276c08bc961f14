//! Limits on what clients use: memory, rates, and the number of something.

pub mod memory;
pub mod peer;
pub mod quota;
pub mod rate_limit;
