//! The web pages that may use this sidecar. Browsers tell where a page comes from; other clients have no origin.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use reqwest::Url;
use tower_http::cors::{AllowHeaders, AllowOrigin, AllowPrivateNetwork, CorsLayer};

use super::hosts::Hosts;

/// The pages that are served, by WebSocket and by HTTP alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Pages of this machine and of these hosts only. Otherwise every page that a browser on this machine shows could use a
    /// sidecar on loopback.
    Local(Hosts),
    /// All, without their cookies.
    Any,
    /// Exactly these, cookies included.
    Listed(Vec<HeaderValue>),
}

/// It is no origin.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is not an origin: write it as the browser does, https://app.example.com, or * for all; there are no other wildcards, so list each one"
)]
pub struct NotAnOrigin(String);

impl Origins {
    /// Reads origins as browsers write them, e.g. `https://app.example.com`, or nearly so, or `*`, or `local`.
    pub fn parse(origins: &[String], hosts: Hosts) -> Result<Self, NotAnOrigin> {
        if origins.iter().any(|origin| origin == "*") {
            return Ok(Self::Any);
        }
        if origins == ["local"] {
            return Ok(Self::Local(hosts));
        }
        // `https://*.example.com` is a URL, but no browser sends it.
        let parse = |origin: &String| {
            normal(origin).filter(|_| !origin.contains('*')).ok_or_else(|| NotAnOrigin(origin.clone()))
        };
        origins.iter().map(parse).collect::<Result<_, _>>().map(Self::Listed)
    }

    /// Whether a request comes from a page that is served, or from none.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        headers.get(header::ORIGIN).is_none_or(|origin| self.allow_origin(origin))
    }

    /// Whether the cookies of a request count. They do if it comes from a page that is served, according to `Origin` or,
    /// where browsers leave that out, to `Sec-Fetch-Site`. A page of somebody else must not use the cookies of the user who
    /// visits it, so they do not count if pages of all origins are served. Clients that are not pages can send a token in
    /// other ways.
    pub fn trust_cookies(&self, headers: &HeaderMap) -> bool {
        let is_ours = match headers.get(header::ORIGIN) {
            Some(origin) => self.allow_origin(origin),
            None => headers.get("sec-fetch-site").is_some_and(|site| site == "same-origin"),
        };
        is_ours && *self != Self::Any
    }

    fn allow_origin(&self, origin: &HeaderValue) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(origins) => {
                origins.contains(origin)
                    || origin.to_str().ok().and_then(normal).is_some_and(|origin| origins.contains(&origin))
            }
            Self::Local(hosts) => hosts.have_served(origin),
        }
    }

    /// The headers that tell browsers the same, and which headers of answers pages may read.
    pub fn cors(&self, exposed: Vec<HeaderName>) -> CorsLayer {
        let cors = CorsLayer::new()
            .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::OPTIONS])
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(exposed)
            .max_age(std::time::Duration::from_secs(3600));
        if *self == Self::Any {
            return cors.allow_origin(tower_http::cors::Any).allow_private_network(true);
        }
        let (origins, same) = (self.clone(), self.clone());
        cors.allow_origin(AllowOrigin::predicate(move |origin, _| origins.allow_origin(origin)))
            // Private Network Access: a browser asks whether a page of the internet may send requests to a private network.
            .allow_private_network(AllowPrivateNetwork::predicate(move |origin, _| same.allow_origin(origin)))
            .allow_credentials(matches!(self, Self::Listed(_)))
    }
}

