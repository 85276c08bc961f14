//! Where a request has its token.

use std::borrow::Cow;

use axum::http::{HeaderMap, header};

/// The cookie and the query parameter that hold a token.
const COOKIE: &str = "auth_token";
const PARAMETER: &str = "token";

/// The first token there is: that of the header `authorization`, of the query, of the cookies.
pub fn find<'a>(headers: &'a HeaderMap, query: Option<&'a str>, may_use_cookies: bool) -> Option<Cow<'a, str>> {
    let cookie = || if may_use_cookies { of_cookies(headers) } else { None };
    of_authorization(headers).or_else(|| of_query(query)).or_else(cookie)
}

fn of_authorization(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().into())
}

fn of_query(query: Option<&str>) -> Option<Cow<'_, str>> {
    let parameters: Vec<(Cow<'_, str>, Cow<'_, str>)> = serde_urlencoded::from_str(query?).ok()?;
    parameters.into_iter().find(|(name, _)| name == PARAMETER).map(|(_, token)| token)
}

fn of_cookies(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    cookies
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.split_once('='))
        .find(|(name, _)| name.trim() == COOKIE)
        .map(|(_, token)| token.trim().trim_matches('"').into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn the_first_place_counts() {
        let mut headers = HeaderMap::new();
        assert_eq!(find(&headers, None, true), None);
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; my_auth_token=x"));
        headers.append(header::COOKIE, HeaderValue::from_static("c; auth_token=\"of.the.cookie\"; d=e"));
        assert_eq!(find(&headers, Some("a=b"), false), None);
        assert_eq!(find(&headers, Some("a=b"), true).unwrap(), "of.the.cookie");
        assert_eq!(find(&headers, Some("a=b&token=of%2Ethe.query"), true).unwrap(), "of.the.query");
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic abc"));
        assert_eq!(find(&headers, Some("token=q"), true).unwrap(), "q");
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("bearer  of.the.header"));
        assert_eq!(find(&headers, Some("token=q"), true).unwrap(), "of.the.header");
    }
}
