//! Pages, and the parts of pages that scripts ask for.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use chrono::{DateTime, NaiveDateTime, Utc};
use futures_util::stream::try_unfold;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use tokio::time::Instant;

use super::access::Visitor;
use super::answers::{Failure, Who, bad, page, problem, store_id};
use super::pages::{self, Confirm, EventView, List, Overview, StorePage, StoresPage};
use super::stream::{self, From, Streams};
use super::{Inspector, PREFIX, forms};
use crate::auth::Access;
use crate::log::{Exported, Filter, Order, ReadError, StoreId, StoreStep};
use crate::telemetry::refusals;

pub async fn overview(State(inspector): State<Arc<Inspector>>, Extension(visitor): Who) -> Response {
    let database = inspector.inspection.database().await.map_err(|error| Failure::from(error).text);
    let (mut findings, mut sessions) = (Vec::new(), Vec::new());
    if database.is_ok() {
        findings = inspector.findings().await;
        sessions = inspector.inspection.sessions().await.unwrap_or_default();
    }
    let is_listening = inspector.gate.log.gauges().shards.iter().all(|shard| shard.is_listening);
    let content = pages::overview(&Overview { findings, database, sessions, is_listening });
    page(&visitor, "Overview", PREFIX, &content).into_response()
}

pub async fn live(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    Extension(streams): Extension<Arc<Streams>>,
) -> Response {
    match streams.take(visitor) {
        Some(place) => stream::figures(&inspector, place),
        None => too_many(),
    }
}

fn too_many() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "too many pages of the inspector are open\n").into_response()
}

#[derive(Deserialize)]
pub struct StoresQuery {
    prefix: Option<String>,
    after: Option<String>,
    number: Option<i64>,
    before: Option<i64>,
    recent: Option<String>,
}

pub async fn stores(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    Query(query): Query<StoresQuery>,
) -> Result<Html<String>, Failure> {
    let prefix = query.prefix.unwrap_or_default();
    let (list, (stores, has_more)) = if query.recent.is_some() {
        (List::Recent, (inspector.inspection.recent_stores().await?, false))
    } else if prefix.is_empty() {
        let step = StoreStep::Newest { before: query.before.unwrap_or(i64::MAX) };
        (List::Newest, inspector.inspection.stores(&step).await?)
    } else {
        store_id(&prefix)?;
        if let Some(after) = &query.after {
            store_id(after)?;
        }
        let after = query.after.zip(query.number);
        let step = StoreStep::Prefix { prefix: prefix.clone(), after };
        (List::Prefix, inspector.inspection.stores(&step).await?)
    };
    let content = pages::stores(&StoresPage { list, prefix: &prefix, stores: &stores, has_more });
    Ok(page(&visitor, "Stores", "/inspector/stores", &content))
}

#[derive(Deserialize)]
pub struct StoreQuery {
    #[serde(default)]
    id: String,
    /// The id once more encoded, as forms have it: browsers change line breaks in them.
    key: Option<String>,
    /// The backend id of the log that a page shows.
    life: Option<String>,
    name: Option<String>,
    client: Option<String>,
    since: Option<String>,
    until: Option<String>,
    /// Events before this one.
    before: Option<i64>,
    /// Events after this one.
    after: Option<i64>,
    /// Events up to this one.
    at: Option<String>,
    /// The type of an event to commit.
    #[serde(rename = "type")]
    draft: Option<String>,
}

impl StoreQuery {
    fn id(&self) -> Result<StoreId, Failure> {
        match &self.key {
            Some(key) => {
                let id = percent_decode_str(key).decode_utf8();
                store_id(&id.map_err(|_| bad("the id of a store is UTF-8"))?)
            }
            None => store_id(&self.id),
        }
    }

    fn filter(&self) -> Result<Filter, Failure> {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        for name in [&self.name, &self.client, &self.draft].into_iter().flatten() {
            if name.contains('\0') {
                return Err(bad("U+0000 is in no name"));
            }
        }
        Ok(Filter {
            name: text(&self.name),
            client_id: text(&self.client),
            since: moment(self.since.as_deref())?,
            until: moment(self.until.as_deref())?,
        })
    }

