//! From a request to who asks for what.

pub mod hosts;
pub mod origins;
