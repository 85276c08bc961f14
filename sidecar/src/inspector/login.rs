//! Logging in and out.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};

use super::access::{NOT_OWN_PAGE, end_session, is_own_page};
use super::answers::{Failure, problem};
use super::pages::{self, Page};
use super::{Inspector, PREFIX};
use crate::limits::peer::Peer;

/// The largest form of somebody who is not known yet.
const LOGIN_BYTES: usize = 16 << 10;

impl Inspector {
    pub(super) fn login(&self, status: StatusCode, problem: Option<&str>) -> Response {
        let content = pages::login(problem, self.door.secret.is_some(), self.door.takes_tokens);
        let page = Page { title: "Log in", path: "", visitor: None, has_plots: false };
        (status, Html(page.around(&content))).into_response()
    }
}

pub async fn page(State(inspector): State<Arc<Inspector>>) -> Response {
    inspector.login(StatusCode::OK, None)
}

pub async fn log_in(State(inspector): State<Arc<Inspector>>, request: Request) -> Result<Response, Failure> {
    let (Parts { headers, extensions, .. }, body) = request.into_parts();
    if !is_own_page(&headers) {
        // Text, as the commands of `cli` log in here, too.
        return Ok((StatusCode::FORBIDDEN, NOT_OWN_PAGE).into_response());
    }
    let form = inspector.form(body, LOGIN_BYTES).await?;
    match inspector.door.log_in(form.field("key")?.trim(), &headers, Peer::of(&extensions)).await {
        Ok(cookie) => Ok(([(header::SET_COOKIE, cookie)], Redirect::to(PREFIX)).into_response()),
        Err(no_entry) => Ok(inspector.login(StatusCode::UNAUTHORIZED, Some(&no_entry.to_string()))),
    }
}

pub async fn log_out(headers: HeaderMap) -> Response {
    if !is_own_page(&headers) {
        return problem(StatusCode::FORBIDDEN, None, "Refused", NOT_OWN_PAGE, PREFIX);
    }
    ([(header::SET_COOKIE, end_session())], Redirect::to(PREFIX)).into_response()
}
