//! The list of stores.

use maud::{Markup, html};

use super::{encoded, store_url, time};
use crate::log::InspectedStore;

/// The stores that are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    Newest,
    Recent,
    Prefix,
}

pub struct StoresPage<'a> {
    pub list: List,
    pub prefix: &'a str,
    pub stores: &'a [InspectedStore],
    pub has_more: bool,
}

pub fn stores(page: &StoresPage<'_>) -> Markup {
    let current = |list: List| (page.list == list).then_some("page");
    let next = page.stores.last().filter(|_| page.has_more).map(|last| match page.list {
        List::Prefix => format!(
            "/inspector/stores?prefix={}&after={}&number={}",
            encoded(page.prefix),
            encoded(&last.id),
            last.number
        ),
        _ => format!("/inspector/stores?before={}", last.number),
    });
    html! {
        h1 { "Stores" }
        form.inline role="search" action="/inspector/stores" {
            label for="prefix" { "Store id begins with" }
            input id="prefix" name="prefix" value=(page.prefix) maxlength="1024";
            button { "Search" }
        }
        nav.tabs aria-label="Order" {
            a href="/inspector/stores" aria-current=[current(List::Newest)] { "Newest" }
            a href="/inspector/stores?recent=1" aria-current=[current(List::Recent)] { "Recently active" }
        }
        @if page.stores.is_empty() {
            p { @if page.list == List::Newest { "There is no store yet: the first push of a client makes one." } @else { "None." } }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Stores" { table {
                thead { tr {
                    th scope="col" { "Store" }
                    th scope="col" { "Head" }
                    th scope="col" { "Table" }
                    th scope="col" { @if page.list == List::Recent { "Last commit" } @else { "Created" } }
                } }
                tbody { @for store in page.stores {
                    tr {
                        td { a href=(store_url(&store.id)) { code { (store.id) } } }
                        td.number { (store.head) }
                        td { @if store.is_dedicated { "dedicated" } @else { "shared" } }
                        td { (time(store.committed_at.unwrap_or(store.created_at))) }
                    }
                } }
            } }
        }
        @if let Some(next) = next { p { a rel="next" href=(next) { "More" } } }
    }
}
