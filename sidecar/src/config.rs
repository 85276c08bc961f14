//! The settings of a sidecar: those of each part, and what they mean together.

use clap::Args;

use crate::auth::AuthSettings;
use crate::demo::DemoSettings;
use crate::gate::GateSettings;
use crate::inspector::InspectorSettings;
use crate::log::{Live, LogSettings};
use crate::postgres::DatabaseSettings;
use crate::protocols::ProtocolSettings;
use crate::relay::RelaySettings;
use crate::server::ServerSettings;
use crate::settings::SettingsError;
use crate::settings::environment::Unknown;
use crate::telemetry::TelemetrySettings;
use crate::webhook::WebhookSettings;

#[derive(Debug, Clone, Args)]
pub struct Config {
    #[command(flatten)]
    pub server: ServerSettings,

    #[command(flatten)]
    pub database: DatabaseSettings,

    #[command(flatten)]
    pub auth: AuthSettings,

    #[command(flatten)]
    pub gate: GateSettings,

    #[command(flatten)]
    pub protocols: ProtocolSettings,

    #[command(flatten)]
    pub log: LogSettings,

    #[command(flatten)]
    pub webhooks: WebhookSettings,

    #[command(flatten)]
    pub relay: RelaySettings,

    #[command(flatten)]
    pub inspector: InspectorSettings,

    #[command(flatten)]
    pub demo: DemoSettings,

    #[command(flatten)]
    pub telemetry: TelemetrySettings,

    /// Environment variables that look like settings and are none.
    #[arg(skip)]
    pub unknown_variables: Vec<Unknown>,
}

impl Config {
    /// The way in which this sidecar learns of commits of others: a standby cannot LISTEN.
    pub fn live(&self) -> Live {
        if self.database.read_only { Live::Poll } else { self.log.live }
    }

    /// The settings to change: the first problem of each part.
    pub fn problems(&self) -> impl Iterator<Item = SettingsError> {
        let checked = [
            self.database.check(),
            self.auth.check(),
            self.log.check(),
            self.webhooks.check(),
            self.check_authorize_url(),
            self.check_shards(),
            self.telemetry.check(),
            self.server.check(),
            self.gate.check(&self.auth),
            self.protocols.check(&self.auth),
            self.inspector.check(&self.auth, self.server.listen),
            self.check_inspector(),
            self.demo.check(&self.auth),
        ];
        checked.into_iter().filter_map(Result::err)
    }

    fn check_shards(&self) -> Result<(), SettingsError> {
        if self.database.shards && self.protocols.electric.url().is_some() {
            return Err("--shards and --electric-url do not go together: an Electric server reads one database".into());
        }
        Ok(())
    }

    /// With an authorizer, which decides store by store, no token opens the inspector.
    fn check_inspector(&self) -> Result<(), SettingsError> {
        if self.log.has_authorizer() && self.inspector.is_on_without_secret() {
            return Err(
                "--inspector on: nobody could log in, as no token counts with --authorize-function or --authorize-url: add --inspector-secret \
                 (LIVESTORE_INSPECTOR_SECRET)"
                    .into(),
            );
        }
        Ok(())
    }

    fn check_authorize_url(&self) -> Result<(), SettingsError> {
        if self.log.authorize_url.is_some() && !self.webhooks.has_general_secret() {
            return Err(
                "--authorize-url needs --webhook-secret (LIVESTORE_WEBHOOK_SECRET), which signs the requests".into()
            );
        }
        Ok(())
    }
}
