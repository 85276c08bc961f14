//! One store: its events, its clients, and what can be done with it.

use std::sync::Arc;

use maud::{Markup, html};

use super::{confirmation, encoded, iso, shortened, store_url, time};
use crate::inspector::forms::{Field, FieldKind};
use crate::log::{EventPage, Filter, InspectedEvent, InspectedStore, LiveClient, Order, shortened_name};

/// The args that fit into a row, in characters.
const BRIEF: usize = 120;

pub struct StorePage<'a> {
    pub store: &'a InspectedStore,
    pub page: &'a EventPage,
    pub filter: &'a Filter,
    /// The page shows the end of the log, and follows it.
    pub is_newest: bool,
    pub clients: &'a [Arc<LiveClient>],
    pub client_count: usize,
    pub types: &'a [String],
    /// The event to commit: its name, and the fields of its type.
    pub draft: Option<(&'a str, Option<&'a [Field]>)>,
    pub may_write: bool,
    pub may_administer: bool,
}

/// The filter in the query of a URL.
fn query(id: &str, filter: &Filter) -> String {
    let mut query = format!("id={}", encoded(id));
    let times = [("since", filter.since), ("until", filter.until)];
    let texts = [("name", filter.name.clone()), ("client", filter.client_id.clone())];
    for (key, value) in texts.into_iter().chain(times.map(|(key, at)| (key, at.map(iso)))) {
        if let Some(value) = value {
            query.extend(["&", key, "=", &encoded(&value)]);
        }
    }
    query
}

pub fn store(page: &StorePage<'_>) -> Markup {
    let StorePage { store, page: events, filter, .. } = page;
    let query = query(&store.id, filter);
    let newest = events.events.first().map(|event| event.seq_num);
    // Behind everything that the page shows; events that the filter leaves out do not come again.
    let follow = format!(
        "/inspector/follow?{query}&life={}&after={}",
        encoded(&store.backend_id),
        newest.unwrap_or(0).max(store.head)
    );
    html! {
        h1 { "Store " code { (store.id) } }
        dl.facts {
            div { dt { "Head" } dd data-head { (store.head) } }
            div { dt { "Backend id" } dd { code { (store.backend_id) } } }
            div { dt { "Table" } dd { @if store.is_dedicated { "dedicated" } @else { "shared" } } }
            div { dt { "Created" } dd { (time(store.created_at)) } }
            div { dt { "Export" } dd { a href={ "/inspector/export?id=" (encoded(&store.id)) } download { "as JSONL" } } }
        }
        section aria-labelledby="events-title" {
            h2 id="events-title" { "Events" }
            (filter_form(&store.id, filter))
            @if !page.is_newest {
                nav.tabs aria-label="Pages of events" {
                    a href={ "/inspector/store?" (query) } { "Newest" }
                    a rel="prev" href={ "/inspector/store?" (query) "&after=" (events.newer()) } { "Newer" }
                }
            }
            p.status role="status" data-status { @if page.is_newest { "Connecting…" } }
            div.scroll.events tabindex="0" role="region" aria-labelledby="events-title" {
                table {
                    thead { tr {
                        th scope="col" { "Number" } th scope="col" { "Name" } th scope="col" { "Args" } th scope="col" { "Client" }
                        th scope="col" { "Session" } th scope="col" { "Time" }
                    } }
                    tbody data-follow=[page.is_newest.then_some(follow)] { (page_rows(&store.id, events)) }
                }
                @if events.events.is_empty() && events.stopped_at.is_none() { p data-empty { "No events." } }
                @if let Some(older) = events.older() {
                    p { a rel="next" href={ "/inspector/store?" (query) "&before=" (older) } data-more={ "/inspector/rows?" (query) "&before=" } { "Older" } }
                }
            }
        }
        section aria-labelledby="clients-title" {
            h2 id="clients-title" { "Connected to this sidecar" }
            div data-refresh={ "/inspector/clients?id=" (encoded(&store.id)) } { (clients(page.clients, page.client_count, store.head)) }
        }
        @if page.may_write { (commit_form(page)) }
        @if page.may_administer {
            section aria-labelledby="danger" {
                h2 id="danger" { "Administration" }
                ul {
                    li { a href={ "/inspector/confirm?action=reset&id=" (encoded(&store.id)) } { "Reset" } ": empties the log" }
                    li { a href={ "/inspector/confirm?action=drop&id=" (encoded(&store.id)) } { "Drop" } ": removes the store" }
                }
                p { "Rewrite or erase an event on its own page: follow its number." }
            }
        }
    }
}

