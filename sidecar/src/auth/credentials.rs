//! The tokens that a request brings.

use std::fmt;

use axum::http::{HeaderMap, header};
use serde::Deserialize;

/// The cookie, the query parameter and the field of the sync payload that hold a token.
const COOKIE: &str = "auth_token";
const PARAMETER: &str = "token";

/// The tokens of a request, by where they are. One of them counts: that of the header `authorization`, or else of the sync
/// payload (`authToken`), or of the query parameter `token`, or of the cookie `auth_token`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    authorization: Option<Box<str>>,
    payload: Option<Box<str>>,
    query: Option<Box<str>>,
    cookie: Option<Box<str>>,
}

impl Credentials {
    /// Those of the headers and the query. `may_use_cookies`: the request comes from a page that may act in the name of
    /// whoever looks at it.
    pub fn new(headers: &HeaderMap, query: Option<&str>, may_use_cookies: bool) -> Self {
        Self {
            authorization: of_authorization(headers),
            payload: None,
            query: query.and_then(of_query),
            cookie: may_use_cookies.then(|| of_cookies(headers)).flatten(),
        }
    }

    /// A token that is known already.
    pub fn of_token(token: &str) -> Self {
        Self { authorization: Some(token.into()), ..Self::default() }
    }

    /// Whether the header `authorization` has a token. A page of another origin can set this header only if CORS allows it,
    /// and no page can set it for a WebSocket.
    pub fn have_bearer(headers: &HeaderMap) -> bool {
        of_authorization(headers).is_some()
    }

    /// The same with that of a sync payload, as JSON, in place of any before.
    pub fn with_payload(self, payload: Option<&str>) -> Self {
        Self { payload: payload.and_then(of_payload), ..self }
    }

    /// The one that counts.
    pub fn token(&self) -> Option<&str> {
        let places = [&self.authorization, &self.payload, &self.query, &self.cookie];
        places.into_iter().find_map(Option::as_deref)
    }
}

/// Tokens stay out of every log.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

/// The only one. If there are two, neither is taken: a server in front may have checked the other one.
pub fn only<T>(mut tokens: impl Iterator<Item = T>) -> Option<T> {
    let token = tokens.next();
    token.filter(|_| tokens.next().is_none())
}

fn of_authorization(headers: &HeaderMap) -> Option<Box<str>> {
    let header = only(headers.get_all(header::AUTHORIZATION).iter())?;
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().into())
}

/// As LiveStore's documentation puts it there: `syncPayload: { authToken }`.
fn of_payload(payload: &str) -> Option<Box<str>> {
    #[derive(Deserialize)]
    struct Payload {
        #[serde(rename = "authToken")]
        auth_token: Option<Box<str>>,
    }
    if !payload.starts_with('{') {
        return None;
    }
    serde_json::from_str::<Payload>(payload).ok()?.auth_token
}

fn of_query(query: &str) -> Option<Box<str>> {
    let parameters: Vec<(String, String)> = serde_urlencoded::from_str(query).ok()?;
    only(parameters.into_iter().filter(|(name, _)| name == PARAMETER).map(|(_, token)| token.into()))
}

