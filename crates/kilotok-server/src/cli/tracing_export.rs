//! Spans for an OpenTelemetry collector, in builds with the feature `otel`.
//!
//! A span per request, from its arrival to the end of its reply, with its id, method, route and
//! status, and as events what the log says of it: times, counts, reasons. Never prompts or answers.

#[cfg(feature = "otel")]
pub(crate) use with_feature::{Exporter, start};
#[cfg(not(feature = "otel"))]
pub(crate) use without_feature::{Exporter, start};

#[cfg(feature = "otel")]
mod with_feature {
    use opentelemetry::KeyValue;
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing::Subscriber;
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::registry::LookupSpan;

    use crate::cli::{Outcome, logging};

    /// Collects spans and sends them in batches.
    pub(crate) struct Exporter(SdkTracerProvider);

    /// Spans go to this address, as OTLP over HTTP in JSON.
    ///
    /// # Errors
    /// Where `endpoint` is no address.
    pub(crate) fn start(endpoint: &str) -> Outcome<Exporter> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpJson)
            .with_endpoint(endpoint)
            .build()
            .map_err(|error| format!("--otlp-endpoint {endpoint}: {error}"))?;
        let resource = Resource::builder()
            .with_service_name("kilotok")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource);
        Ok(Exporter(provider.build()))
    }

    impl Exporter {
        /// What tells this exporter of spans: ours alone, whatever is logged.
        pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
        where
            S: Subscriber + for<'a> LookupSpan<'a>,
        {
            let ours = Targets::new().with_target("kilotok_server", LevelFilter::INFO);
            let tracer = self.0.tracer("kilotok");
            tracing_opentelemetry::layer()
                .with_tracer(tracer)
                .with_location(false)
                .with_threads(false)
                .with_filter(ours)
        }

        /// Sends what is left.
        pub(crate) fn finish(self) {
            if let Err(error) = self.0.shutdown() {
                logging::complain(&format!("the last spans were not sent: {error}"));
            }
        }
    }
}

#[cfg(not(feature = "otel"))]
mod without_feature {
    use tracing_subscriber::layer::Identity;

    use crate::cli::Outcome;

    /// There is none in this build.
    pub(crate) enum Exporter {}

    /// An error that says how to get one.
    pub(crate) fn start(_endpoint: &str) -> Outcome<Exporter> {
        Err("--otlp-endpoint: this build sends no spans; build kilotok-server with `--features otel`"
            .into())
    }

    impl Exporter {
        pub(crate) fn layer(&self) -> Identity {
            match *self {}
        }

        pub(crate) fn finish(self) {
            match self {}
        }
    }
}
