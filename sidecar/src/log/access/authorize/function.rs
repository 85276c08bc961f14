//! `--authorize-function`: an SQL function of the operator.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tracing::warn;

use super::{Action, denied};
use crate::log::context::Context;
use crate::log::error::Denied;
use crate::log::store_id::StoreId;
use crate::postgres::{Database, DatabaseError, Pooled, Retry, is_elsewhere};

/// Asks `--authorize-function` in Postgres.
pub struct Function {
    database: Database,
    function: String,
    /// The call of the function, once it was found.
    call: Mutex<Option<Call>>,
}

/// The statement that calls a function, which takes so many arguments.
#[derive(Clone)]
struct Call {
    sql: Arc<str>,
    arguments: usize,
}

/// Finds a function by its name, or by its name and argument types if there are several of the name.
const FIND: &str = "\
    select format('%I.%I', n.nspname, p.proname) as name,
        array(select format_type(a.type, null) from unnest(p.proargtypes) with ordinality a(type, n) order by a.n) as arguments,
        p.prorettype = 'boolean'::regtype and not p.proretset and p.prokind = 'f' as returns_boolean,
        has_function_privilege(p.oid, 'execute') as may_execute
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where p.oid = case when $1 like '%(%' then to_regprocedure($1)::oid else to_regproc($1)::oid end";

/// Whether a function is there, and can be asked.
pub async fn check_authorize_function(database: Database, function: String) -> Result<(), DatabaseError> {
    Function::new(database, function).check().await
}

/// The advice for a function that was written for the search path of the sidecar's role.
fn hint(code: &SqlState) -> &'static str {
    match *code {
        SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_FUNCTION | SqlState::UNDEFINED_OBJECT => {
            " (its search_path is pg_catalog, pg_temp, unless it has its own: alter function … set search_path = …)"
        }
        _ => "",
    }
}

impl Function {
    pub fn new(database: Database, function: String) -> Self {
        Self { database, function, call: Mutex::default() }
    }

    /// Whether the function exists, has the right form and can be called.
    pub async fn check(&self) -> Result<(), DatabaseError> {
        // Not on the pool: all of its connections may be waiting for the same lock as the function.
        let call = self.database.ask(async |client| self.find(client).await).await?;
        *self.call.lock() = Some(call);
        Ok(())
    }

    /// An error that the function raises is a refusal, unless it is temporary.
    pub async fn ask(
        &self,
        store: &StoreId,
        action: Action,
        context: &Context,
    ) -> Result<Result<(), Denied>, DatabaseError> {
        let client = self.database.function_client().await?;
        let known = self.call.lock().clone();
        let call = match known {
            Some(call) => call,
            None => {
                let call = self.find(&client).await?;
                self.call.lock().insert(call).clone()
            }
        };
        let answer = async {
            let arguments: [Option<&str>; 5] = [
                Some(store.as_str()),
                Some(action.asked().name()),
                context.payload(),
                context.headers(),
                context.claims(),
            ];
            let arguments = arguments.iter().take(call.arguments);
            let arguments: Vec<_> = arguments.map(|argument| (argument as &(dyn ToSql + Sync), Type::TEXT)).collect();
            client.query_typed_one(&call.sql, &arguments).await?.try_get::<_, Option<bool>>(0)
        };
        // Cancelled with its client: nobody needs the answer, and clients that come and go would have Postgres carry out any number at once.
        match client.read_in_time(answer).await? {
            Ok(Some(true)) => Ok(Ok(())),
            Ok(_) => Ok(Err(denied(action.refusal()))),
            Err(error) => match error.as_db_error() {
                Some(raised) if *raised.code() == SqlState::RAISE_EXCEPTION => Ok(Err(denied(raised.message()))),
                Some(raised) if Retry::after(raised.code()) == Retry::WhenMended => {
                    // It may have been replaced by one of another form.
                    *self.call.lock() = None;
                    Err(self.problem(&format!("{}{}", raised.message(), hint(raised.code()))))
                }
                // LS005 is about a store that the function asks for.
                Some(raised) if is_elsewhere(raised.code()) || !Retry::after(raised.code()).may_pass() => {
                    let sqlstate = raised.code().code();
                    warn!(function = self.function, sqlstate, "the authorize function failed");
                    Ok(Err(denied(format!("the server could not tell whether this is allowed (SQLSTATE {sqlstate})"))))
                }
                _ => Err(error.into()),
            },
        }
    }

    fn problem(&self, problem: &str) -> DatabaseError {
        DatabaseError::AuthorizeFunction { function: self.function.clone(), problem: problem.into() }
    }

    async fn find(&self, client: &Pooled) -> Result<Call, DatabaseError> {
        let found = match client.read_in_time(client.query_opt(FIND, &[&self.function])).await? {
            Err(error) if error.code().is_some_and(|code| !Retry::after(code).may_pass()) => {
                return Err(self.problem(error.as_db_error().map_or("it cannot be looked up", |error| error.message())));
            }
            found => found?.ok_or_else(|| {
                self.problem("there is no such function, or more than one of that name (with its schema: app.may_sync)")
            })?,
        };
        if !found.try_get::<_, bool>("may_execute")? {
            return Err(self.problem("the role of the database URL may not execute it"));
        }
        let arguments: Vec<String> = found.try_get("arguments")?;
        if !found.try_get::<_, bool>("returns_boolean")? || !(2..=5).contains(&arguments.len()) {
            return Err(self.problem(
                "it is not of the form (store_id text, action text, payload json, headers json, claims json) returns boolean",
            ));
        }
        // Names and types as the catalog quotes them.
        let name: String = found.try_get("name")?;
        let arguments: Vec<String> =
            arguments.iter().enumerate().map(|(index, kind)| format!("${}::text::{kind}", index + 1)).collect();
        let sql = format!("select {name}({})", arguments.join(", ")).into();
        Ok(Call { sql, arguments: arguments.len() })
    }
}
