//! The hosts of a database URL, each with what the URL says of all, and their addresses.

use std::hash::{BuildHasher, RandomState};
use std::io;

use tokio::net::lookup_host;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts};

use crate::telemetry::chain;

/// One configuration for each address of the host. If there are several hosts, an address, or a Unix socket: the configuration itself.
/// With an address, a request to cancel reaches the server that the connection is with: a name may have several, and another one
/// tomorrow.
///
/// # Errors
/// The name cannot be looked up.
pub async fn addresses(config: &Config) -> io::Result<Vec<Config>> {
    let name = match config.get_hosts() {
        [Host::Tcp(name)] if config.get_hostaddrs().is_empty() => name,
        _ => return Ok(vec![config.clone()]),
    };
    let mut addresses: Vec<_> = lookup_host((&**name, 0)).await?.map(|address| address.ip()).collect();
    if config.get_load_balance_hosts() == LoadBalanceHosts::Random {
        addresses.sort_by_cached_key(|address| RandomState::new().hash_one(address));
    }
    let at = |address| config.clone().hostaddr(address).clone();
    Ok(addresses.into_iter().map(at).collect())
}

/// The same for one of its hosts.
pub fn only(config: &Config, index: usize) -> Config {
    let mut one = but_for_hosts(config);
    add_host(&mut one, config, index);
    if let Some(port) = config.get_ports().get(index).or_else(|| config.get_ports().first()) {
        one.port(*port);
    }
    one
}

/// The same at the hosts, the ports and the database of a libpq keyword string.
///
/// # Errors
/// It cannot be read, or names no host.
pub fn elsewhere(config: &Config, connection: &str) -> Result<Config, String> {
    let there: Config = connection.parse().map_err(|error| chain(&error).to_string())?;
    let hosts = there.get_hosts().len().max(there.get_hostaddrs().len());
    if hosts == 0 {
        return Err("its connection names no host".into());
    }
    let mut config = but_for_hosts(config);
    (0..hosts).for_each(|index| add_host(&mut config, &there, index));
    for port in there.get_ports() {
        config.port(*port);
    }
    if let Some(name) = there.get_dbname() {
        config.dbname(name);
    }
    Ok(config)
}

/// Adds one of the hosts of another configuration.
fn add_host(config: &mut Config, other: &Config, index: usize) {
    match other.get_hosts().get(index) {
        Some(Host::Tcp(host)) => drop(config.host(host)),
        Some(Host::Unix(path)) => drop(config.host_path(path)),
        None => {}
    }
    if let Some(address) = other.get_hostaddrs().get(index) {
        config.hostaddr(*address);
    }
}

fn but_for_hosts(config: &Config) -> Config {
    let mut one = Config::new();
    let user = config.get_user().map(str::to_string);
    let texts = [
        (user, Config::user as fn(&mut Config, String) -> &mut Config),
        (config.get_dbname().map(str::to_string), Config::dbname),
        (config.get_options().map(str::to_string), Config::options),
        (config.get_application_name().map(str::to_string), Config::application_name),
    ];
    for (text, set) in texts {
        if let Some(text) = text {
            set(&mut one, text);
        }
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(timeout) = config.get_connect_timeout() {
        one.connect_timeout(*timeout);
    }
    if let Some(timeout) = config.get_tcp_user_timeout() {
        one.tcp_user_timeout(*timeout);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        one.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        one.keepalives_retries(retries);
    }
    one.keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts())
        .target_session_attrs(config.get_target_session_attrs());
    one
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::postgres::url::parse;

    #[test]
    fn a_shard_has_its_own_address_and_the_rest_of_the_url() {
        let url = "postgres://u:p@front:5432/front?application_name=a&sslmode=verify-full&options=-cwork_mem%3D8MB";
        let front = parse(url).unwrap().config;
        let shard = elsewhere(&front, "host=one,two port=6001,6002 dbname=shard user=other").unwrap();
        assert_eq!(shard.get_hosts(), [Host::Tcp("one".into()), Host::Tcp("two".into())]);
        assert_eq!((shard.get_ports(), shard.get_dbname()), (&[6001, 6002][..], Some("shard")));
        assert_eq!((shard.get_user(), shard.get_password()), (Some("u"), Some(&b"p"[..])));
        assert_eq!((shard.get_options(), shard.get_ssl_mode()), (front.get_options(), front.get_ssl_mode()));
        assert!(elsewhere(&front, "dbname=shard").is_err() && elsewhere(&front, "host=h colour=red").is_err());
    }

    #[tokio::test]
    async fn a_name_is_known_by_its_addresses() {
        let config = |url| parse(url).unwrap().config;
        let found = addresses(&config("postgres://u:p@localhost:6000/d")).await.unwrap();
        assert!(!found.is_empty());
        for one in found {
            assert_eq!((one.get_hosts(), one.get_ports()), (&[Host::Tcp("localhost".into())][..], &[6000][..]));
            assert!(one.get_hostaddrs().iter().all(IpAddr::is_loopback) && one.get_hostaddrs().len() == 1);
        }
        for url in ["postgres:///d?host=/run/postgresql", "postgres://u@h/d?hostaddr=127.0.0.1"] {
            let config = config(url);
            assert_eq!(addresses(&config).await.unwrap(), [config], "{url}");
        }
        // Longer than a label may be: no server is asked.
        assert!(addresses(&config(&format!("postgres://u@{}/d", "a".repeat(64)))).await.is_err());
    }
}
