//! Whether the cursor of a client is one of the log.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tracing::warn;

use super::page::Page;
use crate::log::error::PullError;
use crate::log::store_id::StoreId;
use crate::seldom::Seldom;

pub fn check_cursor(store: &StoreId, log: &Page, after: i64, backend_id: Option<&str>) -> Result<(), PullError> {
    if let Some(received) = backend_id
        && *received != *log.backend_id
    {
        return Err(PullError::BackendIdMismatch { expected: Arc::clone(&log.backend_id), received: received.into() });
    }
    if after > log.head {
        // To go on would join the events that the client has to events that do not follow them.
        static SAID: LazyLock<Seldom<StoreId>> = LazyLock::new(|| Seldom::new(Duration::from_secs(60), 1000));
        if let Some(suppressed) = SAID.suppressed(store.clone()) {
            warn!(
                ?store,
                head = log.head,
                claimed = after,
                suppressed,
                "a client claims to have seen events that the log does not have. If you restored this database to an older state, see \
                 livestore.renew_backend_ids() in docs/operations.md; if not, the client is wrong"
            );
        }
        return Err(PullError::Rewound);
    }
    Ok(())
}
