//! The paths of the inspector.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use chrono::{DateTime, NaiveDateTime, Utc};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::access::{NoEntry, Visitor, is_own_page, log_out};
use super::pages::{self, Confirm, EventView, List, Overview, Page, StorePage, StoresPage};
use super::stream::{Place, STREAMS};
use super::{Inspector, PREFIX, assets, forms};
use crate::auth::Access;
use crate::log::{ActionError, Exported, Filter, Order, StoreId, StoreStep};
use crate::postgres::DatabaseError;
use crate::telemetry::refusals;

/// The largest form: the args of an event, percent-encoded.
const FORM_BYTES: usize = 16 << 20;

/// The largest form of somebody who is not known yet.
const LOGIN_BYTES: usize = 16 << 10;

/// Pages load their own files and nothing else, and are in no frame of another page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

pub fn router(inspector: Arc<Inspector>) -> Router {
    let path = |name: &str| format!("{PREFIX}/{name}");
    let streams = Arc::new(Semaphore::new(STREAMS));
    let inside = Router::new()
        .route(PREFIX, get(overview))
        .route(&path("live"), get(live))
        .route(&path("stores"), get(stores))
        .route(&path("store"), get(store))
        .route(&path("rows"), get(rows))
        .route(&path("follow"), get(follow))
        .route(&path("clients"), get(clients))
        .route(&path("event"), get(event))
        .route(&path("export"), get(export))
        .route(&path("refusals"), get(refused))
        .route(&path("subscriptions"), get(subscriptions))
        .route(&path("confirm"), get(confirm))
        .route(&path("commit"), post(commit))
        .route(&path("rewrite"), post(rewrite))
        .route(&path("erase"), post(erase))
        .route(&path("reset"), post(reset))
        .route(&path("drop"), post(drop_store))
        .route(&path("resend"), post(resend))
        .layer(from_fn_with_state(Arc::clone(&inspector), enter))
        .layer(Extension(streams));
    inside
        .route(&path("login"), get(login_page).post(login))
        .route(&path("logout"), post(logout))
        .route(&path("assets/{name}"), get(assets::file))
        .layer(from_fn(around))
        .with_state(inspector)
}

/// Wraps every answer.
async fn around(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Lets in those who may look; a form counts only from a page of the inspector.
async fn enter(State(inspector): State<Arc<Inspector>>, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    if request.method() == Method::POST && !is_own_page(headers) {
        return problem(StatusCode::FORBIDDEN, None, "Refused", "this form was not sent by a page of the inspector", "/");
    }
    match inspector.door.admit(headers).await {
        Ok(visitor) => {
            request.extensions_mut().insert(Arc::new(visitor));
            next.run(request).await
        }
        Err(no_entry) => {
            let text = (no_entry != NoEntry::NoSession).then(|| no_entry.to_string());
            inspector.login(StatusCode::UNAUTHORIZED, text.as_deref())
        }
    }
}

type Who = Extension<Arc<Visitor>>;

fn page(visitor: &Visitor, title: &str, path: &str, content: &maud::Markup) -> Html<String> {
    Html(Page { title, path, visitor: Some(visitor), has_plots: path == "/" }.around(content))
}

fn problem(status: StatusCode, visitor: Option<&Visitor>, title: &str, text: &str, back: &str) -> Response {
    let content = pages::message(title, text, back);
    (status, Html(Page { title, path: "", visitor, has_plots: false }.around(&content))).into_response()
}

/// What went wrong, for the person who looks.
struct Failure {
    status: StatusCode,
    text: String,
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        problem(self.status, None, "This did not work", &self.text, "/")
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        let text = format!("{error}{source}");
        Self { status: StatusCode::SERVICE_UNAVAILABLE, text }
    }
}

