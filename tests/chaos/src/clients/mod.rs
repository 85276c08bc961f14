//! The load: clients from npm that write and follow, and recover as apps with LiveStore do.

mod device;
mod dialect;
mod fleet;
mod pending;
mod stores;
mod stream;

pub use dialect::{erased, placed};
pub use fleet::Fleet;
pub use stores::Stores;
