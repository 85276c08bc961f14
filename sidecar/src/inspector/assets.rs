//! The files that pages load.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

const FILES: [(&str, &str, &str); 5] = [
    ("inspector.css", "text/css", include_str!("assets/inspector.css")),
    ("inspector.js", "text/javascript", include_str!("assets/inspector.js")),
    ("uplot.css", "text/css", include_str!("assets/uplot/uplot.css")),
    ("uplot.js", "text/javascript", include_str!("assets/uplot/uplot.js")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

/// A file. Its URL has the version of this program.
pub async fn file(Path(name): Path<String>) -> Response {
    match FILES.iter().find(|(known, _, _)| *known == name) {
        Some((_, kind, text)) => {
            let headers = [(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "public, max-age=3600")];
            (headers, *text).into_response()
        }
        None => (StatusCode::NOT_FOUND, "no such file\n").into_response(),
    }
}