/// An origin as browsers write it: scheme and host in lower case, names in ASCII, without the port that the scheme implies.
fn normal(origin: &str) -> Option<HeaderValue> {
    let url = Url::parse(origin).ok()?;
    let is_origin = url.username().is_empty()
        && url.password().is_none()
        && matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none();
    let (scheme, host) = (url.scheme(), url.host_str().filter(|host| is_origin && !host.is_empty())?);
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    // Of other schemes than the web's, `capacitor` for one, the host is left as it is.
    HeaderValue::from_str(&format!("{scheme}://{}{port}", host.to_ascii_lowercase())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Origins {
        Origins::Local(Hosts::default())
    }

    fn parse(origins: &[&str]) -> Result<Origins, NotAnOrigin> {
        let origins: Vec<_> = origins.iter().map(|&origin| origin.into()).collect();
        Origins::parse(&origins, Hosts::default())
    }

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
            assert!(allows(&local(), origin), "{origin}");
        }
        for origin in ["https://localhost.example.com", "http://192.168.0.1", "null", "https://example.com", ""] {
            assert!(!allows(&local(), origin), "{origin}");
        }
        assert!(local().allow(&HeaderMap::new()));
        let emulator = Origins::Local(Hosts::parse(&["10.0.2.2".into()], false).unwrap());
        assert!(allows(&emulator, "http://10.0.2.2:8787") && !allows(&emulator, "http://10.0.2.3:8787"));
    }

    #[test]
    fn cookies_count_for_pages_that_are_served() {
        let listed = parse(&["https://a.example"]).unwrap();
        let cookies = |origins: &Origins, headers: &[(&'static str, &'static str)]| {
            let header = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            origins.trust_cookies(&headers.iter().map(header).collect())
        };
        assert!(cookies(&listed, &[("origin", "https://a.example")]));
        assert!(cookies(&listed, &[("sec-fetch-site", "same-origin")]), "a GET of a page beside us");
        assert!(cookies(&local(), &[("origin", "http://localhost:1")]));
        for headers in [
            &[][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none")],
            &[("origin", "https://b.example"), ("sec-fetch-site", "same-origin")],
        ] {
            assert!(!cookies(&listed, headers), "{headers:?}");
        }
        for headers in [("origin", "https://a.example"), ("origin", "null"), ("sec-fetch-site", "same-origin")] {
            assert!(!cookies(&Origins::Any, &[headers]), "{headers:?}");
        }
    }

    #[test]
    fn listed_pages_are_exactly_those() {
        let listed = parse(&["https://a.example", "http://b.example:81"]).unwrap();
        assert!(allows(&listed, "https://a.example") && allows(&listed, "http://b.example:81"));
        for origin in
            ["http://a.example", "https://a.example:444", "http://localhost", "https://a.example.evil", "null"]
        {
            assert!(!allows(&listed, origin), "{origin}");
        }
        assert_eq!(parse(&["https://a.example", "*"]), Ok(Origins::Any));
        assert_eq!(parse(&["local"]), Ok(local()));
        for wrong in [
            "a.example",
            "https://a.example/path",
            "https://a.example/?",
            "https://a.example#",
            "https://u@a.example",
            "https://",
            "null",
            "",
            "https://*.example.com",
            "https://*",
            "http://localhost:*",
            "*.example.com",
        ] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_origin_may_be_written_in_more_ways_than_browsers_do() {
        for (written, sent) in [
            ("https://a.example:443", "https://a.example"),
            ("HTTPS://A.Example", "https://a.example"),
            ("http://a.example:80/", "http://a.example"),
            ("https://bücher.example", "https://xn--bcher-kva.example"),
            ("https://a.example", "https://a.example:443"),
            ("http://[::1]:80", "http://[::1]"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("Tauri://LocalHost", "tauri://localhost"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ] {
            assert!(allows(&parse(&[written]).unwrap(), sent), "{written}");
        }
        let listed = parse(&["https://a.example:443"]).unwrap();
        assert!(!allows(&listed, "http://a.example:443") && !allows(&listed, "https://a.example:80"));
    }

    /// Pages are told apart by one reading of an origin, and connected to by another.
    #[test]
    fn fuzz_origin() {
        fuzzing::text_target!("origin", |text| {
            let Ok(origin) = HeaderValue::from_str(text) else { return };
            let headers = HeaderMap::from_iter([(header::ORIGIN, origin)]);
            if let Ok(Origins::Listed(listed)) = parse(&[text]) {
                // No browser sends another.
                assert!(!text.is_ascii() || Origins::Listed(listed.clone()).allow(&headers));
                let other = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_static("https://other.example"))]);
                let is_other = listed == ["https://other.example"];
                assert_eq!(Origins::Listed(listed).allow(&other), is_other);
            }
            if let Ok(url) = text.parse::<reqwest::Url>()
                && let Some(host) = url.host_str()
                && local().allow(&headers)
            {
                // Of schemes that are not the web's the case is kept, and the dot after an address.
                let host = host.to_ascii_lowercase();
                let host = host.strip_suffix('.').unwrap_or(&host);
                let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
                let is_local = host == "localhost" || host.ends_with(".localhost");
                assert!(is_local || address.is_ok_and(|address| address.to_canonical().is_loopback()), "{host}");
            }
        });
    }
}
