//! Which web pages may use this sidecar. Browsers tell where a page comes from; other clients have no origin.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

/// What pages read of an answer beside its body: without the first three, clients of Electric give up.
const ELECTRIC_HEADERS: [&str; 7] = [
    "electric-handle",
    "electric-offset",
    "electric-schema",
    "electric-cursor",
    "electric-up-to-date",
    "electric-has-data",
    "etag",
];

/// The pages that are served, by WebSocket and by HTTP alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Those that this machine serves: everybody's browser can reach loopback.
    Local,
    /// All, without their cookies.
    Any,
    /// Exactly these, cookies included.
    Listed(Vec<HeaderValue>),
}

impl Origins {
    /// Reads origins as browsers write them, e.g. `https://app.example.com`, or `*`, or `local`.
    ///
    /// # Errors
    /// Which of them is none.
    pub fn parse(origins: &[String]) -> Result<Self, String> {
        if origins.iter().any(|origin| origin == "*") {
            return Ok(Self::Any);
        }
        if origins == ["local"] {
            return Ok(Self::Local);
        }
        let parse = |origin: &String| {
            let is_origin = origin
                .parse::<Uri>()
                .is_ok_and(|uri| uri.scheme().is_some() && uri.path_and_query().is_none_or(|path| path == "/"));
            HeaderValue::from_str(origin).ok().filter(|_| is_origin && !origin.ends_with('/')).ok_or_else(|| {
                format!(
                    "{origin} is not an origin: write it as the browser does, https://app.example.com, or * for all"
                )
            })
        };
        origins.iter().map(parse).collect::<Result<_, _>>().map(Self::Listed)
    }

    /// Whether a request comes from a page that is served, or from none.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        headers.get(header::ORIGIN).is_none_or(|origin| self.allow_origin(origin))
    }

    /// Whether a request may bring cookies: pages of every origin may not act in the name of whoever looks at them.
    pub fn trust(&self, headers: &HeaderMap) -> bool {
        !headers.contains_key(header::ORIGIN) || (*self != Self::Any && self.allow(headers))
    }

    /// Whether a cookie may say who somebody is: only to a page that is served. Whoever is no page has other means.
    pub fn trust_cookies(&self, headers: &HeaderMap) -> bool {
        headers.contains_key(header::ORIGIN) && self.trust(headers)
    }

    fn allow_origin(&self, origin: &HeaderValue) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(origins) => origins.contains(origin),
            Self::Local => {
                let uri = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
                let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
                let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
                host == "localhost"
                    || host.ends_with(".localhost")
                    || address.is_ok_and(|address| address.is_loopback())
            }
        }
    }

    /// The headers that tell browsers the same.
    pub fn cors(&self) -> CorsLayer {
        let cors = CorsLayer::new()
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::OPTIONS])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(ELECTRIC_HEADERS.map(HeaderName::from_static))
            .max_age(std::time::Duration::from_secs(3600));
        match self {
            Self::Any => cors.allow_origin(tower_http::cors::Any),
            Self::Listed(origins) => cors.allow_origin(origins.clone()).allow_credentials(true),
            Self::Local => {
                let origins = self.clone();
                cors.allow_origin(AllowOrigin::predicate(move |origin, _| origins.allow_origin(origin)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn allows(origins: &Origins, origin: &'static str) -> bool {
        origins.allow(&HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static(origin))]))
    }

    #[test]
    fn local_pages_are_those_of_this_machine() {
        for origin in [
            "http://localhost",
            "https://localhost:5173",
            "http://app.localhost",
            "http://127.0.0.1:80",
            "http://[::1]:3",
        ] {
            assert!(allows(&Origins::Local, origin), "{origin}");
        }
        for origin in ["https://localhost.example.com", "http://192.168.0.1", "null", "https://example.com", ""] {
            assert!(!allows(&Origins::Local, origin), "{origin}");
        }
        assert!(Origins::Local.allow(&HeaderMap::new()) && Origins::Any.trust(&HeaderMap::new()));
        assert!(!Origins::Any.trust(&HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static("null"))])));
    }

    #[test]
    fn listed_pages_are_exactly_those() {
        let listed = Origins::parse(&["https://a.example".into(), "http://b.example:81".into()]).unwrap();
        assert!(allows(&listed, "https://a.example") && allows(&listed, "http://b.example:81"));
        for origin in
            ["http://a.example", "https://a.example:444", "http://localhost", "https://a.example.evil", "null"]
        {
            assert!(!allows(&listed, origin), "{origin}");
        }
        assert_eq!(Origins::parse(&["https://a.example".into(), "*".into()]), Ok(Origins::Any));
        assert_eq!(Origins::parse(&["local".into()]), Ok(Origins::Local));
        for wrong in ["a.example", "https://a.example/", "https://a.example/path", "https://", "null", ""] {
            assert!(Origins::parse(&[wrong.into()]).is_err(), "{wrong}");
        }
    }

    /// Pages are told apart by one reading of an origin, and connected to by another.
    #[test]
    fn fuzz_origin() {
        fuzzing::text_target!("origin", |text| {
            let Ok(origin) = HeaderValue::from_str(text) else { return };
            let headers = HeaderMap::from_iter([(header::ORIGIN, origin)]);
            if let Ok(Origins::Listed(listed)) = Origins::parse(&[text.into()]) {
                assert!(Origins::Listed(listed.clone()).allow(&headers) && listed.len() == 1);
                let other = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static("https://other.example"))]);
                assert!(text == "https://other.example" || !Origins::Listed(listed).allow(&other));
            }
            if let Ok(url) = text.parse::<reqwest::Url>()
                && let Some(host) = url.host_str()
                && Origins::Local.allow(&headers)
            {
                let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
                let is_local = host == "localhost" || host.ends_with(".localhost");
                assert!(is_local || address.is_ok_and(|address| address.is_loopback()), "{host}");
            }
        });
    }
}
