//! Prometheus metrics, under vLLM's names where it has them, with buckets that resolve a fast
//! engine.

use std::time::{Duration, Instant};

use kilotok::engine::{FinishReason, Receipt};
use kilotok_text::Piece;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry, TextEncoder,
};

use crate::App;
use crate::app::Phase;

/// Seconds from 50 us to 10 s, three to a factor of ten or denser.
const SECONDS: [f64; 21] = [
    0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01,
    0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0,
];

/// What is counted here; gauges are read from the engine when asked for.
pub(crate) struct Metrics {
    registry: Registry,
    ttft: Histogram,
    inter_token: Histogram,
    end_to_end: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    prompt_tokens: IntCounter,
    generation_tokens: IntCounter,
    success: IntCounterVec,
    rejections: IntCounterVec,
    drafts: IntCounter,
    draft_tokens: IntCounter,
    accepted_tokens: IntCounter,
    accepted_per_position: IntCounterVec,
    http: IntCounterVec,
}

impl Metrics {
    pub(crate) fn new(model: &str) -> Self {
        let registry = Registry::new();
        let opts = |name: &str, help: &str| Opts::new(name, help).const_label("model_name", model);
        let histogram = |name: &str, help: &str| {
            let opts = HistogramOpts::from(opts(name, help)).buckets(SECONDS.to_vec());
            register(&registry, Histogram::with_opts(opts))
        };
        let counter =
            |name: &str, help: &str| register(&registry, IntCounter::with_opts(opts(name, help)));
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(opts(name, help), labels))
        };
        Self {
            ttft: histogram(
                "vllm:time_to_first_token_seconds",
                "From the arrival of a request to the first token of a sequence.",
            ),
            inter_token: histogram(
                "vllm:inter_token_latency_seconds",
                "Time per token after the first, one observation per token.",
            ),
            end_to_end: histogram(
                "vllm:e2e_request_latency_seconds",
                "From the arrival of a request to the end of a sequence.",
            ),
            queue: histogram("vllm:request_queue_time_seconds", "Waiting for a slot."),
            prefill: histogram(
                "vllm:request_prefill_time_seconds",
                "From the slot to the first token.",
            ),
            decode: histogram(
                "vllm:request_decode_time_seconds",
                "From the first token to the last.",
            ),
            prompt_tokens: counter(
                "vllm:prompt_tokens_total",
                "Prompt tokens of finished sequences.",
            ),
            generation_tokens: counter("vllm:generation_tokens_total", "Tokens delivered."),
            success: counters(
                "vllm:request_success_total",
                "Sequences by the reason of their end.",
                &["finished_reason"],
            ),
            rejections: counters(
                "vllm:admission_rejections_total",
                "Requests refused before any work.",
                &["reason"],
            ),
            drafts: counter("vllm:spec_decode_num_drafts_total", "Rounds that verified drafts."),
            draft_tokens: counter("vllm:spec_decode_num_draft_tokens_total", "Drafts verified."),
            accepted_tokens: counter(
                "vllm:spec_decode_num_accepted_tokens_total",
                "Drafts accepted.",
            ),
            accepted_per_position: counters(
                "vllm:spec_decode_num_accepted_tokens_per_pos_total",
                "Drafts accepted at each position of the block.",
                &["position"],
            ),
            http: counters(
                "kilotok:http_requests_total",
                "HTTP requests by route and status.",
                &["route", "status"],
            ),
            registry,
        }
    }

    pub(crate) fn rejected(&self, reason: &str) {
        self.rejections.with_label_values(&[reason]).inc();
    }

    pub(crate) fn http(&self, route: &str, status: u16) {
        self.http.with_label_values(&[route, &status.to_string()]).inc();
    }

    fn finished(&self, reason: FinishReason, receipt: &Receipt, end_to_end: Duration) {
        let reason = match reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        };
        self.success.with_label_values(&[reason]).inc();
        self.end_to_end.observe(end_to_end.as_secs_f64());
        self.queue.observe(receipt.queue_ms / 1e3);
        self.prefill.observe(receipt.prefill_ms / 1e3);
        if receipt.tokens_per_s > 0.0 {
            self.decode.observe((receipt.tokens.saturating_sub(1)) as f64 / receipt.tokens_per_s);
        }
        self.prompt_tokens.inc_by(receipt.prompt_tokens as u64);
        self.drafts.inc_by(receipt.speculative_rounds as u64);
        self.draft_tokens.inc_by(receipt.drafted as u64);
        let mut accepting: u64 =
            receipt.accepted_histogram.iter().map(|&rounds| rounds as u64).sum();
        // A round that accepted `k` drafts accepted one at each of the first `k` positions.
        for (position, &rounds) in receipt.accepted_histogram.iter().enumerate() {
            accepting -= rounds as u64;
            if accepting == 0 {
                break;
            }
            self.accepted_tokens.inc_by(accepting);
            let position = position.to_string();
            self.accepted_per_position.with_label_values(&[&position]).inc_by(accepting);
        }
    }

    /// Everything as text.
    pub(crate) fn render(&self, app: &App) -> String {
        let mut out = Vec::new();
        // Writing to memory cannot fail, and every metric was checked when it was registered.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut out);
        let mut out = String::from_utf8(out).unwrap_or_default();
        let mut line = |name: &str, kind: &str, help: &str, value: f64| {
            use std::fmt::Write as _;
            let model = escape(&app.config().model);
            let _ = write!(
                out,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{model_name=\"{model}\"}} {value}\n"
            );
        };
        let engine = app.with_phase(|phase| match phase {
            Phase::Ready(engine) => Some(engine.clone()),
            _ => None,
        });
        line(
            "kilotok:ready",
            "gauge",
            "1 while requests are taken.",
            f64::from(u8::from(engine.is_some() && !app.is_draining())),
        );
        line(
            "kilotok:sequences_in_flight",
            "gauge",
            "Sequences admitted and not ended.",
            app.in_flight() as f64,
        );
        if let Some(engine) = engine {
            let stats = engine.engine().stats();
            let slots = engine.engine().limits().slots;
            line(
                "vllm:num_requests_running",
                "gauge",
                "Sequences in a slot.",
                stats.running as f64,
            );
            line(
                "vllm:num_requests_waiting",
                "gauge",
                "Sequences waiting for a slot.",
                stats.waiting as f64,
            );
            line("kilotok:slots", "gauge", "Slots in all.", slots as f64);
            line(
                "kilotok:pages_used",
                "gauge",
                "Cache pages of running sequences.",
                stats.pages_used as f64,
            );
            line(
                "kilotok:pages_cached",
                "gauge",
                "Cache pages that only the prefix cache holds, free for who needs them.",
                stats.pages_cached as f64,
            );
            line("kilotok:pages", "gauge", "Cache pages in all.", stats.pages_total as f64);
            if let Some(fraction) = stats.ceiling_fraction {
                line(
                    "kilotok:ceiling_fraction",
                    "gauge",
                    "Share of the memory's bandwidth that the last rounds reached, 0 to 1.",
                    fraction,
                );
            }
            let usage = stats.pages_used as f64 / stats.pages_total.max(1) as f64;
            line(
                "vllm:kv_cache_usage_perc",
                "gauge",
                "Share of cache pages in use, 0 to 1.",
                usage,
            );
            line(
                "vllm:prefix_cache_queries_total",
                "counter",
                "Prompt tokens looked up in the prefix cache.",
                stats.prefix_queries as f64,
            );
            line(
                "vllm:prefix_cache_hits_total",
                "counter",
                "Prompt tokens found in the prefix cache.",
                stats.prefix_hits as f64,
            );
            line("kilotok:rounds_total", "counter", "Rounds of the engine.", stats.rounds as f64);
            line(
                "kilotok:engine_tokens_total",
                "counter",
                "Tokens the engine made.",
                stats.tokens as f64,
            );
            line(
                "kilotok:cancelled_total",
                "counter",
                "Sequences cancelled in the engine.",
                stats.cancelled as f64,
            );
            line(
                "kilotok:plain_step_seconds",
                "gauge",
                "A step without drafts, as last measured.",
                stats.plain_step_ms / 1e3,
            );
        }
        out
    }
}

