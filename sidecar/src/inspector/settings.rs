//! The settings of the inspector.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

use crate::auth::{Auth, AuthSettings};
use crate::settings::SettingsError;

/// The shortest secret, in bytes. Sessions are signed with it.
const SECRET_BYTES: usize = 16;

#[derive(Debug, Clone, Args)]
pub struct InspectorSettings {
    /// The inspector: pages at / that show stores, events and connected clients to a browser. local: only if --listen is a
    /// loopback address. on: on every address. Without authentication, everybody on this machine may look; otherwise, log in with
    /// --inspector-secret, or with a token whose claim gives "*". There is none with --shards.
    #[arg(long, env = "LIVESTORE_INSPECTOR", default_value = "local")]
    pub inspector: Mode,

    /// The secret that opens the inspector: at least 16 bytes.
    #[arg(long, env = "LIVESTORE_INSPECTOR_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub inspector_secret: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Off,
    Local,
    On,
}

impl InspectorSettings {
    /// `listen`: the address of --listen.
    pub fn check(&self, auth: &AuthSettings, listen: SocketAddr) -> Result<(), SettingsError> {
        let secret = self.inspector_secret.as_deref();
        if secret.is_some_and(|secret| secret.len() < SECRET_BYTES) {
            let text = format!(
                "--inspector-secret has less than {SECRET_BYTES} bytes: openssl rand -base64 24 makes one that nobody guesses"
            );
            return Err(text.into());
        }
        // It is not part of a secret that is typed in: `LIVESTORE_INSPECTOR_SECRET=$(cat …)` has none, a file that is mounted may.
        if secret.is_some_and(|secret| secret.trim() != secret) {
            return Err("--inspector-secret begins or ends with white space, such as a line break: remove it".into());
        }
        if self.inspector == Mode::On && auth.auth == Auth::None && secret.is_none() && !listen.ip().is_loopback() {
            return Err("--inspector on needs --inspector-secret, or --auth jwt: nobody could log in".into());
        }
        Ok(())
    }

    /// Whether it is switched on everywhere, and has no secret.
    pub fn is_on_without_secret(&self) -> bool {
        self.inspector == Mode::On && self.inspector_secret.is_none()
    }

    /// Whether pages are served on this address.
    pub fn serves(&self, address: SocketAddr) -> bool {
        match self.inspector {
            Mode::Off => false,
            Mode::Local => address.ip().is_loopback(),
            Mode::On => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        inspector: InspectorSettings,
        #[command(flatten)]
        auth: AuthSettings,
    }

    #[test]
    fn a_secret_is_one_that_can_be_typed_in() {
        for (secret, problem) in [
            ("a secret of the operator", None),
            ("a secret", Some("less than 16 bytes")),
            ("a secret of the operator\n", Some("white space")),
            (" a secret of the operator", Some("white space")),
            ("a secret of the operator\u{a0}", Some("white space")),
        ] {
            let settings = Settings::parse_from(["test", "--inspector-secret", secret]);
            let checked = settings.inspector.check(&settings.auth, ([127, 0, 0, 1], 8787).into());
            let told = checked.err().map(|error| error.to_string());
            assert_eq!(told.is_some(), problem.is_some(), "{secret:?}: {told:?}");
            assert!(told.unwrap_or_default().contains(problem.unwrap_or_default()), "{secret:?}");
        }
    }
}
