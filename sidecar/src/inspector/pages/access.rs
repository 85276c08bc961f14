//! The login.

use maud::{Markup, html};

/// The form. `problem`: why the last attempt failed; `has_secret`, `takes_tokens`: what opens the inspector.
pub fn login(problem: Option<&str>, has_secret: bool, takes_tokens: bool) -> Markup {
    let what = match (has_secret, takes_tokens) {
        (true, true) => "The secret of --inspector-secret, or a token whose claim gives \"*\".",
        (true, false) => "The secret of --inspector-secret.",
        (false, true) => "A token whose claim gives \"*\": read, write or admin.",
        (false, false) => "Nobody can log in: start the sidecar with --inspector-secret (LIVESTORE_INSPECTOR_SECRET).",
    };
    html! {
        h1 { "Log in" }
        @if let Some(problem) = problem { p.message role="alert" { (problem) } }
        form.narrow method="post" action="/inspector/login" {
            label for="key" { "Secret or token" }
            input id="key" name="key" type="password" autocomplete="current-password" required autofocus aria-describedby="what";
            p.hint id="what" { (what) }
            button { "Log in" }
        }
    }
}