/// The names are constants and differ, so registering cannot fail; were it to, the metric would be
/// counted but not shown.
fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<C>,
) -> C {
    #[allow(clippy::expect_used, reason = "the names are constants; a test builds every one")]
    let metric = metric.expect("metric names and labels are valid");
    if let Err(error) = registry.register(Box::new(metric.clone())) {
        tracing::error!(%error, "a metric is not shown");
    }
    metric
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Follows the sequences of one request.
pub(crate) struct Tracker {
    app: App,
    /// The request's, so that lines written long after its head was sent carry its id.
    span: tracing::Span,
    arrived: Instant,
    /// Moment of the last token of each sequence.
    last: Vec<Option<Instant>>,
    unfinished: usize,
}

impl Tracker {
    pub(crate) fn new(app: &App) -> Self {
        Self {
            app: app.clone(),
            span: tracing::Span::current(),
            arrived: Instant::now(),
            last: Vec::new(),
            unfinished: 0,
        }
    }

    pub(crate) fn submitted(&mut self, sequences: usize) {
        self.last.resize(sequences, None);
        self.unfinished = sequences;
    }

    pub(crate) fn piece(&mut self, piece: &Piece) {
        let metrics = self.app.metrics();
        let now = Instant::now();
        let mut tokens = piece.token_ids.len();
        metrics.generation_tokens.inc_by(tokens as u64);
        if let Some(last) = self.last.get_mut(piece.index)
            && tokens > 0
        {
            let since = if let Some(before) = *last {
                now.saturating_duration_since(before)
            } else {
                metrics.ttft.observe((now - self.arrived).as_secs_f64());
                tokens -= 1;
                Duration::ZERO
            };
            *last = Some(now);
            for _ in 0..tokens {
                metrics.inter_token.observe(since.as_secs_f64() / tokens as f64);
            }
        }
        if let Some(completion) = &piece.completion {
            self.unfinished = self.unfinished.saturating_sub(1);
            let total = now - self.arrived;
            metrics.finished(completion.finish_reason, &completion.receipt, total);
            let queue = Duration::try_from_secs_f64(completion.receipt.queue_ms / 1e3);
            let service = total.saturating_sub(queue.unwrap_or_default());
            self.app.admission().observe(service);
            let receipt = &completion.receipt;
            let _entered = self.span.enter();
            tracing::info!(
                prompt_tokens = receipt.prompt_tokens,
                cached_tokens = receipt.cached_tokens,
                tokens = completion.token_ids.len(),
                queue_ms = receipt.queue_ms,
                ttft_ms = receipt.ttft_ms,
                tokens_per_s = receipt.tokens_per_s,
                tau = receipt.tau,
                finish = ?completion.finish_reason,
                "sequence finished"
            );
        }
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        // Exporters take a span to end when it was left last, and this is the end of the reply.
        let _entered = self.span.enter();
        if self.unfinished > 0 {
            let aborted = self.app.metrics().success.with_label_values(&["abort"]);
            aborted.inc_by(self.unfinished as u64);
            tracing::info!(sequences = self.unfinished, "request ended early");
        }
    }
}

#[cfg(test)]
mod tests {
    use kilotok::engine::{FinishReason, Receipt};

    use super::Metrics;

    #[test]
    fn accepted_drafts_are_counted_per_position() {
        let metrics = Metrics::new("m");
        let receipt = Receipt { accepted_histogram: vec![5, 3, 0, 2], ..Receipt::default() };
        metrics.finished(FinishReason::Stop, &receipt, std::time::Duration::ZERO);
        // Rounds that accepted at least one, two, three drafts.
        for (position, count) in [("0", 5), ("1", 2), ("2", 2), ("3", 0)] {
            assert_eq!(metrics.accepted_per_position.with_label_values(&[position]).get(), count);
        }
        assert_eq!(metrics.accepted_tokens.get(), 3 + 2 * 3);
    }
}
