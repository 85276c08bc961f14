//! Committing an event.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::value::RawValue;

use super::Inspector;
use super::access::Visitor;
use super::answers::{Failure, bad, writes};
use crate::auth::Credentials;
use crate::log::{Batch, Context, OverLimit, PushError, StoreId};

/// How often the head may move meanwhile.
const ATTEMPTS: usize = 5;

/// The name of the protocol, for hooks and metrics; and `clientId` of the events.
const NAME: &str = "inspector";

impl Inspector {
    /// Appends an event at the head of a log, and returns its number. With the operator's secret as an operator does in SQL; everybody
    /// else pushes it as a client does, within the same limits.
    pub async fn commit(
        &self,
        visitor: &Visitor,
        store: StoreId,
        name: &str,
        args: Option<&str>,
    ) -> Result<i64, Failure> {
        writes(visitor)?;
        if name.is_empty() {
            return Err(bad("an event needs a name"));
        }
        if visitor.is_operator {
            return Ok(self.inspection.commit(&store, name, args).await?);
        }
        let args: Option<&RawValue> =
            args.map(serde_json::from_str).transpose().map_err(|error| bad(format!("args are not JSON: {error}")))?;
        let context = Context::new(NAME, None, &BTreeMap::new(), Credentials::default());
        let context = match &visitor.identity {
            Some(identity) => context.of(Arc::clone(identity)),
            None => context,
        };
        let mut head = self.inspection.store(&store).await?.map_or(0, |store| store.head);
        let log = self.gate.log.store(store, context);
        for _ in 0..ATTEMPTS {
            let event = Event {
                name,
                args,
                seq_num: head + 1,
                parent_seq_num: head,
                client_id: NAME,
                session_id: visitor.session(),
            };
            let json = serde_json::to_string(&[event]).map_err(|error| bad(error.to_string()))?;
            let batch = Batch::parse(&json).map_err(|error| bad(error.to_string()))?;
            match log.push(batch, None, OverLimit::Refuse).await {
                Ok(_) => return Ok(head + 1),
                Err(PushError::ServerAhead { minimum_expected_num, .. }) => head = minimum_expected_num,
                Err(error) => return Err(refused(&error)),
            }
        }
        let text = "others commit to this store all the time: try again".into();
        Err(Failure { status: StatusCode::CONFLICT, text })
    }
}

fn refused(error: &PushError) -> Failure {
    let status = match error {
        PushError::Throttled(_) => StatusCode::TOO_MANY_REQUESTS,
        PushError::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    Failure { status, text: error.to_string() }
}

/// As clients push it.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<&'a RawValue>,
    seq_num: i64,
    parent_seq_num: i64,
    client_id: &'a str,
    session_id: &'a str,
}