    /// `None`: from the end of the log on.
    fn order(&self) -> Result<Option<Order>, Failure> {
        let at = self.at.as_deref().filter(|at| !at.is_empty());
        let at = at.map(|at| at.parse::<i64>().map_err(|_| bad("the number of an event is an integer"))).transpose()?;
        let before = self.before.or(at.map(|at| at.saturating_add(1)));
        Ok(before.map(Order::Before).or(self.after.map(Order::After)))
    }
}

/// A moment as a form has it, in UTC, or as RFC 3339.
fn moment(text: Option<&str>) -> Result<Option<DateTime<Utc>>, Failure> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let of_form = |format| NaiveDateTime::parse_from_str(text, format).map(|at| at.and_utc());
    let parsed = of_form("%Y-%m-%dT%H:%M").or_else(|_| of_form("%Y-%m-%dT%H:%M:%S"));
    let parsed = parsed.or_else(|_| DateTime::parse_from_rfc3339(text).map(Into::into));
    parsed.map(Some).map_err(|_| bad("a time is written 2026-01-31T12:00"))
}

pub async fn store(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    Query(query): Query<StoreQuery>,
) -> Result<Response, Failure> {
    let (id, filter, order) = (query.id()?, query.filter()?, query.order()?);
    let inspection = &inspector.inspection;
    let Some(store) = inspection.store(&id).await? else {
        return Ok(no_store(&visitor, &id));
    };
    let events = inspection.events(&id, order.unwrap_or(Order::Before(i64::MAX)), &filter).await?;
    let (clients, client_count) = inspection.clients(&id);
    let is_admin = visitor.access >= Access::Admin && inspection.database().await?.is_admin;
    let types = inspection.event_types().await?;
    let schema = match &query.draft {
        Some(name) => inspection.event_type(name).await?,
        None => None,
    };
    let fields = schema.as_deref().and_then(forms::fields);
    let content = pages::store(&StorePage {
        store: &store,
        page: &events,
        filter: &filter,
        is_newest: order.is_none(),
        clients: &clients,
        client_count,
        types: &types,
        draft: query.draft.as_deref().map(|name| (name, fields.as_deref())),
        may_write: visitor.access >= Access::Write,
        may_administer: is_admin,
    });
    Ok(page(&visitor, &store.id, "/inspector/stores", &content).into_response())
}

fn no_store(visitor: &Visitor, id: &StoreId) -> Response {
    let text = format!("there is no store {:?}", id.as_str());
    problem(StatusCode::NOT_FOUND, Some(visitor), "No such store", &text, "/inspector/stores")
}

/// More rows, for the end of a list.
pub async fn rows(
    State(inspector): State<Arc<Inspector>>,
    Query(query): Query<StoreQuery>,
) -> Result<Response, Failure> {
    let (id, filter) = (query.id()?, query.filter()?);
    let order = query.order()?.unwrap_or(Order::Before(i64::MAX));
    let events = inspector.inspection.events(&id, order, &filter).await?;
    Ok(Html(pages::page_rows(id.as_str(), &events).into_string()).into_response())
}

pub async fn follow(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    Extension(streams): Extension<Arc<Streams>>,
    Query(query): Query<StoreQuery>,
) -> Result<Response, Failure> {
    let (id, filter) = (query.id()?, query.filter()?);
    let from = From { after: query.after.unwrap_or_default().max(0), life: query.life };
    Ok(match streams.take(visitor) {
        Some(place) => stream::events(&inspector, place, id, from, filter),
        None => too_many(),
    })
}

#[derive(Deserialize)]
pub struct IdQuery {
    pub id: String,
}

pub async fn clients(
    State(inspector): State<Arc<Inspector>>,
    Query(query): Query<IdQuery>,
) -> Result<Response, Failure> {
    let id = store_id(&query.id)?;
    let head = inspector.inspection.store(&id).await?.map_or(0, |store| store.head);
    let (clients, count) = inspector.inspection.clients(&id);
    Ok(Html(pages::clients(&clients, count, head).into_string()).into_response())
}

#[derive(Deserialize)]
pub struct EventQuery {
    id: String,
    number: i64,
}

