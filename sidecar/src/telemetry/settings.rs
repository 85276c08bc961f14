//! The settings of logs and traces.

use axum::http::Uri;
use clap::{Args, ValueEnum};

use super::{filter, traces};
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
    otlp_endpoint: Option<String>,

    /// Send every trace that a client says is sampled, whatever OTEL_TRACES_SAMPLER says. Only for clients, or a proxy in front of
    /// them, that you trust: anybody can send a header.
    #[arg(long, env = "LIVESTORE_TRUST_TRACEPARENT")]
    pub trust_traceparent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl TelemetrySettings {
    pub fn check(&self) -> Result<(), SettingsError> {
        match self.endpoint() {
            Some(endpoint) => check_endpoint(endpoint)?,
            // Not `requires` of clap, for which `false` in the environment is also a value.
            None if self.trust_traceparent => return Err("--trust-traceparent needs --otlp-endpoint".into()),
            None => {}
        }
        // Without a directive, nothing would be logged.
        check_text("--log", Some(&self.directives))?;
        filter(&self.directives).map(drop).map_err(SettingsError::of("--log"))
    }

    /// The collector. OpenTelemetry's specification takes an empty variable as one that is not set.
    pub fn endpoint(&self) -> Option<&str> {
        self.otlp_endpoint.as_deref().filter(|endpoint| !endpoint.trim().is_empty())
    }
}

/// Whether traces can be sent there, as the exporter reads it.
fn check_endpoint(endpoint: &str) -> Result<(), SettingsError> {
    let url = traces::url(endpoint).parse::<Uri>().map_err(SettingsError::of("--otlp-endpoint"))?;
    let is_web = matches!(url.scheme_str(), Some("http" | "https"));
    if !is_web || url.host().is_none_or(str::is_empty) {
        return Err("--otlp-endpoint is not a URL of HTTP: write it as in http://localhost:4318".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(endpoint: Option<&str>) -> TelemetrySettings {
        TelemetrySettings {
            directives: "info".into(),
            log_format: LogFormat::Text,
            otlp_endpoint: endpoint.map(Into::into),
            trust_traceparent: false,
        }
    }

    #[test]
    fn an_endpoint_is_one_that_traces_can_be_sent_to() {
        for good in ["http://localhost:4318", "https://otel.example.com/", "http://[::1]:4318/a", "HTTP://collector"] {
            assert!(settings(Some(good)).check().is_ok(), "{good}");
        }
        for wrong in ["collector", "localhost:4318", "http://", "http:///v1", "ftp://a.example", "http://a b", "/v1"] {
            assert!(settings(Some(wrong)).check().is_err(), "{wrong}");
        }
        for none in [None, Some(""), Some(" ")] {
            assert!(settings(none).check().is_ok() && settings(none).endpoint().is_none(), "{none:?}");
            assert!(TelemetrySettings { trust_traceparent: true, ..settings(none) }.check().is_err(), "{none:?}");
        }
    }

    #[test]
    fn a_log_without_directives_is_refused() {
        for directives in ["", " "] {
            assert!(TelemetrySettings { directives: directives.into(), ..settings(None) }.check().is_err());
        }
    }
}
