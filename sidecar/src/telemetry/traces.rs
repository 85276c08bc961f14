//! Traces, by OpenTelemetry's protocol over HTTP (OTLP, protobuf): what a client began goes on here, down to the statement.

use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::trace::{
    Link, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingResult, SdkTracerProvider, ShouldSample,
};
use tokio::runtime::Handle;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use super::TelemetryError;

/// The time that the last traces may take to be sent at the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Where a collector takes traces.
pub fn url(endpoint: &str) -> String {
    format!("{}/v1/traces", endpoint.trim_end_matches('/'))
}

/// The way to a collector.
pub struct Traces(SdkTracerProvider);

impl Traces {
    pub fn to(endpoint: &str, trust_traceparent: bool, runtime: &Handle) -> Result<Self, TelemetryError> {
        let client = reqwest::Client::builder().build()?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(OnRuntime { runtime: runtime.clone(), client })
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url(endpoint))
            .build()?;
        let resource = Resource::builder().with_service_name("livestore-sidecar").build();
        let provider = SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(exporter);
        let provider = if trust_traceparent { provider } else { provider.with_sampler(OurWord::of_environment()) };
        Ok(Self(provider.build()))
    }

    /// Spans of this program, whatever is logged.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        let is_ours = |target: &str| target.starts_with(env!("CARGO_CRATE_NAME"));
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("livestore-sidecar"))
            .with_location(false)
            .with_threads(false)
            .with_filter(filter_fn(move |metadata| metadata.is_span() && is_ours(metadata.target())))
    }

    /// Sends what is left. Waits, a little.
    pub fn end(self) {
        let _ = self.0.shutdown_with_timeout(FAREWELL);
    }
}

/// Decides which traces are sent, as `OTEL_TRACES_SAMPLER` says. A trace that a client began is sent only if the client has
/// sampled it and this sampler would sample it, too. So a client can keep a trace from being sent, but cannot make this
/// program send one. Spans below one of ours are sent with it.
#[derive(Debug, Clone)]
struct OurWord(Sampler);

impl OurWord {
    fn of_environment() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let share = || variable("OTEL_TRACES_SAMPLER_ARG").parse().unwrap_or(1.0);
        Self(match &*variable("OTEL_TRACES_SAMPLER") {
            "always_off" | "parentbased_always_off" => Sampler::AlwaysOff,
            "traceidratio" | "parentbased_traceidratio" => Sampler::TraceIdRatioBased(share()),
            _ => Sampler::AlwaysOn,
        })
    }
}

impl ShouldSample for OurWord {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let begun = parent.filter(|parent| parent.has_active_span()).map(|parent| parent.span().span_context().clone());
        match begun {
            Some(begun) if !begun.is_remote() || !begun.is_sampled() => {
                let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
                sampler.should_sample(parent, trace_id, name, kind, attributes, links)
            }
            // A client could choose an id that is sampled, so a new one decides.
            Some(_) => {
                let ours = RandomIdGenerator::default().new_trace_id();
                self.0.should_sample(None, ours, name, kind, attributes, links)
            }
            None => self.0.should_sample(None, trace_id, name, kind, attributes, links),
        }
    }
}

/// The exporter has a thread of its own; requests need a runtime.
#[derive(Debug)]
struct OnRuntime {
    runtime: Handle,
    client: reqwest::Client,
}

#[async_trait]
impl HttpClient for OnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        self.runtime.spawn(async move { client.send_bytes(request).await }).await?
    }
}

/// The trace of a client: ids of W3C's Trace Context, in hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent<'a> {
    pub trace_id: &'a str,
    pub span_id: &'a str,
    pub is_sampled: bool,
}

impl<'a> Parent<'a> {
    /// Reads the header `traceparent`; `None` if there is no such parent.
    pub fn parse(traceparent: &'a str) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let (_version, trace_id, span_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        let parent = Self { trace_id, span_id, is_sampled };
        parent.context().is_some().then_some(parent)
    }

    fn context(self) -> Option<SpanContext> {
        let is_hex = |id: &str, digits| id.len() == digits && id.bytes().all(|digit| digit.is_ascii_hexdigit());
        if !is_hex(self.trace_id, 32) || !is_hex(self.span_id, 16) {
            return None;
        }
        let flags = if self.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let (trace_id, span_id) = (TraceId::from_hex(self.trace_id).ok()?, SpanId::from_hex(self.span_id).ok()?);
        Some(SpanContext::new(trace_id, span_id, flags, true, TraceState::default())).filter(SpanContext::is_valid)
    }

    /// Makes a span, one that has not begun, part of the client's trace.
    pub fn adopt(self, span: &Span) {
        if let Some(context) = self.context() {
            // Without a collector there is nothing to tell.
            let _ = span.set_parent(Context::new().with_remote_span_context(context));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0b962dc3b22602d47c7abf3a2605b715";

    #[test]
    fn a_parent_has_two_ids_and_flags() {
        let parent = Parent { trace_id: TRACE, span_id: "ab01972282fc3020", is_sampled: true };
        assert_eq!(Parent::parse(&format!("00-{TRACE}-ab01972282fc3020-01")), Some(parent));
        let unsampled = Parent { is_sampled: false, ..parent };
        assert_eq!(Parent::parse(&format!("00-{TRACE}-ab01972282fc3020-00")), Some(unsampled));
        let zeros = "0".repeat(32);
        for other in [
            String::new(),
            format!("00-{TRACE}"),
            format!("00-{TRACE}-ab01972282fc3020"),
            format!("00-{TRACE}0-ab01972282fc3020-01"),
            format!("00-{TRACE}-ab01972282fc302-01"),
            format!("00-{TRACE}-+b01972282fc3020-01"),
            format!("00-{zeros}-ab01972282fc3020-01"),
            "00-token-ab01972282fc3020-01".into(),
        ] {
            assert_eq!(Parent::parse(&other), None, "{other}");
        }
    }
}
