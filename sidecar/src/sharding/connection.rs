//! Where a shard is: as the operator says it, and as libpq and PL/Proxy want it.

use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host, SslMode};

use crate::settings::SettingsError;

/// A connection of PL/Proxy to a machine that is gone ends after half a minute, and not after two hours. PL/Proxy's own options for this do
/// nothing but warn, and libpq's `connect_timeout` does not count for connections that are made asynchronously. Sidecars have timeouts of their own.
const KEEPALIVES: &str = " keepalives_idle=15 keepalives_interval=5 tcp_user_timeout=30000";

/// The value of `--shard`: a name and a database URL.
#[derive(Debug, Clone)]
pub struct NamedUrl {
    pub name: String,
    pub url: String,
}

impl NamedUrl {
    /// Reads the value of an option. Clap does not: its errors quote the value, and the URL has a password.
    pub fn parse(option: &str, text: &str) -> Result<Self, SettingsError> {
        let Some((name, url)) = text.split_once('=') else {
            return Err(format!("{option}: it has the form name=postgres://…").into());
        };
        let is_good = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
        if name.is_empty() || name.len() > 63 || !name.chars().all(is_good) {
            return Err(format!(
                "{option}: the name of a shard has 1 to 63 letters, digits, -, _ and .: name=postgres://…"
            )
            .into());
        }
        Ok(Self { name: name.into(), url: url.into() })
    }
}

/// Host, port and database of a URL in libpq's form, without user and password. The front adds its own role, and sidecars theirs. With TLS, and
/// channel binding, if the URL asks for them.
pub fn keywords(config: &Config) -> Result<String, SettingsError> {
    let hosts: Vec<String> = config.get_hosts().iter().map(host).collect();
    let (Some(database), false) = (config.get_dbname(), hosts.is_empty()) else {
        return Err("--shard: the URL has to name a host and a database".into());
    };
    let ports = match config.get_ports() {
        [] => "5432".to_owned(),
        ports => ports.iter().map(u16::to_string).collect::<Vec<_>>().join(","),
    };
    let mut text = format!("host={} port={ports} dbname={}", quoted(&hosts.join(",")), quoted(database));
    if hosts.len() > 1 {
        text.push_str(" target_session_attrs=read-write");
    }
    if config.get_ssl_mode() == SslMode::Require {
        text.push_str(" sslmode=require");
    }
    if config.get_channel_binding() == ChannelBinding::Require {
        text.push_str(" channel_binding=require");
    }
    text.push_str(KEEPALIVES);
    Ok(text)
}

fn host(host: &Host) -> String {
    match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    }
}

fn quoted(value: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || ".-_/:,".contains(character);
    if !value.is_empty() && value.chars().all(is_plain) {
        return value.into();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::elsewhere;

    #[test]
    fn a_shard_is_named_by_host_port_and_database() {
        for (url, expected) in [
            ("postgres://u:p@db.example/app", "host=db.example port=5432 dbname=app"),
            ("postgres://u:p@10.0.0.1:6000/app", "host=10.0.0.1 port=6000 dbname=app"),
            ("postgres://u@a:1,b:2/app", "host=a,b port=1,2 dbname=app target_session_attrs=read-write"),
            ("postgres://u@%2Frun%2Fpostgresql/my%20app", "host=/run/postgresql port=5432 dbname='my app'"),
            ("postgres://u@h/it's?sslmode=require", "host=h port=5432 dbname='it\\'s' sslmode=require"),
            (
                "postgres://u@h/d?sslmode=require&channel_binding=require",
                "host=h port=5432 dbname=d sslmode=require channel_binding=require",
            ),
        ] {
            let config: Config = url.parse().unwrap();
            let text = keywords(&config).unwrap();
            assert_eq!(text, format!("{expected}{KEEPALIVES}"), "{url}");
            let front: Config = "postgres://sidecar:pw@front/front?sslmode=require".parse().unwrap();
            let shard = elsewhere(&front, &text).unwrap();
            assert_eq!((shard.get_hosts(), shard.get_dbname()), (config.get_hosts(), config.get_dbname()), "{url}");
            assert_eq!((shard.get_user(), shard.get_password()), (Some("sidecar"), Some(&b"pw"[..])), "{url}");
            assert_eq!(shard.get_ssl_mode(), SslMode::Require, "{url}");
        }
        for url in ["postgres://u@h", "postgres:///app"] {
            assert!(keywords(&url.parse().unwrap()).is_err(), "{url}");
        }
    }

    #[test]
    fn a_shard_has_a_name() {
        let named = NamedUrl::parse("--shard", "eu-1=postgres://u:p=w@h/d").unwrap();
        assert_eq!((&*named.name, &*named.url), ("eu-1", "postgres://u:p=w@h/d"));
        for text in [
            "postgres://u:secret@h/d",
            "=postgres://u:secret@h/d",
            "a b=postgres://u:secret@h/d",
            "postgres://u:secret@h/d?a=b",
        ] {
            let error = NamedUrl::parse("--from", text).unwrap_err().to_string();
            assert!(error.starts_with("--from: ") && !error.contains("secret"), "{error}");
        }
    }
}