fn filter_form(id: &str, filter: &Filter) -> Markup {
    let minute = |at: Option<chrono::DateTime<chrono::Utc>>| {
        at.map(|at| at.format("%Y-%m-%dT%H:%M").to_string()).unwrap_or_default()
    };
    html! {
        form.inline action="/inspector/store" role="search" aria-label="Events" {
            input type="hidden" name="key" value=(encoded(id));
            label { "Name" input name="name" value=(filter.name.as_deref().unwrap_or_default()); }
            label { "Client" input name="client" value=(filter.client_id.as_deref().unwrap_or_default()); }
            label { "Since (UTC)" input type="datetime-local" name="since" value=(minute(filter.since)); }
            label { "Until (UTC)" input type="datetime-local" name="until" value=(minute(filter.until)); }
            label { "Up to number" input.number type="number" min="1" name="at"; }
            button { "Show" }
        }
    }
}

/// The rows of a page. If Postgres stopped early, one of them says so: a script takes the last row for the place where older events begin.
pub fn page_rows(store: &str, page: &EventPage) -> Markup {
    let stopped = |direction: &str, link: &str| {
        html! {
            @if let Some(number) = page.stopped_at {
                tr data-seq=(number) data-stopped {
                    td colspan="6" { small { "The search took long. It has looked through the events " (direction) " to " (number) ": “" (link) "” goes on from there." } }
                }
            }
        }
    };
    html! {
        @if let Order::After(_) = page.order { (stopped("up", "Newer")) }
        (rows(store, &page.events))
        @if let Order::Before(_) = page.order { (stopped("down", "Older")) }
    }
}

/// Rows of events.
pub fn rows(store: &str, events: &[InspectedEvent]) -> Markup {
    html! {
        @for event in events {
            tr data-seq=(event.seq_num) {
                td.number { a href={ "/inspector/event?id=" (encoded(store)) "&number=" (event.seq_num) } { (event.seq_num) } " "
                    small title="parent" { (event.parent_seq_num) } }
                td { (event.name) }
                td.args { (brief_args(event)) }
                td { code { (event.client_id) } }
                td { code { (event.session_id) } }
                td { (time(event.created_at)) }
            }
        }
    }
}

fn brief_args(event: &InspectedEvent) -> Markup {
    html! {
        @match &event.args {
            None => small { "none" },
            Some(args) if args.chars().nth(BRIEF).is_none() => code { (args) },
            Some(args) => details {
                summary { code { (shortened(args, BRIEF)) } }
                pre { (args) @if !event.has_all_args { "… (its page has the rest)" } }
            },
        }
    }
}

/// The clients that follow the store here.
pub fn clients(clients: &[Arc<LiveClient>], count: usize, head: i64) -> Markup {
    html! {
        @if clients.is_empty() { p { "Nobody follows this store here." } } @else {
            div.scroll tabindex="0" role="region" aria-label="Connected clients" { table {
                thead { tr {
                    th scope="col" { "Dialect" } th scope="col" { "Has" } th scope="col" { "Subject" } th scope="col" { "Program" }
                    th scope="col" { "Since" }
                } }
                tbody { @for client in clients {
                    tr {
                        td { (client.context.dialect()) }
                        td.number { (client.last()) @if client.last() < head { " of " (head) } }
                        td { @match client.context.subject() { Some(subject) => (subject), None => "–" } }
                        td.text { (client.context.user_agent().unwrap_or("–")) }
                        td { (time(client.since)) }
                    }
                } }
            } }
            @if count > clients.len() { p { "and " (count - clients.len()) " others" } }
        }
    }
}

fn commit_form(page: &StorePage<'_>) -> Markup {
    let id = &page.store.id;
    let (name, fields) = page.draft.map_or((None, None), |(name, fields)| (Some(name), fields));
    html! {
        section aria-labelledby="commit-title" {
            h2 id="commit-title" { "Commit an event" }
            @if !page.types.is_empty() {
                form.inline action="/inspector/store#commit-title" {
                    input type="hidden" name="key" value=(encoded(id));
                    label { "Type" select name="type" {
                        @for known in page.types { option selected[name == Some(known.as_str())] { (known) } }
                    } }
                    button { "Fill in" }
                }
            }
            form.narrow method="post" action="/inspector/commit" {
                input type="hidden" name="store" value=(encoded(id));
                label { "Name" input name="name" required value=(name.unwrap_or_default()); }
                @match fields {
                    Some(fields) => {
                        input type="hidden" name="typed" value="1";
                        @for field in fields { (input(field)) }
                    },
                    None => label { "Args, as JSON; empty for none" textarea name="args" rows="4" spellcheck="false" {} },
                }
                button { "Commit" }
            }
        }
    }
}

fn input(field: &Field) -> Markup {
    let name = format!("arg.{}", field.name);
    html! {
        label { (field.name) @if !field.is_required { " (optional)" }
            @match &field.kind {
                FieldKind::Text => input name=(name);,
                FieldKind::Number => input name=(name) inputmode="decimal" required[field.is_required];,
                FieldKind::Json => textarea name=(name) rows="2" spellcheck="false" placeholder="JSON" required[field.is_required] {},
                FieldKind::Boolean => select name=(name) {
                    @if !field.is_required { option value="" { "" } }
                    option value="false" { "false" }
                    option value="true" { "true" }
                },
                FieldKind::Choice(choices) => select name=(name) {
                    @if !field.is_required { option value="" { "" } }
                    @for choice in choices { option { (choice) } }
                },
            }
        }
    }
}