impl From<ActionError> for Failure {
    fn from(error: ActionError) -> Self {
        let status = match error {
            ActionError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ActionError::Database(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, text: error.to_string() }
    }
}

impl From<(StatusCode, String)> for Failure {
    fn from((status, text): (StatusCode, String)) -> Self {
        Self { status, text }
    }
}

fn bad(text: impl Into<String>) -> Failure {
    Failure { status: StatusCode::BAD_REQUEST, text: text.into() }
}

fn store_id(text: &str) -> Result<StoreId, Failure> {
    StoreId::parse(text).map_err(|error| bad(error.text()))
}

impl Inspector {
    fn login(&self, status: StatusCode, problem: Option<&str>) -> Response {
        let content = pages::login(problem, self.door.secret.is_some(), self.door.takes_tokens);
        let page = Page { title: "Log in", path: "", visitor: None, has_plots: false };
        (status, Html(page.around(&content))).into_response()
    }

    /// The fields of a form.
    async fn form(&self, body: Body, most: usize) -> Result<HashMap<String, String>, Failure> {
        let account = self.gate.memory.strangers();
        let body = self.gate.body_of_at_most(body, &account, most).await?;
        serde_urlencoded::from_bytes(&body).map_err(|error| bad(format!("this is no form: {error}")))
    }

    /// The same for a change of what is in a log: it takes an administrator, and what was typed to confirm it.
    async fn confirmed(&self, visitor: &Visitor, body: Body, key: &str) -> Result<HashMap<String, String>, Failure> {
        if visitor.access < Access::Admin {
            let text = "this takes the secret of the inspector, or a token that gives \"*\": \"admin\"".into();
            return Err(Failure { status: StatusCode::FORBIDDEN, text });
        }
        let form = self.form(body, FORM_BYTES).await?;
        if key.is_empty() || form.get("confirmation").map(|typed| typed.trim()) == form.get(key).map(|id| id.trim()) {
            return Ok(form);
        }
        Err(bad("what was typed to confirm this is something else: nothing was changed"))
    }
}

fn field<'a>(form: &'a HashMap<String, String>, name: &str) -> Result<&'a str, Failure> {
    form.get(name).map(String::as_str).ok_or_else(|| bad(format!("the form lacks {name}")))
}

fn number(form: &HashMap<String, String>, name: &str) -> Result<i64, Failure> {
    field(form, name)?.parse().map_err(|_| bad(format!("{name} is not a number")))
}

/// Args that may be absent.
fn args_of(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.trim().is_empty())
}

async fn overview(State(inspector): State<Arc<Inspector>>, Extension(visitor): Who) -> Response {
    let database = inspector.inspection.database().await.map_err(|error| Failure::from(error).text);
    let (mut findings, mut sessions) = (Vec::new(), Vec::new());
    if database.is_ok() {
        findings = inspector.findings().await;
        sessions = inspector.inspection.sessions().await.unwrap_or_default();
    }
    let is_listening = inspector.gate.log.gauges().is_listening;
    let content = pages::overview(&Overview { findings, database, sessions, is_listening });
    page(&visitor, "Overview", "/", &content).into_response()
}

async fn live(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    Extension(streams): Extension<Arc<Semaphore>>,
) -> Response {
    match Place::take(&streams, visitor) {
        Some(place) => super::stream::figures(&inspector, place),
        None => too_many(),
    }
}

fn too_many() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "too many pages of the inspector are open\n").into_response()
}

#[derive(Deserialize)]
struct StoresQuery {
    prefix: Option<String>,
    after: Option<String>,
    number: Option<i64>,
    before: Option<i64>,
    recent: Option<String>,
}

async fn stores(
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
        let after = query.after.zip(query.number);
        let step = StoreStep::Prefix { prefix: prefix.clone(), after };
        (List::Prefix, inspector.inspection.stores(&step).await?)
    };
    let content = pages::stores(&StoresPage { list, prefix: &prefix, stores: &stores, has_more });
    Ok(page(&visitor, "Stores", "/inspector/stores", &content))
}

