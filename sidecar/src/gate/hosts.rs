//! The host names that a sidecar answers to. A page whose own name resolves to this machine (DNS rebinding) is of the same origin as what
//! answers there: no `Origin` gives it away, only the `Host` that its requests name.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, Uri, header};

/// The names that are served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Every name is served: tokens protect the stores, or the operator allows it (`--insecure-no-auth`, `--allowed-hosts *`).
    any: bool,
    /// Beside those of this machine, in lower case.
    listed: Vec<String>,
}

/// It is neither a name nor `*`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} is not a host: write its name, sync.example.com, or * for all; there are no other wildcards, so list each one"
)]
pub struct NotAHost(String);

impl Hosts {
    /// Reads names, with or without a port, or `*` for all. Without any, all are served if `any`, or else those of this machine.
    pub fn parse(listed: &[String], any: bool) -> Result<Self, NotAHost> {
        if listed.iter().any(|host| host == "*") {
            return Ok(Self { any: true, listed: Vec::new() });
        }
        let parse = |text: &String| {
            let is_host = text.parse::<axum::http::uri::Authority>().is_ok() && !text.contains(['@', '*']);
            let host = name(text);
            if is_host && !host.is_empty() { Ok(host.to_ascii_lowercase()) } else { Err(NotAHost(text.clone())) }
        };
        let listed = listed.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { any: any && listed.is_empty(), listed })
    }

    /// Whether the names in the header `Host` are served. A request without this header is served, because it cannot come
    /// from a browser.
    pub fn serve(&self, headers: &HeaderMap) -> bool {
        let is_ours = |host: &str| self.are_ours(host) || is_of_a_local_network(host);
        let is_served = |host: &HeaderValue| host.to_str().is_ok_and(|host| is_ours(name(host)));
        self.any || headers.get_all(header::HOST).iter().all(is_served)
    }

    /// The listed names by which others than this machine may reach it.
    pub fn beyond_this_machine(&self) -> impl Iterator<Item = &str> {
        let own = Self::default();
        let is_beyond = move |host: &&str| !own.are_ours(host) && !is_of_a_local_network(host);
        self.listed.iter().map(String::as_str).filter(is_beyond)
    }

    /// Whether an origin is a page of one of these hosts, by name.
    pub fn have_served(&self, origin: &HeaderValue) -> bool {
        let uri = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
        uri.as_ref().and_then(Uri::host).is_some_and(|host| self.are_ours(host))
    }

    fn are_ours(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost"
            || host.ends_with(".localhost")
            || address.is_ok_and(|address| address.to_canonical().is_loopback())
            || self.listed.contains(&host)
    }
}

/// A name without a dot, as containers of a compose file have: no page of the internet has one.
fn is_of_a_local_network(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// A host without its port.
fn name(host: &str) -> &str {
    match host.find(']') {
        Some(end) if host.starts_with('[') => &host[..=end],
        _ => host.split(':').next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serves(hosts: &Hosts, host: &str) -> bool {
        hosts.serve(&HeaderMap::from_iter([(header::HOST, HeaderValue::from_str(host).unwrap())]))
    }

    #[test]
    fn names_of_this_machine_are_served_and_those_that_are_listed() {
        let local = Hosts::parse(&[], false).unwrap();
        for host in [
            "localhost",
            "LocalHost:8787",
            "localhost.:1",
            "app.localhost:8787",
            "127.0.0.1:8787",
            "127.9.9.9",
            "[::1]:8787",
            "[::ffff:127.0.0.1]",
            "sidecar:8787",
        ] {
            assert!(serves(&local, host), "{host}");
        }
        let others = [
            "evil.example",
            "evil.example:8787",
            "localhost.evil.example",
            "10.0.2.2:8787",
            "127.0.0.1.evil.example",
            "",
            "[::1",
        ];
        for host in others {
            assert!(!serves(&local, host), "{host}");
        }
        assert!(local.serve(&HeaderMap::new()), "no browser");
        let listed = Hosts::parse(&["10.0.2.2:8787".into(), "Sync.Example.com".into()], true).unwrap();
        assert!(serves(&listed, "10.0.2.2:1") && serves(&listed, "sync.example.com") && serves(&listed, "localhost"));
        assert!(!serves(&listed, "evil.example"));
        assert!(listed.beyond_this_machine().eq(["10.0.2.2", "sync.example.com"]));
        let near = Hosts::parse(&["localhost:80".into(), "127.0.0.1".into(), "sidecar".into()], false).unwrap();
        assert_eq!(near.beyond_this_machine().count(), 0);
        for all in [Hosts::parse(&[], true), Hosts::parse(&["*".into()], false)] {
            assert!(serves(&all.unwrap(), "evil.example"));
        }
        for wrong in [
            "https://a.example",
            "a.example/path",
            "",
            "a b",
            "user@a.example",
            ":80",
            "*.a.example",
            "a.*",
            "a.example:*",
        ] {
            assert!(Hosts::parse(&[wrong.into()], false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn pages_of_other_names_are_not_ours() {
        let local = Hosts::default();
        for (origin, is_ours) in [
            ("http://localhost:1", true),
            ("http://[::1]", true),
            ("null", false),
            ("http://sidecar", false),
            ("", false),
        ] {
            assert_eq!(local.have_served(&HeaderValue::from_static(origin)), is_ours, "{origin}");
        }
    }

    #[test]
    fn two_lines_of_host_are_both_looked_at() {
        let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("localhost"))]);
        headers.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert!(!Hosts::default().serve(&headers));
    }
}
