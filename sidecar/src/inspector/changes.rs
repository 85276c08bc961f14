//! Forms that change something. Postgres checks what they say.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Redirect;
use percent_encoding::percent_decode_str;

use super::access::Visitor;
use super::answers::{Failure, Who, administers, bad, store_id, writes};
use super::{Inspector, PREFIX, forms, pages};
use crate::log::{Shown, StoreId};

/// The largest form: the args of an event, percent-encoded.
const FORM_BYTES: usize = 16 << 20;

/// The most fields of a form: a type has fewer.
const FIELDS: usize = 1000;

/// The fields of a form.
pub struct Form {
    pub fields: HashMap<String, String>,
    /// The body, with its memory.
    _body: Bytes,
}

impl Form {
    pub fn field(&self, name: &str) -> Result<&str, Failure> {
        self.fields.get(name).map(String::as_str).ok_or_else(|| bad(format!("the form lacks {name}")))
    }

    fn number(&self, name: &str) -> Result<i64, Failure> {
        self.field(name)?.parse().map_err(|_| bad(format!("{name} is not a number")))
    }

    /// The store, encoded: browsers change line breaks in forms.
    fn store(&self) -> Result<StoreId, Failure> {
        let id = percent_decode_str(self.field("store")?).decode_utf8();
        store_id(&id.map_err(|_| bad("the id of a store is UTF-8"))?)
    }
}

/// The log that the page of the form has shown.
fn shown<'a>(form: &'a Form, store: &'a StoreId) -> Result<Shown<'a>, Failure> {
    let life = form.field("life").map_err(|_| bad("the form is of an earlier version: load the page anew"))?;
    Ok(Shown { store, life })
}

impl Inspector {
    pub(super) async fn form(&self, body: Body, most: usize) -> Result<Form, Failure> {
        let account = self.gate.memory.strangers();
        let body = self.gate.body_of_at_most(body, &account, most).await?;
        if body.iter().filter(|byte| **byte == b'&').count() >= FIELDS {
            return Err(bad(format!("a form has at most {FIELDS} fields")));
        }
        let fields = serde_urlencoded::from_bytes(&body).map_err(|error| bad(format!("this is no form: {error}")))?;
        Ok(Form { fields, _body: body })
    }

    /// The same for a change of what is in a log: it takes an administrator, and `expected`, typed to confirm it.
    async fn confirmed(
        &self,
        visitor: &Visitor,
        body: Body,
        expected: impl Fn(&Form) -> Option<String>,
    ) -> Result<Form, Failure> {
        administers(visitor)?;
        let form = self.form(body, FORM_BYTES).await?;
        match expected(&form) {
            Some(expected) if form.field("confirmation")?.trim() != expected.trim() => {
                Err(bad("what was typed to confirm this is something else: nothing was changed"))
            }
            _ => Ok(form),
        }
    }
}

fn the_number(form: &Form) -> Option<String> {
    Some(form.field("number").unwrap_or_default().to_owned())
}

fn the_store(form: &Form) -> Option<String> {
    Some(form.store().map(|id| pages::confirmation(id.as_str())).unwrap_or_default())
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
    // Before the body, which takes memory and time.
    writes(&visitor)?;
    let form = inspector.form(body, FORM_BYTES).await?;
    let (id, name) = (form.store()?, form.field("name")?);
    let args = if form.fields.contains_key("typed") {
        let schema = inspector.inspection.event_type(name).await?;
        let fields = schema.as_deref().and_then(forms::fields);
        let fields = fields.ok_or_else(|| bad("the type of this event has changed: load the page anew"))?;
        Some(forms::args(&fields, &form.fields).map_err(bad)?)
    } else {
        args_of(form.field("args")?).map(str::to_owned)
    };
    let answer = to_store(&id);
    inspector.commit(&visitor, id, name, args.as_deref()).await?;
    Ok(answer)
}

pub async fn rewrite(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    let form = inspector.confirmed(&visitor, body, the_number).await?;
    let (id, number) = (form.store()?, form.number("number")?);
    // Browsers send line breaks as CRLF.
    let text = |text: &str| text.replace("\r\n", "\n");
    let name = form.fields.get("name").map(|name| text(name));
    let args = text(form.field("args")?);
    let log = shown(&form, &id)?;
    inspector.inspection.rewrite(log, number, name.as_deref(), args_of(&args), form.field("reason")?).await?;
    Ok(to_store(&id))
}

pub async fn erase(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    let form = inspector.confirmed(&visitor, body, the_number).await?;
    let (id, number) = (form.store()?, form.number("number")?);
    inspector.inspection.erase(shown(&form, &id)?, number, form.field("args")?, form.field("reason")?).await?;
    Ok(to_store(&id))
}

pub async fn reset(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    let form = inspector.confirmed(&visitor, body, the_store).await?;
    let id = form.store()?;
    inspector.inspection.reset(shown(&form, &id)?).await?;
    Ok(to_store(&id))
}

pub async fn drop_store(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    let form = inspector.confirmed(&visitor, body, the_store).await?;
    let id = form.store()?;
    inspector.inspection.drop_store(shown(&form, &id)?).await?;
    Ok(Redirect::to("/inspector/stores"))
}

pub async fn resend(
    State(inspector): State<Arc<Inspector>>,
    Extension(visitor): Who,
    body: Body,
) -> Result<Redirect, Failure> {
    let form = inspector.confirmed(&visitor, body, |_| None).await?;
    inspector.inspection.resend(form.number("id")?).await?;
    Ok(Redirect::to("/inspector/subscriptions"))
}
