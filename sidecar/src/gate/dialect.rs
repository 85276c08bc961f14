//! The parts of a dialect that are known outside its folder.

use std::fmt;

/// A protocol, as one kind of client speaks it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dialect {
    /// In settings, metrics and logs.
    pub name: &'static str,
    /// The clients that speak it.
    pub clients: &'static str,
    /// Its endpoint, with `<this host>` for the address.
    pub url: &'static str,
    /// The code that creates such a client, with `<this host>` for the address.
    pub usage: &'static str,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
