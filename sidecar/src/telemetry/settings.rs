//! The settings of logs and traces.

use clap::{Args, ValueEnum};

use super::filter;
use crate::settings::{SettingsError, check_text};

#[derive(Debug, Clone, Args)]
pub struct TelemetrySettings {
    /// Log level, or directives like "info,livestore_sidecar::log=debug".
    #[arg(long = "log", env = "LIVESTORE_LOG", default_value = "info", value_name = "LOG")]
    pub directives: String,

    /// Format of log lines.
    #[arg(long, env = "LIVESTORE_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// An OpenTelemetry collector to send traces to, by OTLP over HTTP, e.g. http://localhost:4318. OpenTelemetry's other
    /// variables count, too: OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// Send every trace that a client says is sampled, whatever OTEL_TRACES_SAMPLER says. Only for clients, or a proxy in front of
    /// them, that you trust: anybody can send a header.
    #[arg(long, env = "LIVESTORE_TRUST_TRACEPARENT", requires = "otlp_endpoint")]
    pub trust_traceparent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl TelemetrySettings {
    pub fn check(&self) -> Result<(), SettingsError> {
        check_text("--otlp-endpoint", self.otlp_endpoint.as_deref())?;
        filter(&self.directives).map(drop).map_err(SettingsError::of("--log"))
    }
}