#[derive(Deserialize)]
struct StoreQuery {
    id: String,
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
    fn filter(&self) -> Result<Filter, Failure> {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        for name in [&self.name, &self.client].into_iter().flatten() {
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

async fn store(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    Query(query): Query<StoreQuery>,
) -> Result<Response, Failure> {
    let (id, filter, order) = (store_id(&query.id)?, query.filter()?, query.order()?);
    let inspection = &inspector.inspection;
    let Some(store) = inspection.store(&id).await? else {
        let text = format!("there is no store {:?}", id.as_str());
        return Ok(problem(StatusCode::NOT_FOUND, Some(&visitor), "No such store", &text, "/inspector/stores"));
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
        events: &events,
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

/// More rows, for the end of a list.
async fn rows(State(inspector): State<Arc<Inspector>>, Query(query): Query<StoreQuery>) -> Result<Response, Failure> {
    let (id, filter) = (store_id(&query.id)?, query.filter()?);
    let order = query.order()?.unwrap_or(Order::Before(i64::MAX));
    let events = inspector.inspection.events(&id, order, &filter).await?;
    Ok(Html(pages::rows(id.as_str(), &events).into_string()).into_response())
}

async fn follow(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    Extension(streams): Extension<Arc<Semaphore>>,
    Query(query): Query<StoreQuery>,
) -> Result<Response, Failure> {
    let (id, filter) = (store_id(&query.id)?, query.filter()?);
    let after = query.after.unwrap_or_default().max(0);
    Ok(match Place::take(&streams, visitor) {
        Some(place) => super::stream::events(&inspector, place, id, after, filter),
        None => too_many(),
    })
}

#[derive(Deserialize)]
struct IdQuery {
    id: String,
}

async fn clients(State(inspector): State<Arc<Inspector>>, Query(query): Query<IdQuery>) -> Result<Response, Failure> {
    let id = store_id(&query.id)?;
    let head = inspector.inspection.store(&id).await?.map_or(0, |store| store.head);
    let (clients, count) = inspector.inspection.clients(&id);
    Ok(Html(pages::clients(&clients, count, head).into_string()).into_response())
}

#[derive(Deserialize)]
struct EventQuery {
    id: String,
    number: i64,
}

async fn event(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    Query(EventQuery { id, number }): Query<EventQuery>,
) -> Result<Response, Failure> {
    let (id, inspection) = (store_id(&id)?, &inspector.inspection);
    let events = inspection.events(&id, Order::Before(number.saturating_add(1)), &Filter::default()).await?;
    let Some(event) = events.first().filter(|event| event.seq_num == number) else {
        let text = format!("the store {:?} has no event {number}", id.as_str());
        return Ok(problem(StatusCode::NOT_FOUND, Some(&visitor), "No such event", &text, "/inspector/stores"));
    };
    let args = inspection.args(&id, number).await?.flatten();
    let may_administer = visitor.access >= Access::Admin && inspection.database().await?.is_admin;
    let view = EventView { store: id.as_str(), event, args: args.as_deref(), may_administer };
    Ok(page(&visitor, "Event", "/inspector/stores", &pages::event(&view)).into_response())
}

/// The log as lines. It ends early, without the last line, if the database goes away.
async fn export(State(inspector): State<Arc<Inspector>>, Query(query): Query<IdQuery>) -> Result<Response, Failure> {
    let id = store_id(&query.id)?;
    if inspector.inspection.store(&id).await?.is_none() {
        return Err(Failure { status: StatusCode::NOT_FOUND, text: "there is no such store".into() });
    }
    let lines = stream::try_unfold((inspector, id, Exported::default()), |(inspector, id, mut so_far)| async move {
        let lines = inspector.inspection.export(&id, &mut so_far).await?;
        Ok::<_, DatabaseError>((!lines.is_empty()).then_some((lines, (inspector, id, so_far))))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"store.jsonl\""),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

async fn refused(Extension(visitor): Who) -> Html<String> {
    page(&visitor, "Refusals", "/inspector/refusals", &pages::refusals(&refusals::latest()))
}

async fn subscriptions(
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
struct ConfirmQuery {
    id: String,
    action: String,
}

async fn confirm(Extension(visitor): Who, Query(query): Query<ConfirmQuery>) -> Result<Html<String>, Failure> {
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
    let content = pages::confirm(&Confirm { store: id.as_str(), action: &query.action, title, effect });
    Ok(page(&visitor, title, "/inspector/stores", &content))
}

fn to_store(id: &StoreId) -> Redirect {
    Redirect::to(&format!("{PREFIX}/store?id={}", pages::encoded(id.as_str())))
}

async fn commit(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    if visitor.access < Access::Write {
        return Err(Failure { status: StatusCode::FORBIDDEN, text: "your token allows to read only".into() });
    }
    let form = inspector.form(body, FORM_BYTES).await?;
    let (id, name) = (store_id(field(&form, "id")?)?, field(&form, "name")?);
    let args = if form.contains_key("typed") {
        let schema = inspector.inspection.event_type(name).await?;
        let fields = schema.as_deref().and_then(forms::fields);
        let fields = fields.ok_or_else(|| bad("the type of this event has changed: load the page anew"))?;
        Some(forms::args(&fields, &form).map_err(bad)?)
    } else {
        args_of(field(&form, "args")?).map(str::to_owned)
    };
    let session = if visitor.subject.is_empty() { "inspector" } else { &visitor.subject };
    inspector.inspection.commit(&id, name, args.as_deref(), session).await?;
    Ok(to_store(&id))
}

async fn rewrite(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    let form = inspector.confirmed(&visitor, body, "number").await?;
    let (id, number) = (store_id(field(&form, "id")?)?, number(&form, "number")?);
    let args = args_of(field(&form, "args")?);
    inspector.inspection.rewrite(&id, number, field(&form, "name")?, args, field(&form, "reason")?).await?;
    Ok(to_store(&id))
}

async fn erase(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    let form = inspector.confirmed(&visitor, body, "number").await?;
    let (id, number) = (store_id(field(&form, "id")?)?, number(&form, "number")?);
    inspector.inspection.erase(&id, number, field(&form, "args")?, field(&form, "reason")?).await?;
    Ok(to_store(&id))
}

async fn reset(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    let form = inspector.confirmed(&visitor, body, "id").await?;
    let id = store_id(field(&form, "id")?)?;
    inspector.inspection.reset(&id).await?;
    Ok(to_store(&id))
}

async fn drop_store(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    let form = inspector.confirmed(&visitor, body, "id").await?;
    inspector.inspection.drop_store(&store_id(field(&form, "id")?)?).await?;
    Ok(Redirect::to("/inspector/stores"))
}

async fn resend(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    let form = inspector.confirmed(&visitor, body, "").await?;
    inspector.inspection.resend(number(&form, "id")?).await?;
    Ok(Redirect::to("/inspector/subscriptions"))
}

async fn login_page(State(inspector): State<Arc<Inspector>>) -> Response {
    inspector.login(StatusCode::OK, None)
}

async fn login(State(inspector): State<Arc<Inspector>>, request: Request) -> Result<Response, Failure> {
    let (Parts { headers, .. }, body) = request.into_parts();
    if !is_own_page(&headers) {
        let text = "this form was not sent by a page of the inspector".into();
        return Err(Failure { status: StatusCode::FORBIDDEN, text });
    }
    let form = inspector.form(body, LOGIN_BYTES).await?;
    match inspector.door.log_in(field(&form, "key")?.trim(), &headers).await {
        Ok(cookie) => Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()),
        Err(no_entry) => Ok(inspector.login(StatusCode::UNAUTHORIZED, Some(&no_entry.to_string()))),
    }
}

async fn logout(headers: HeaderMap) -> Response {
    if !is_own_page(&headers) {
        return problem(StatusCode::FORBIDDEN, None, "Refused", "this form was not sent by a page of the inspector", "/");
    }
    ([(header::SET_COOKIE, log_out())], Redirect::to("/")).into_response()
}
