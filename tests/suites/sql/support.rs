//! Helpers for the tests of the SQL interface.

use std::fmt::{Debug, Display};
use std::time::SystemTime;

use futures_util::StreamExt;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{AsyncMessage, Client, Error, NoTls};

/// The first column of the only row.
pub async fn one<T: for<'a> FromSql<'a>>(client: &Client, sql: &str) -> T {
    one_with(client, sql, &[]).await
}

/// The first column of the only row.
pub async fn one_with<T: for<'a> FromSql<'a>>(client: &Client, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> T {
    let row = client.query_one(sql, parameters).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    row.get(0)
}

/// The first column of all rows.
pub async fn all<T: for<'a> FromSql<'a>>(client: &Client, sql: &str) -> Vec<T> {
    all_with(client, sql, &[]).await
}

/// The first column of all rows.
pub async fn all_with<T: for<'a> FromSql<'a>>(
    client: &Client,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Vec<T> {
    let rows = client.query(sql, parameters).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    rows.iter().map(|row| row.get(0)).collect()
}

/// Runs statements that must succeed.
pub async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// `livestore.push` of a batch, given as JSON or as its text.
pub async fn push(client: &Client, store: &str, batch: impl Display) -> Result<i64, Error> {
    push_to_life(client, store, batch, None).await
}

/// `livestore.push` by a client that believes in this backend id.
pub async fn push_to_life(
    client: &Client,
    store: &str,
    batch: impl Display,
    backend_id: Option<&str>,
) -> Result<i64, Error> {
    let batch = batch.to_string();
    let row = client.query_one("select livestore.push($1, $2::text::json, $3)", &[&store, &batch, &backend_id]).await?;
    Ok(row.get(0))
}

/// The error that a function raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub sqlstate: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

impl Rejection {
    /// The DETAIL, which is JSON for SQLSTATEs of class LS.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.detail).unwrap_or_else(|error| panic!("{error} in the DETAIL of {self:?}"))
    }
}

/// The error of a statement that must fail.
pub fn rejection<T: Debug>(result: Result<T, Error>) -> Rejection {
    let error = result.expect_err("this must fail");
    let error = error.as_db_error().unwrap_or_else(|| panic!("not an error of the database: {error:?}"));
    Rejection {
        sqlstate: error.code().code().into(),
        message: error.message().into(),
        detail: error.detail().unwrap_or_default().into(),
        hint: error.hint().unwrap_or_default().into(),
    }
}

/// One push of a `livestore.push_batch`.
#[derive(Debug, Clone)]
pub struct Push {
    store: String,
    batch: String,
    backend_id: Option<String>,
    payload: Option<String>,
    headers: Option<String>,
}

impl Push {
    pub fn to(store: impl Into<String>, batch: impl Display) -> Self {
        Self { store: store.into(), batch: batch.to_string(), backend_id: None, payload: None, headers: None }
    }

    pub fn believing_in(self, backend_id: &str) -> Self {
        Self { backend_id: Some(backend_id.into()), ..self }
    }

    pub fn with_payload(self, payload: impl Display) -> Self {
        Self { payload: Some(payload.to_string()), ..self }
    }

    pub fn with_headers(self, headers: impl Display) -> Self {
        Self { headers: Some(headers.to_string()), ..self }
    }

    fn context(&self) -> Option<String> {
        let values = [("payload", &self.payload), ("headers", &self.headers)];
        let values: Vec<_> =
            values.iter().filter_map(|(name, value)| Some(format!("\"{name}\":{}", value.as_ref()?))).collect();
        (!values.is_empty()).then(|| format!("{{{}}}", values.join(",")))
    }
}

/// A row of `livestore.push_result`.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub push: i32,
    pub head: Option<i64>,
    /// null for a push that a hook rejected.
    pub appended: Option<i32>,
    pub backend_id: Option<String>,
    pub created_at: Option<SystemTime>,
    pub sqlstate: Option<String>,
    pub message: Option<String>,
    pub detail: Option<String>,
    pub hint: Option<String>,
}

impl Outcome {
    /// The head after a push that succeeded, or the SQLSTATE of one that did not.
    pub fn brief(&self) -> Result<i64, &str> {
        match (self.head, &self.sqlstate) {
            (Some(head), None) => Ok(head),
            (None, Some(sqlstate)) => Err(sqlstate),
            _ => panic!("neither a success nor a failure: {self:?}"),
        }
    }

    /// The DETAIL, which is JSON for SQLSTATEs of class LS.
    pub fn json(&self) -> Value {
        let detail = self.detail.as_deref().unwrap_or_else(|| panic!("no DETAIL: {self:?}"));
        serde_json::from_str(detail).unwrap_or_else(|error| panic!("{error} in the DETAIL of {self:?}"))
    }
}

/// `livestore.push_batch`, as a sidecar calls it.
pub async fn push_batch(client: &Client, pushes: &[Push]) -> Vec<Outcome> {
    try_push_batch(client, pushes).await.unwrap_or_else(|error| panic!("{error:?}"))
}

