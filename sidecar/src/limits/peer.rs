//! The other end of a connection.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::Extensions;

/// The network of a client, or `None` on this machine: a proxy there speaks for many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub Option<IpAddr>);

impl Peer {
    pub fn at(address: SocketAddr) -> Self {
        Self(Some(address.ip().to_canonical()).filter(|ip| !ip.is_loopback()).map(network))
    }

    /// The other end of the connection that a request came on.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get().copied().unwrap_or(Self(None))
    }
}

/// A host has one address of IPv4, and a whole network of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let at = |ip: &str| Peer::at((ip.parse::<IpAddr>().unwrap(), 1).into()).0.map(|ip| ip.to_string());
        assert_eq!(at("2001:db8::1:2:3:4").as_deref(), Some("2001:db8::"));
        assert_eq!([at("::1"), at("127.0.0.1"), at("::ffff:127.0.0.1")], [None, None, None]);
        assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
    }
}
