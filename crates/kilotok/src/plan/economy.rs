//! Speed for one against cost per token for many.

use serde::Serialize;

use super::PlanRequest;
use super::flops::Flops;
use super::memory::Memory;
use super::predict::{Prediction, Predictor, Round, Times};

/// Tokens per round that stand in where none were told.
const EXAMPLES: [f64; 3] = [2.0, 4.0, 6.0];
const HOUR: f64 = 3600.0;

/// Latency mode: one sequence has the GPUs. Throughput mode: many share them, without drafts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Economy {
    /// Every way to run the model.
    pub choices: Vec<Choice>,
    /// The sequences of the floor's throughput mode, and why so many.
    pub floor_batch: Batch,
    /// The same of today's.
    pub today_batch: Batch,
    /// The fastest latency mode against the throughput mode, by model of time.
    pub comparisons: Vec<Comparison>,
}

/// A number of sequences with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Batch {
    /// Sequences in a step; 0 where the model does not fit.
    pub sequences: u64,
    /// Why.
    pub reason: String,
}

/// One way to run the model under one model of time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// `plain`, `drafts` or `throughput`.
    pub mode: &'static str,
    /// `floor`, `persistent` or `graph`.
    pub model: &'static str,
    /// Sequences at once.
    pub sequences: u64,
    /// Tokens per round, for `drafts`; those that were told, or an example.
    pub tau: Option<f64>,
    /// Tokens per second of each sequence.
    pub tokens_per_s: f64,
    /// GPU-seconds per million tokens: all GPUs together.
    pub gpu_seconds: f64,
    /// Dollars per million tokens, where a price was told.
    pub dollars: Option<f64>,
}

/// What a user gains and what a token costs more.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// `floor`, `persistent` or `graph`.
    pub model: &'static str,
    /// Latency mode: `plain`, or `drafts` where tau was told.
    pub latency: &'static str,
    /// Tokens per second of one user, latency over throughput.
    pub speed: f64,
    /// Cost of a token, latency over throughput.
    pub cost: f64,
}

impl Economy {
    pub(super) fn new(
        predictor: &Predictor<'_>,
        request: &PlanRequest,
        memory: &Memory,
        plain: &Prediction,
        round: Option<&Round>,
        flops: Flops,
    ) -> Self {
        let floor_batch = floor_batch(predictor, memory, flops);
        let most = predictor.outline.pass_rows as u64;
        let today_batch = Batch {
            sequences: most.min(memory.sequences),
            reason: if memory.sequences < most {
                "what fits into memory".to_owned()
            } else {
                format!("a pass of this engine has {most} rows at most")
            },
        };
        let mut choices = Vec::new();
        let mut add = |mode: &'static str, times: &Times, tau: Option<f64>, sequences: u64| {
            for (model, ms) in times.each() {
                let batch = if model == "floor" { &floor_batch } else { &today_batch };
                let is_its_batch = mode != "throughput" || batch.sequences == sequences;
                if let (Some(ms), true) = (ms, is_its_batch) {
                    choices.push(choice(request, (mode, model), ms, tau, sequences));
                }
            }
        };
        add("plain", &plain.times, None, 1);
        if let Some(round) = round {
            let given = request.tau.map_or(EXAMPLES.to_vec(), |tau| vec![tau]);
            for tau in given.into_iter().filter(|tau| *tau <= round.block as f64) {
                add("drafts", &round.times, Some(tau), 1);
            }
        }
        let mut batches = vec![floor_batch.sequences, today_batch.sequences];
        batches.dedup();
        for sequences in batches.into_iter().filter(|batch| *batch > 0) {
            let times = predictor.plain(sequences as usize).times;
            add("throughput", &times, None, sequences);
        }
        let comparisons = compare(&choices, request.tau.is_some());
        Self { choices, floor_batch, today_batch, comparisons }
    }
}

/// As many sequences as memory holds while reading takes longer than arithmetic would.
fn floor_batch(predictor: &Predictor<'_>, memory: &Memory, flops: Flops) -> Batch {
    const MOST: u64 = 1 << 16;
    let peak = predictor.card.vendor_flops;
    let (mut sequences, mut reason) = (0, "the model does not fit");
    let mut next = 1;
    while next <= MOST && memory.sequences > 0 {
        if next > memory.sequences {
            reason = "the largest power of two that fits into memory";
            break;
        }
        let step = predictor.plain(next as usize);
        let arithmetic = flops.per_row * next as f64 / peak * 1e3;
        if sequences > 0 && arithmetic > step.times.floor_ms {
            reason = "with twice as many, arithmetic at the vendor's bfloat16 peak would take longer \
                      than reading";
            break;
        }
        (sequences, reason) = (next, "the most that was tried");
        next *= 2;
    }
    Batch { sequences, reason: reason.to_owned() }
}

fn choice(
    request: &PlanRequest,
    (mode, model): (&'static str, &'static str),
    ms: f64,
    tau: Option<f64>,
    sequences: u64,
) -> Choice {
    let tokens_per_s = tau.unwrap_or(1.0) * 1e3 / ms;
    let gpu_seconds = request.tp as f64 * 1e6 / (tokens_per_s * sequences as f64);
    let dollars = request.price.map(|price| gpu_seconds / HOUR * price);
    Choice { mode, model, sequences, tau, tokens_per_s, gpu_seconds, dollars }
}

/// For each model of time; drafts count only where their tau was told.
fn compare(choices: &[Choice], has_tau: bool) -> Vec<Comparison> {
    let latency = if has_tau { "drafts" } else { "plain" };
    let find = |mode: &str, model: &str| {
        choices.iter().find(|choice| choice.mode == mode && choice.model == model)
    };
    let of = |model: &'static str| {
        let (fast, cheap) = (find(latency, model)?, find("throughput", model)?);
        Some(Comparison {
            model,
            latency,
            speed: fast.tokens_per_s / cheap.tokens_per_s,
            cost: fast.gpu_seconds / cheap.gpu_seconds,
        })
    };
    ["floor", "persistent", "graph"].into_iter().filter_map(of).collect()
}
