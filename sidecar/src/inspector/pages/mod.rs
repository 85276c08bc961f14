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

/// The text that confirms a change of a store: its id, encoded if it has characters that cannot be typed or seen. It could look like the id of
/// another store.
pub fn confirmation(id: &str) -> String {
    // A page shows neither spaces at an end nor more than one in a row.
    let has_unseen_space = id.trim() != id || id.contains("  ");
    if has_unseen_space || id.chars().any(is_unseen) { encoded(id) } else { id.into() }
}

/// Whether a character is a control character, a space of another kind, or a mark without a width or that turns the direction of the text: those
/// that Unicode calls default ignorable, and its bidirectional controls.
fn is_unseen(character: char) -> bool {
    character.is_control()
        || character.is_whitespace() && character != ' '
        || matches!(
            character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}'
                | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
                | '\u{e0000}'..='\u{e0fff}'
        )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_looks_like_another_is_confirmed_encoded() {
        for id in ["todos", "my todos", "Üser:1", "待办", "todos-1"] {
            assert_eq!(confirmation(id), id);
        }
        for (id, encoded) in [("todos ", "todos%20"), (" todos", "%20todos"), ("a  b", "a%20%20b")] {
            assert_eq!(confirmation(id), encoded);
        }
        for mark in [
            '\n',
            '\u{a0}',
            '\u{ad}',
            '\u{200b}',
            '\u{200d}',
            '\u{202e}',
            '\u{2066}',
            '\u{2028}',
            '\u{feff}',
            '\u{e0061}',
        ] {
            let id = format!("to{mark}dos");
            let confirmation = confirmation(&id);
            assert!(confirmation.is_ascii() && confirmation.starts_with("to%"), "{mark:?}: {confirmation}");
        }
    }
}
