//! Durable subscriptions.

use maud::{Markup, html};

use super::{store_url, time};
use crate::log::{DeadLetter, InspectedSubscription};

/// `may_resend`: there is a button that gives a dead letter out again.
pub fn subscriptions(subscriptions: &[InspectedSubscription], letters: &[DeadLetter], may_resend: bool) -> Markup {
    html! {
        h1 { "Subscriptions" }
        @if subscriptions.is_empty() {
            p { "There are none. " code { "select livestore.subscribe(…)" } " makes one." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Subscriptions" { table {
                thead { tr {
                    th scope="col" { "Name" } th scope="col" { "Position" } th scope="col" { "Behind" } th scope="col" { "Failures" }
                    th scope="col" { "Dead letters" } th scope="col" { "Last error" } th scope="col" { "Polled" }
                } }
                tbody { @for subscription in subscriptions {
                    tr {
                        td { code { (subscription.name) } }
                        td.number { (subscription.position) }
                        td.number { (subscription.lag_events) " events" br; small { (format!("{:.0} s", subscription.lag_seconds)) } }
                        td.number { (subscription.failures) }
                        td.number { (subscription.dead_letters) }
                        td.text { (subscription.error.as_deref().unwrap_or_default()) }
                        td { @match subscription.polled_at { Some(at) => (time(at)), None => "never" } }
                    }
                } }
            } }
        }
        h2 { "Dead letters" }
        @if letters.is_empty() { p { "None." } } @else {
            div.scroll tabindex="0" role="region" aria-label="Dead letters" { table {
                thead { tr {
                    th scope="col" { "Subscription" } th scope="col" { "Store" } th scope="col" { "Event" } th scope="col" { "Failures" }
                    th scope="col" { "Error" } th scope="col" { "Given up" } th scope="col" { "Send again" }
                } }
                tbody { @for letter in letters {
                    tr {
                        td { code { (letter.subscription) } }
                        td { a href=(store_url(&letter.store_id)) { code { (letter.store_id) } } }
                        td { @if let Some(seq_num) = letter.seq_num { (seq_num) " " } (letter.name.as_deref().unwrap_or_default()) }
                        td.number { (letter.failures) }
                        td.text { (letter.error.as_deref().unwrap_or_default()) }
                        td { (time(letter.failed_at)) }
                        td {
                            @if letter.is_queued { "queued" } @else if may_resend {
                                form method="post" action="/inspector/resend" {
                                    input type="hidden" name="id" value=(letter.id);
                                    button { "Send again" }
                                }
                            } @else { "needs livestore_admin" }
                        }
                    }
                } }
            } }
        }
    }
}
