//! One module for each protocol that LiveStore clients speak. Each translates between its wire and [`crate::log`]; none
//! knows of another.

pub mod rpc;
