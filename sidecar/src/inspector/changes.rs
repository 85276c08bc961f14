//! Forms that change something. Postgres checks what they say.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Redirect;

use super::access::Visitor;
use super::answers::{Failure, Who, bad, store_id};
use super::{Inspector, PREFIX, forms, pages};
use crate::auth::Access;
use crate::log::StoreId;

/// The largest form: the args of an event, percent-encoded.
const FORM_BYTES: usize = 16 << 20;

impl Inspector {
    /// The fields of a form.
    pub(super) async fn form(&self, body: Body, most: usize) -> Result<HashMap<String, String>, Failure> {
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

pub fn field<'a>(form: &'a HashMap<String, String>, name: &str) -> Result<&'a str, Failure> {
    form.get(name).map(String::as_str).ok_or_else(|| bad(format!("the form lacks {name}")))
}

fn number(form: &HashMap<String, String>, name: &str) -> Result<i64, Failure> {
    field(form, name)?.parse().map_err(|_| bad(format!("{name} is not a number")))
}

/// Args that may be absent.
fn args_of(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.trim().is_empty())
}

fn to_store(id: &StoreId) -> Redirect {
    Redirect::to(&format!("{PREFIX}/store?id={}", pages::encoded(id.as_str())))
}

pub async fn commit(
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
    inspector.inspection.commit(&id, name, args.as_deref(), visitor.session()).await?;
    Ok(to_store(&id))
}

pub async fn rewrite(
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

pub async fn erase(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    let form = inspector.confirmed(&visitor, body, "number").await?;
    let (id, number) = (store_id(field(&form, "id")?)?, number(&form, "number")?);
    inspector.inspection.erase(&id, number, field(&form, "args")?, field(&form, "reason")?).await?;
    Ok(to_store(&id))
}

pub async fn reset(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    let form = inspector.confirmed(&visitor, body, "id").await?;
    let id = store_id(field(&form, "id")?)?;
    inspector.inspection.reset(&id).await?;
    Ok(to_store(&id))
}

pub async fn drop_store(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    let form = inspector.confirmed(&visitor, body, "id").await?;
    inspector.inspection.drop_store(&store_id(field(&form, "id")?)?).await?;
    Ok(Redirect::to("/inspector/stores"))
}

pub async fn resend(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    let form = inspector.confirmed(&visitor, body, "").await?;
    inspector.inspection.resend(number(&form, "id")?).await?;
    Ok(Redirect::to("/inspector/subscriptions"))
}
