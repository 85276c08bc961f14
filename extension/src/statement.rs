//! SQL statements that a session prepares once: planning one would cost more than carrying it out.

use std::cell::OnceCell;

use pgrx::datum::DatumWithOid;
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiTupleTable};

pub struct Statement {
    text: &'static str,
    parameters: &'static [PgBuiltInOids],
    // No RefCell: a hook that a statement fires may append, and then executes the same statement.
    prepared: OnceCell<OwnedPreparedStatement>,
}

impl Statement {
    pub const fn new(text: &'static str, parameters: &'static [PgBuiltInOids]) -> Self {
        Self { text, parameters, prepared: OnceCell::new() }
    }

    /// Executes the statement with one argument for each parameter.
    ///
    /// # Errors
    /// It cannot be prepared or executed. What Postgres itself raises unwinds.
    pub fn execute<'c>(
        &self,
        client: &mut SpiClient<'c>,
        arguments: &[DatumWithOid<'_>],
    ) -> spi::Result<SpiTupleTable<'c>> {
        let prepared = match self.prepared.get() {
            Some(prepared) => prepared,
            None => {
                let types: Vec<PgOid> = self.parameters.iter().map(|&oid| oid.into()).collect();
                let prepared = client.prepare_mut(self.text, &types)?.keep();
                self.prepared.get_or_init(|| prepared)
            }
        };
        client.update(prepared, None, arguments)
    }
}