/// `livestore.push_batch`, with the outcomes in the order of the pushes; the error is that of the whole call.
pub async fn try_push_batch(client: &Client, pushes: &[Push]) -> Result<Vec<Outcome>, Error> {
    let stores: Vec<_> = pushes.iter().map(|push| &push.store).collect();
    let batches: Vec<_> = pushes.iter().map(|push| &push.batch).collect();
    let backend_ids: Vec<_> = pushes.iter().map(|push| &push.backend_id).collect();
    let contexts: Vec<_> = pushes.iter().map(Push::context).collect();
    let sql = "select * from livestore.push_batch($1, $2, $3, 'tests', $4)";
    let rows = client.query(sql, &[&stores, &batches, &backend_ids, &contexts]).await?;
    let outcome = |row: &tokio_postgres::Row| Outcome {
        push: row.get("push"),
        head: row.get("head"),
        appended: row.get("appended"),
        backend_id: row.get("backend_id"),
        created_at: row.get("created_at"),
        sqlstate: row.get("sqlstate"),
        message: row.get("message"),
        detail: row.get("detail"),
        hint: row.get("hint"),
    };
    let mut outcomes: Vec<_> = rows.iter().map(outcome).collect();
    outcomes.sort_by_key(|outcome| outcome.push);
    let answered: Vec<_> = outcomes.iter().map(|outcome| outcome.push as usize).collect();
    assert_eq!(answered, (1..=pushes.len()).collect::<Vec<_>>(), "each push has one result");
    Ok(outcomes)
}

/// The sequence numbers of the log of a store.
pub async fn log(client: &Client, store: &str) -> Vec<i64> {
    all_with(client, "select seq_num from livestore.events where store_id = $1 order by seq_num", &[&store]).await
}

/// Makes stores in every state.
pub async fn fill(client: &Client) {
    push(client, "pooled", chain(0, 20)).await.unwrap();
    let spelled =
        event(20, "e", json!("ARGS")).to_string().replace(r#""ARGS""#, "{ \"b\" : 1.0,\t\"a\":\"\\u0000\\ud800\" }");
    push(client, "pooled", format!("[{spelled}]")).await.unwrap();
    run(
        client,
        "select livestore.commit('pooled', 'without args');
         select livestore.create_store('own', own_table => true);
         select livestore.create_store('reset own', own_table => true)",
    )
    .await;
    for store in ["own", "reset", "reset own", "dropped", "dropped and created"] {
        push(client, store, chain(0, 5)).await.unwrap();
    }
    run(
        client,
        "select livestore.reset_store('reset'), livestore.reset_store('reset own');
         select livestore.drop_store('dropped'), livestore.drop_store('dropped and created')",
    )
    .await;
    push(client, "dropped and created", chain(0, 2)).await.unwrap();
    run(client, "select livestore.relay_append('relayed', '{e}', '{null}', '{c}', '{s}', '{41}', '{1.50}')").await;
}

/// Everything that is stored, to compare before and after.
pub async fn stored(client: &Client) -> Vec<String> {
    all(
        client,
        "select s::text from livestore.stores s union all select e::text from livestore.events e
         union all select d::text from livestore.dropped_stores d order by 1",
    )
    .await
}

/// The stores whose log is not a chain up to their head.
pub async fn broken_chains(client: &Client) -> Vec<String> {
    all(
        client,
        "select s.store_id
         from livestore.stores s
         cross join lateral (
             select coalesce(max(seq_num), 0) as head, coalesce(bool_and(parent_seq_num = before), true) as chained
             from (
                 select seq_num, parent_seq_num, lag(seq_num, 1, 0::bigint) over (order by seq_num) as before
                 from livestore.events e where e.store_id = s.store_id
             ) event
         ) log
         where log.head <> s.head or not log.chained",
    )
    .await
}

/// A superuser's connection that hears the notifications of channel `livestore` and the notices of its own statements.
pub struct Ears {
    pub client: Client,
    messages: mpsc::UnboundedReceiver<AsyncMessage>,
}

impl Ears {
    pub async fn on(database: &Database) -> Self {
        let (client, mut connection) =
            tokio_postgres::connect(&database.url("postgres"), NoTls).await.expect("a connection");
        let (sender, messages) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut stream = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
            while let Some(Ok(message)) = stream.next().await {
                let _ = sender.send(message);
            }
        });
        // The channel with ids, which a fresh database does not use.
        run(&client, "update livestore.instance set legacy_notify = true; listen livestore").await;
        Self { client, messages }
    }

    /// The same on the channel without ids.
    pub async fn on_digests(database: &Database) -> Self {
        let ears = Self::on(database).await;
        run(&ears.client, "update livestore.instance set legacy_notify = false; listen livestore_heads").await;
        ears
    }

    /// The payloads of all notifications that were committed since the last call. Notifications arrive in the order of
    /// commits: when its own arrives, there are no others on the way.
    pub async fn payloads(&mut self) -> Vec<String> {
        const END: &str = "the end";
        self.client.execute("select pg_notify('livestore', $1)", &[&END]).await.expect("notify");
        let mut payloads = Vec::new();
        while let Some(message) = self.messages.recv().await {
            if let AsyncMessage::Notification(notification) = message {
                if notification.payload() == END {
                    break;
                }
                payloads.push(notification.payload().to_string());
            }
        }
        payloads
    }

    /// The same as JSON.
    pub async fn heard(&mut self) -> Vec<Value> {
        let payloads = self.payloads().await;
        payloads.iter().map(|payload| serde_json::from_str(payload).expect("JSON")).collect()
    }

    /// The notices of the statements that have ended.
    pub fn notices(&mut self) -> Vec<String> {
        let mut notices = Vec::new();
        while let Ok(message) = self.messages.try_recv() {
            if let AsyncMessage::Notice(notice) = message {
                notices.push(notice.message().to_string());
            }
        }
        notices
    }
}
