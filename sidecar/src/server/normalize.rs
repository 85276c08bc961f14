//! A request as the routes expect it. Clients and proxies write the same request in more ways than one.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

use super::observe::UNLOGGED;

/// Takes empty segments out of the path, and leaves of `Connection` and `Upgrade` what asks for a WebSocket.
pub fn normalize(mut request: Request) -> Request {
    if let Some(uri) = without_empty_segments(request.uri())
        && !is_for_operators(request.uri().path(), uri.path())
    {
        *request.uri_mut() = uri;
    }
    let headers = request.headers_mut();
    if lists(headers, &header::CONNECTION, "upgrade") && lists(headers, &header::UPGRADE, "websocket") {
        // Proxies send a line for each of `keep-alive` and `upgrade`, and axum reads the first.
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    request
}

/// A page for operators that a rule of a proxy in front would not recognize as it is written. These pages have one way to be written each.
fn is_for_operators(written: &str, meant: &str) -> bool {
    let is_inspector = |path: &str| path == "/inspector" || path.starts_with("/inspector/");
    UNLOGGED.contains(&meant) || is_inspector(meant) && !is_inspector(written)
}

/// An endpoint that was configured with a slash at its end, or put together from parts that both had one: `/api/s2/`,
/// `//api/s2`.
fn without_empty_segments(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    if !path.contains("//") && (path == "/" || !path.ends_with('/')) {
        return None;
    }
    let segments: Vec<_> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("/{}{query}", segments.join("/")).parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// Whether a header with a list, on one line or several, has this token.
fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|listed| listed.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_segments_count_for_nothing() {
        for (written, meant) in [
            ("/api/s2/", "/api/s2"),
            ("//api//s2///?args=a//b/", "/api/s2?args=a//b/"),
            ("/?storeId=a/", "/?storeId=a/"),
            ("//", "/"),
            ("/a%2F/b", "/a%2F/b"),
            ("http://host//a/?b", "http://host/a?b"),
        ] {
            let uri: Uri = written.parse().unwrap();
            assert_eq!(without_empty_segments(&uri).unwrap_or(uri).to_string(), meant, "{written}");
        }
    }

    #[test]
    fn pages_for_operators_are_found_where_a_rule_of_a_proxy_looks() {
        let meant = |written: &str| {
            let request = Request::builder().uri(written).body(axum::body::Body::empty()).unwrap();
            normalize(request).uri().path().to_owned()
        };
        for written in ["//metrics", "/metrics/", "/readyz/", "//inspector/store", "//inspector"] {
            assert_eq!(meant(written), written);
        }
        assert_eq!([meant("/inspector/"), meant("/inspector//store")], ["/inspector", "/inspector/store"]);
        assert_eq!(meant("/metrics"), "/metrics");
    }

    #[test]
    fn a_list_may_be_on_several_lines() {
        let mut headers = HeaderMap::new();
        headers.append(header::CONNECTION, HeaderValue::from_static("keep-alive"));
        assert!(!lists(&headers, &header::CONNECTION, "upgrade"));
        headers.append(header::CONNECTION, HeaderValue::from_static("te, Upgrade"));
        assert!(lists(&headers, &header::CONNECTION, "upgrade") && !lists(&headers, &header::UPGRADE, "websocket"));
    }

    #[test]
    fn fuzz_path() {
        fuzzing::text_target!("path", |text| {
            let Ok(uri) = text.parse::<Uri>() else { return };
            let Some(tidy) = without_empty_segments(&uri) else { return };
            assert!(tidy.query() == uri.query() && without_empty_segments(&tidy).is_none());
            let segments =
                |uri: &Uri| uri.path().split('/').filter(|s| !s.is_empty()).map(String::from).collect::<Vec<_>>();
            assert_eq!(segments(&tidy), segments(&uri));
        });
    }
}
