//! The clients that follow a store on this sidecar.

use std::sync::Arc;

use super::Inspection;
pub use crate::log::read::clients::Client;
use crate::log::store_id::StoreId;

/// Clients that a page lists.
const MOST: usize = 200;

impl Inspection {
    /// The live streams of a store that this sidecar serves: some of them, and how many there are.
    pub fn clients(&self, store: &StoreId) -> (Vec<Arc<Client>>, usize) {
        self.0.shards.of(store).tails.get(store).map_or((Vec::new(), 0), |tail| tail.clients().list(MOST))
    }
}
