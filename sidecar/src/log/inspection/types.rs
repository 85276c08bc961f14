//! The event types that the operator has defined.

use super::{Inspection, ReadError};

/// Types that a page lists.
const MOST: i64 = 500;

impl Inspection {
    /// Names of the events that have a type, in order.
    pub async fn event_types(&self) -> Result<Vec<String>, ReadError> {
        let sql = "select t.name from livestore.inspect_event_types(null, $1) t order by t.name collate \"C\"";
        self.rows(sql, vec![Box::new(MOST)]).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    /// The JSON Schema of an event's args, if it has a type: its latest version.
    pub async fn event_type(&self, name: &str) -> Result<Option<String>, ReadError> {
        let sql = "select t.schema::text from livestore.inspect_event_types($1, 1) t";
        let rows = self.rows(sql, vec![Box::new(name.to_owned())]).await?;
        rows.first().map(|row| Ok(row.try_get(0)?)).transpose()
    }
}
