//! The pages as HTML: what is read goes in, markup comes out. No page asks the database.

mod access;
mod layout;
mod overview;
mod refusals;
mod store;
mod stores;
mod subscriptions;

use chrono::{DateTime, SecondsFormat, Utc};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

pub use access::login;
pub use layout::{Page, message};
pub use overview::{Overview, overview};
pub use refusals::refusals;
pub use store::{Confirm, EventView, StorePage, clients, confirm, event, page_rows, rows, store};
pub use stores::{List, StoresPage, stores};
pub use subscriptions::subscriptions;

/// A value in the query of a URL.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// The text that confirms a change of a store: its id, encoded if it has characters that cannot be typed.
pub fn confirmation(id: &str) -> String {
    if id.chars().any(char::is_control) { encoded(id) } else { id.into() }
}

/// The URL of the page of a store.
fn store_url(id: &str) -> String {
    format!("/inspector/store?id={}", encoded(id))
}

fn iso(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A moment: a script shows it in the time zone of the browser.
fn time(at: DateTime<Utc>) -> maud::Markup {
    let iso = iso(at);
    maud::html! { time datetime=(iso) { (iso) } }
}

/// The beginning of a text that may be long.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}
