//! What a client may do with a store.

pub mod administrator;
pub mod admission;
pub mod authorize;
pub mod store;
