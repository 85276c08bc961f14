//! The context of the request whose events are being inserted, for hooks: `livestore.current_store_id()`,
//! `livestore.current_context()`. It is in the memory of this session, where no role can forge it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::prelude::*;
use serde_json::value::RawValue;

/// The context of one push.
#[derive(Clone)]
struct Context {
    store_id: String,
    /// A JSON object, as the caller of `livestore.push_batch` wrote it; `None` for a push from SQL.
    request: Option<Rc<str>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// Sets the context of a push until this is dropped. Then the previous context is restored: hooks can push, so pushes nest.
pub struct Entered {
    around: Option<Context>,
}

impl Entered {
    /// A push that a hook makes, and that says nothing of a request, belongs to the request that the hook runs for.
    pub fn new(store_id: &str, request: Option<&str>) -> Self {
        let around = CURRENT.take();
        let request = match request {
            Some(request) => Some(Rc::from(request)),
            None => around.as_ref().and_then(|around| around.request.clone()),
        };
        CURRENT.set(Some(Context { store_id: store_id.to_owned(), request }));
        Self { around }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.around.take());
    }
}

/// The store that is pushed to, in a hook; elsewhere null.
#[pg_extern(sql = false, stable)]
fn current_store_id() -> Option<String> {
    CURRENT.with_borrow(|current| current.as_ref().map(|context| context.store_id.clone()))
}

/// In a hook, the context of the request or, with a key, its value for that key, as JSON text. Null outside of hooks, for
/// pushes from SQL, and if there is no such key. Text, because Postgres can store but not decode JSON with `\u0000`, which a
/// client may send.
#[pg_extern(sql = false, stable)]
fn context_value(key: Option<&str>) -> Option<String> {
    let request = CURRENT.with_borrow(|current| current.as_ref()?.request.clone())?;
    let values: HashMap<Cow<'_, str>, &RawValue> = match serde_json::from_str(&request) {
        Ok(values) => values,
        Err(_) => {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
                "the context of the request is not a JSON object"
            );
        }
    };
    match key {
        Some(key) => values.get(key).map(|value| value.get().to_owned()),
        None => Some(request.to_string()),
    }
}
