//! The frame of every page.

use maud::{DOCTYPE, Markup, html};

use crate::inspector::access::Visitor;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The pages of the navigation: path, title.
const NAVIGATION: [(&str, &str); 4] = [
    ("/inspector", "Overview"),
    ("/inspector/stores", "Stores"),
    ("/inspector/refusals", "Refusals"),
    ("/inspector/subscriptions", "Subscriptions"),
];

/// A page around its content.
pub struct Page<'a> {
    pub title: &'a str,
    /// The path of the navigation that it belongs to.
    pub path: &'a str,
    /// `None`: somebody who has to log in.
    pub visitor: Option<&'a Visitor>,
    pub has_plots: bool,
}

impl Page<'_> {
    pub fn around(&self, content: &Markup) -> String {
        let asset = |name: &str| format!("/inspector/assets/{name}?{VERSION}");
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " – livestore_sync" }
                    link rel="icon" type="image/svg+xml" href=(asset("icon.svg"));
                    link rel="stylesheet" href=(asset("inspector.css"));
                    @if self.has_plots {
                        link rel="stylesheet" href=(asset("uplot.css"));
                        script defer src=(asset("uplot.js")) {}
                    }
                    script defer src=(asset("inspector.js")) {}
                }
                body {
                    a.skip href="#content" { "Skip to the content" }
                    header {
                        a.brand href="/inspector" { "livestore_sync" }
                        @if let Some(visitor) = self.visitor {
                            nav aria-label="Pages" {
                                @for (path, title) in NAVIGATION {
                                    a href=(path) aria-current=[(path == self.path).then_some("page")] { (title) }
                                }
                            }
                            @if visitor.is_logged_in {
                                form.session method="post" action="/inspector/logout" {
                                    @if !visitor.subject.is_empty() { span { (visitor.subject) } }
                                    button { "Log out" }
                                }
                            } @else {
                                a.session href="/inspector/login" { "Log in" }
                            }
                        }
                    }
                    main id="content" { (content) }
                    footer { "livestore-sidecar " (VERSION) }
                }
            }
        };
        page.into_string()
    }
}

/// The content of a page that says one thing.
pub fn message(title: &str, text: &str, back: &str) -> Markup {
    html! {
        h1 { (title) }
        p.message role="alert" { (text) }
        p { a href=(back) { "Back" } }
    }
}