fn of_cookies(headers: &HeaderMap) -> Option<Box<str>> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let cookies = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|cookie| cookie.split_once('='));
    let (_, token) = only(cookies.filter(|(name, _)| name.trim() == COOKIE))?;
    Some(token.trim().trim_matches('"').into())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn the_first_place_counts() {
        let mut headers = HeaderMap::new();
        assert_eq!(Credentials::new(&headers, None, true).token(), None);
        headers.append(header::COOKIE, HeaderValue::from_static("a=b; my_auth_token=x"));
        headers.append(header::COOKIE, HeaderValue::from_static("c; auth_token=\"of.the.cookie\"; d=e"));
        assert_eq!(Credentials::new(&headers, Some("a=b"), false).token(), None);
        let of_cookie = Credentials::new(&headers, Some("a=b"), true);
        assert_eq!(of_cookie.token(), Some("of.the.cookie"));
        let of_query = Credentials::new(&headers, Some("a=b&token=of%2Ethe.query"), true);
        assert_eq!(of_query.token(), Some("of.the.query"));
        let of_payload = of_query.clone().with_payload(Some(r#"{"authToken":"of.the.\u0070ayload","b":[]}"#));
        assert_eq!(of_payload.token(), Some("of.the.payload"));
        for other in [r#"{"authToken":null}"#, r#"{"authToken":1}"#, r#"["token"]"#, r#""token""#, "null", "{}"] {
            assert_eq!(of_payload.clone().with_payload(Some(other)).token(), Some("of.the.query"), "{other}");
        }
        assert_eq!(Credentials::new(&HeaderMap::new(), Some("token=a&token=b"), false).token(), None);
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic abc"));
        assert_eq!(Credentials::new(&headers, Some("token=q"), true).token(), Some("q"));
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("bearer  of.the.header"));
        let of_header = Credentials::new(&headers, Some("token=q"), true);
        assert_eq!(of_header.with_payload(Some(r#"{"authToken":"p"}"#)).token(), Some("of.the.header"));
    }

    #[test]
    fn of_two_in_one_place_neither_counts() {
        let two = |name: HeaderName, first, second| {
            let mut headers = HeaderMap::new();
            headers.append(&name, HeaderValue::from_static(first));
            headers.append(&name, HeaderValue::from_static(second));
            headers
        };
        for (first, second) in [("Bearer a", "Bearer b"), ("Bearer a", "Bearer a"), ("Basic a", "Bearer b")] {
            let headers = two(header::AUTHORIZATION, first, second);
            assert_eq!(Credentials::new(&headers, None, true).token(), None, "{first}, {second}");
            assert_eq!(Credentials::new(&headers, Some("token=q"), true).token(), Some("q"), "{first}, {second}");
            assert!(!Credentials::have_bearer(&headers));
        }
        let one_line = HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_static("auth_token=a; auth_token=b"))]);
        for headers in [one_line, two(header::COOKIE, "auth_token=a", "auth_token=b")] {
            assert_eq!(Credentials::new(&headers, None, true).token(), None);
        }
    }

    #[test]
    fn tokens_are_not_shown() {
        let credentials = Credentials::new(&HeaderMap::new(), Some("token=secret"), false);
        assert!(!format!("{credentials:?}").contains("secret"));
    }

    #[test]
    fn fuzz_credentials() {
        fuzzing::text_target!("credentials", |text| {
            let mut lines = text.splitn(4, '\n');
            let [authorization, cookie, query, payload] = std::array::from_fn(|_| lines.next().unwrap_or_default());
            let headers = |lines: &[(HeaderName, &str)]| {
                let value =
                    |(name, value): &(HeaderName, &str)| Some((name.clone(), HeaderValue::from_str(value).ok()?));
                lines.iter().filter_map(value).collect::<HeaderMap>()
            };
            let (authorization, cookie) = ((header::AUTHORIZATION, authorization), (header::COOKIE, cookie));
            let of_header = Credentials::new(&headers(std::slice::from_ref(&authorization)), None, false);
            let of_payload = Credentials::default().with_payload(Some(payload));
            let of_query = Credentials::new(&HeaderMap::new(), Some(query), false);
            let cookies = headers(std::slice::from_ref(&cookie));
            assert_eq!(Credentials::new(&cookies, None, false).token(), None);
            let of_cookie = Credentials::new(&cookies, None, true);
            let first = [&of_header, &of_payload, &of_query, &of_cookie].into_iter().find_map(|one| one.token());
            let all =
                Credentials::new(&headers(&[authorization, cookie]), Some(query), true).with_payload(Some(payload));
            assert_eq!(all.token(), first);
            assert_eq!(format!("{all:?}"), "Credentials");
        });
    }
}
