//! The first page: whether all is well, and how much there is to do.

use maud::{Markup, html};

use super::time;
use crate::inspector::Kind;
use crate::log::{InspectedDatabase, Session};

/// The content of the page, without the figures: those come by themselves.
pub struct Overview {
    pub findings: Vec<(Kind, String)>,
    pub database: Result<InspectedDatabase, String>,
    pub sessions: Vec<Session>,
    pub is_listening: bool,
}

/// The figures: name in the stream, title, unit.
const FIGURES: [(&str, &str, &str); 10] = [
    ("pushes", "Pushes", "/s"),
    ("events", "Events", "/s"),
    ("delivered", "Delivered", "/s"),
    ("refusals", "Refusals", "/s"),
    ("commitMedian", "Commit, median", "ms"),
    ("commit99", "Commit, 99 %", "ms"),
    ("deliveryMedian", "Delivery, median", "ms"),
    ("delivery99", "Delivery, 99 %", "ms"),
    ("connections", "Connections", ""),
    ("streams", "Live streams", ""),
];

/// The plots: title, the figures in it, unit.
const PLOTS: [(&str, &str, &str); 3] = [
    ("Per second", "pushes events delivered refusals", ""),
    ("Latency, at most", "commitMedian commit99 deliveryMedian delivery99", "ms"),
    ("Connected", "connections streams", ""),
];

pub fn overview(page: &Overview) -> Markup {
    let of = |kind: Kind| page.findings.iter().filter(move |(other, _)| *other == kind);
    let (wrong, advice) = (of(Kind::Wrong).count(), of(Kind::Advice).count());
    let (class, verdict) = match (&page.database, wrong, page.is_listening) {
        (Err(_), _, _) => ("wrong", "The database is away"),
        (_, 0, true) => ("good", "All is well"),
        (_, 0, false) => ("wrong", "Commits of others are not heard of"),
        _ => ("wrong", "Something is wrong"),
    };
    html! {
        h1 { "Overview" }
        section aria-labelledby="health" {
            h2 id="health" class=(class) { (verdict) }
            @if let Err(error) = &page.database { p.message role="alert" { (error) } }
            ul.findings {
                @for (_, text) in of(Kind::Wrong) { li.wrong { strong { "Wrong: " } (text) } }
                @for (_, text) in of(Kind::Advice) { li.advice { strong { "Advice: " } (text) } }
            }
            details {
                summary { (of(Kind::Good).count()) " checks are good" @if advice > 0 { ", " (advice) " to think about" } }
                ul.findings { @for (_, text) in of(Kind::Good) { li { (text) } } }
            }
        }
        section aria-labelledby="figures" data-live="/inspector/live" {
            h2 id="figures" { "Now" }
            p.status role="status" data-status {}
            dl.figures {
                @for (name, title, unit) in FIGURES {
                    div { dt { (title) } dd { span data-figure=(name) { "–" } " " small { (unit) } } }
                }
            }
            div.plots {
                @for (title, figures, unit) in PLOTS {
                    figure data-plot=(figures) { figcaption { (title) @if !unit.is_empty() { ", " (unit) } } }
                }
            }
            h3 { "Live streams by dialect" }
            dl.dialects data-list="byDialect" { div { dt { "none" } dd { "0" } } }
            h3 { "Refusals by reason, since the sidecar began" }
            dl.dialects data-list="byReason" { div { dt { "none" } dd { "0" } } }
            noscript { p { "Figures need a script." } }
        }
        @if let Ok(database) = &page.database {
            section aria-labelledby="database" {
                h2 id="database" { "Database" }
                dl.facts {
                    div { dt { "Database" } dd { (database.name) ", as " (database.role) } }
                    div { dt { "PostgreSQL" } dd { (database.postgres) } }
                    div { dt { "livestore_sync" } dd { (database.version) ", " (database.flavour) } }
                    div { dt { "Commit log" } dd {
                        @match database.position { Some(position) => { "position " (position) }, None => "empty" }
                    } }
                }
            }
        }
        section aria-labelledby="sidecars" {
            h2 id="sidecars" { "Sidecars of this database" }
            div.scroll tabindex="0" role="region" aria-labelledby="sidecars" { table {
                thead { tr { th scope="col" { "Machine" } th scope="col" { "Role" } th scope="col" { "Connections" } th scope="col" { "Since" } } }
                tbody { @for session in &page.sessions {
                    tr {
                        td { (session.address) }
                        td { (session.role) }
                        td.number { (session.connections) }
                        td { @match session.since { Some(since) => (time(since)), None => "not visible to this role" } }
                    }
                } }
            } }
        }
    }
}
