//! What is known of a dialect outside its folder.

use std::fmt;

/// A protocol, as one kind of client speaks it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dialect {
    /// In settings, metrics and logs.
    pub name: &'static str,
    /// The clients that speak it.
    pub clients: &'static str,
    /// The URL that those are given, without the address.
    pub url: &'static str,
    /// What in a client is given this URL.
    pub usage: &'static str,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
