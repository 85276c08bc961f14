//! The latest refusals.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::{store_url, time};
use crate::telemetry::refusals::{Reason, Refusal};

/// The remedy for refusals of a reason.
fn remedy(reason: Reason) -> &'static str {
    match reason {
        Reason::Origin => "If the page is yours, add its origin to --cors-origins.",
        Reason::Token => "The app has to send a token that is valid; see what its text says is wrong.",
        Reason::Access => "The token's claim, or --allow, has to give this store.",
        Reason::Connections => "Close connections of this subject, or raise --max-connections-per-subject.",
        Reason::Secret => "Give the client the secret that the sidecar was started with.",
        Reason::Authorize => "The authorize function or URL said no: it decides.",
        Reason::Hook => {
            "A hook raised this: the event breaks a rule of yours. The client repeats it, and uploads nothing else until it is accepted."
        }
        Reason::Database => {
            "A trigger, constraint or index of yours refuses the event: livestore-sidecar check names them."
        }
        Reason::Invalid => {
            "The batch is none that a log can have, or larger than --max-event-bytes or --max-batch-events."
        }
        Reason::Malformed => {
            "The request has not the form of its protocol: compare the versions of client and sidecar."
        }
    }
}

/// Refusals on a page.
const PAGE: usize = 100;

/// `after`: so many newer ones are on the pages before.
pub fn refusals(all: &[Arc<Refusal>], after: usize) -> Markup {
    let refusals = all.get(after..).unwrap_or_default();
    let (refusals, has_more) = (&refusals[..refusals.len().min(PAGE)], refusals.len() > PAGE);
    html! {
        h1 { "Refusals" }
        p { "The latest requests that this sidecar refused, up to 1,000. Clients of LiveStore do not show them to their users." }
        @if refusals.is_empty() { p { "None." } } @else {
            div.scroll tabindex="0" role="region" aria-label="Refusals" { table {
                thead { tr {
                    th scope="col" { "When" } th scope="col" { "What" } th scope="col" { "Reason" } th scope="col" { "Store" }
                    th scope="col" { "Client" } th scope="col" { "Text" } th scope="col" { "What to do" }
                } }
                tbody { @for refusal in refusals {
                    tr {
                        td { (time(DateTime::<Utc>::from(refusal.at))) }
                        td { (refusal.asked.name()) br; small { (refusal.dialect) } }
                        td { (refusal.reason.name()) }
                        td { @if let Some(store) = &refusal.store { a href=(store_url(store)) { code { (store) } } } }
                        td {
                            @if let Some(subject) = &refusal.subject { (subject) br; }
                            @if let Some(client) = &refusal.client { code { (client) } br; }
                            @if let Some(event) = &refusal.event { small { (event) } }
                        }
                        td.text { (refusal.text) }
                        td.text { (remedy(refusal.reason)) }
                    }
                } }
            } }
        }
        @if has_more { p { a rel="next" href={ "/inspector/refusals?after=" (after + PAGE) } { "Older" } } }
    }
}