pub async fn event(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    Query(EventQuery { id, number }): Query<EventQuery>,
) -> Result<Response, Failure> {
    let (id, inspection) = (store_id(&id)?, &inspector.inspection);
    // First: if the store is reset meanwhile, the forms of the page must not count for the events of the new log.
    let store = inspection.store(&id).await?;
    let event = inspection.event(&id, number).await?;
    let (Some(store), Some(event)) = (store, event) else {
        let text = format!("the store {:?} has no event {number}", id.as_str());
        return Ok(problem(StatusCode::NOT_FOUND, Some(&visitor), "No such event", &text, "/inspector/stores"));
    };
    let may_administer = visitor.access >= Access::Admin && inspection.database().await?.is_admin;
    let view = EventView { store: &store, event: &event, may_administer };
    Ok(page(&visitor, "Event", "/inspector/stores", &pages::event(&view)).into_response())
}

/// The log as a file.
pub async fn export(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    Query(query): Query<IdQuery>,
) -> Result<Response, Failure> {
    let headers = [(header::CONTENT_DISPOSITION, "attachment; filename=\"store.jsonl\"")];
    Ok((headers, inspector.lines(visitor, &query.id).await?).into_response())
}

impl Inspector {
    /// The log as lines. They end early, without the last one, if the database goes away, or with the session or the token of the visitor, who
    /// keeps a place among the connections of its subject.
    pub(super) async fn lines(
        self: &Arc<Self>,
        visitor: Arc<Visitor>,
        id: &str,
    ) -> Result<impl IntoResponse + use<>, Failure> {
        let id = store_id(id)?;
        if self.inspection.store(&id).await?.is_none() {
            return Err(Failure { status: StatusCode::UNPROCESSABLE_ENTITY, text: "there is no such store".into() });
        }
        let from = (Arc::clone(self), visitor, id, Exported::default());
        let lines = try_unfold(from, |(inspector, visitor, id, mut so_far)| async move {
            if visitor.until.is_some_and(|until| until <= Instant::now()) {
                return Err(ReadError::Refused("the session has ended".into()));
            }
            let lines = inspector.inspection.export(&id, &mut so_far).await?;
            Ok::<_, ReadError>((!lines.is_empty()).then_some((lines, (inspector, visitor, id, so_far))))
        });
        Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)))
    }
}

#[derive(Deserialize)]
pub struct RefusalsQuery {
    /// How many newer ones are left out.
    #[serde(default)]
    after: usize,
}

pub async fn refused(Extension(visitor): Who, Query(query): Query<RefusalsQuery>) -> Html<String> {
    page(&visitor, "Refusals", "/inspector/refusals", &pages::refusals(&refusals::latest(), query.after))
}

pub async fn subscriptions(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
) -> Result<Html<String>, Failure> {
    let inspection = &inspector.inspection;
    let (subscriptions, letters) = (inspection.subscriptions().await?, inspection.dead_letters().await?);
    let may_resend = visitor.access >= Access::Admin && inspection.database().await?.is_admin;
    let content = pages::subscriptions(&subscriptions, &letters, may_resend);
    Ok(page(&visitor, "Subscriptions", "/inspector/subscriptions", &content))
}

#[derive(Deserialize)]
pub struct ConfirmQuery {
    id: String,
    action: String,
}

pub async fn confirm(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    Query(query): Query<ConfirmQuery>,
) -> Result<Response, Failure> {
    let id = store_id(&query.id)?;
    let (title, effect) = match query.action.as_str() {
        "reset" => (
            "Reset",
            "All events of this store are deleted. Clients that connect drop their local copies, with what they had not pushed, and start over.",
        ),
        "drop" => (
            "Drop",
            "The store and all its events are deleted for good. A client that pushes to this id later begins a new log; those that connect drop their local copies.",
        ),
        _ => return Err(bad("there is no such action")),
    };
    let Some(store) = inspector.inspection.store(&id).await? else {
        return Ok(no_store(&visitor, &id));
    };
    let content = pages::confirm(&Confirm { store: &store, action: &query.action, title, effect });
    Ok(page(&visitor, title, "/inspector/stores", &content).into_response())
}
