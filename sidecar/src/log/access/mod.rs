//! The rights of a client to a store: types that only the check of its token and of the operator's function makes.

pub mod administrator;
pub mod authorize;
pub mod find;
pub mod reader;
pub mod store;
pub mod writer;