pub struct EventView<'a> {
    pub store: &'a InspectedStore,
    /// With all of its args.
    pub event: &'a InspectedEvent,
    pub may_administer: bool,
}

/// Whether a name comes back from a form as it was.
fn is_editable(name: &str) -> bool {
    shortened_name(name) == name && !name.chars().any(|character| character.is_control() && character != '\n')
}

/// The page of an event.
pub fn event(view: &EventView<'_>) -> Markup {
    let EventView { store, event, may_administer } = view;
    let args = event.args.as_deref();
    html! {
        h1 { "Event " (event.seq_num) " of " a href=(store_url(&store.id)) { code { (store.id) } } }
        dl.facts {
            div { dt { "Name" } dd { (shortened_name(&event.name)) } }
            div { dt { "Parent" } dd { (event.parent_seq_num) } }
            div { dt { "Client" } dd { code { (event.client_id) } } }
            div { dt { "Session" } dd { code { (event.session_id) } } }
            div { dt { "Time" } dd { (time(event.created_at)) } }
        }
        h2 { "Args" }
        @match args { Some(args) => pre.whole tabindex="0" { (args) }, None => p { "none" } }
        @if *may_administer {
            h2 { "Rewrite" }
            p { "Replaces name and args for everybody who reads the log from now on. Clients that have the event keep it as it was, until they drop their copy: see docs/erasure.md." }
            form.narrow method="post" action="/inspector/rewrite" {
                (log_fields(store))
                input type="hidden" name="number" value=(event.seq_num);
                // A browser drops the first line break of a textarea.
                @if is_editable(&event.name) {
                    label { "Name" textarea name="name" rows="1" required { "\n" (event.name) } }
                } @else {
                    p { "The name stays as it is: it is too long for this form, or has control characters." }
                }
                label { "Args, as JSON; empty for none" textarea name="args" rows="6" spellcheck="false" { "\n" (args.unwrap_or_default()) } }
                label { "Reason" input name="reason"; }
                (typed("the number of the event", &event.seq_num.to_string()))
                button.danger { "Rewrite" }
            }
            h2 { "Erase" }
            p { "Replaces args, for a person's right to be forgotten. Devices that have the event keep their copy until they start over." }
            form.narrow method="post" action="/inspector/erase" {
                (log_fields(store))
                input type="hidden" name="number" value=(event.seq_num);
                label { "Args in its place, as JSON" textarea name="args" rows="3" spellcheck="false" required { "{}" } }
                label { "Reason" input name="reason"; }
                (typed("the number of the event", &event.seq_num.to_string()))
                button.danger { "Erase" }
            }
        }
    }
}

/// The log that a form changes. After a reset, the form counts no more.
fn log_fields(store: &InspectedStore) -> Markup {
    html! {
        input type="hidden" name="store" value=(encoded(&store.id));
        input type="hidden" name="life" value=(store.backend_id);
    }
}

/// The text that has to be typed before something is changed for good.
fn typed(what: &str, expected: &str) -> Markup {
    html! {
        label { "Type " (what) " to confirm: " code { (expected) }
            input name="confirmation" required autocomplete="off" spellcheck="false";
        }
    }
}

/// A change of a whole store that is to be confirmed.
pub struct Confirm<'a> {
    pub store: &'a InspectedStore,
    pub action: &'a str,
    pub title: &'a str,
    pub effect: &'a str,
}

pub fn confirm(confirm: &Confirm<'_>) -> Markup {
    html! {
        h1 { (confirm.title) " " code { (confirm.store.id) } }
        p.message { (confirm.effect) }
        form.narrow method="post" action={ "/inspector/" (confirm.action) } {
            (log_fields(confirm.store))
            (typed("the id of the store", &confirmation(&confirm.store.id)))
            button.danger { (confirm.title) }
        }
        p { a href=(store_url(&confirm.store.id)) { "Back" } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_where_its_search_has_stopped() {
        let event = InspectedEvent { seq_num: 900, ..InspectedEvent::with_args(None) };
        let mut page = EventPage { events: vec![event], order: Order::Before(i64::MAX), stopped_at: Some(500) };
        let places = |page: &EventPage| -> Vec<String> {
            let rows = page_rows("s", page).into_string();
            rows.split("data-seq=\"").skip(1).map(|row| row.split('>').next().unwrap().to_owned()).collect()
        };
        assert_eq!(places(&page), ["900\"", "500\" data-stopped"]);
        page.order = Order::After(1);
        assert_eq!(places(&page), ["500\" data-stopped", "900\""]);
        page.stopped_at = None;
        assert_eq!(places(&page), ["900\""]);
    }
}
