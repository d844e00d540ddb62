//! Percentiles, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::client::Reply;

/// What the clients saw.
pub(super) struct Report {
    settings: Value,
    seconds: f64,
    done: usize,
    refused: usize,
    /// Errors by text.
    errors: BTreeMap<String, usize>,
    tokens: usize,
    counted: bool,
    /// Rounds with drafts, and drafts accepted in them.
    rounds: usize,
    accepted: usize,
    /// Milliseconds: name and distribution.
    times: [(&'static str, Distribution); 4],
}

impl Report {
    pub(super) fn new(settings: Value, outcomes: &[Reply], took: Duration) -> Self {
        let (mut first, mut gaps, mut total, mut queue) = (vec![], vec![], vec![], vec![]);
        let mut errors = BTreeMap::new();
        let (mut refused, mut tokens, mut rounds, mut accepted) = (0, 0, 0, 0);
        let mut counted = true;
        for outcome in outcomes {
            match outcome {
                Reply::Refused(_) => refused += 1,
                Reply::Failed(error) => *errors.entry(error.clone()).or_default() += 1,
                Reply::Done(timing) => {
                    first.push(ms(timing.first));
                    total.push(ms(timing.total));
                    gaps.extend(timing.gaps.iter().copied().map(ms));
                    queue.extend(timing.queue_ms);
                    tokens += timing.tokens;
                    counted &= timing.counted;
                    rounds += timing.accepted.iter().sum::<usize>();
                    let by_drafts = timing.accepted.iter().enumerate();
                    accepted += by_drafts.map(|(drafts, rounds)| drafts * rounds).sum::<usize>();
                }
            }
        }
        Self {
            settings,
            seconds: took.as_secs_f64(),
            done: total.len(),
            refused,
            errors,
            tokens,
            counted,
            rounds,
            accepted,
            times: [
                ("ttft_ms", Distribution::of(first)),
                ("itl_ms", Distribution::of(gaps)),
                ("e2e_ms", Distribution::of(total)),
                ("queue_ms", Distribution::of(queue)),
            ],
        }
    }

    pub(super) fn failed(&self) -> bool {
        !self.errors.is_empty() || self.done == 0
    }

    /// Tokens of a round with drafts; `None` where there was none.
    fn tau(&self) -> Option<f64> {
        (self.rounds > 0).then(|| 1.0 + self.accepted as f64 / self.rounds as f64)
    }

    pub(super) fn json(&self) -> Value {
        let mut json = json!({
            "settings": self.settings,
            "seconds": self.seconds,
            "requests": {
                "done": self.done,
                "refused": self.refused,
                "failed": self.errors.values().sum::<usize>(),
            },
            "errors": self.errors,
            "requests_per_s": self.done as f64 / self.seconds,
            "output_tokens": self.tokens,
            "output_tokens_per_s": self.tokens as f64 / self.seconds,
            "itl_counted_per_token": self.counted,
            "tau": self.tau(),
            "rounds_with_drafts": self.rounds,
        });
        for (name, times) in &self.times {
            json[*name] = times.json();
        }
        json
    }

    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "requests  {} done, {} refused (429), {} failed in {:.2} s: {:.2} a second\n\
             tokens    {} in all, {:.1} a second\n",
            self.done,
            self.refused,
            self.errors.values().sum::<usize>(),
            self.seconds,
            self.done as f64 / self.seconds,
            self.tokens,
            self.tokens as f64 / self.seconds,
        );
        // Writing to a string cannot fail.
        if let Some(tau) = self.tau() {
            let _ = writeln!(text, "tau       {tau:.3} over {} rounds with drafts", self.rounds);
        }
        let _ = writeln!(
            text,
            "\n{:<24}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "milliseconds", "mean", "p50", "p90", "p99", "max"
        );
        for (name, times) in &self.times {
            let name = match *name {
                "ttft_ms" => "to the first token",
                "itl_ms" if self.counted => "between tokens",
                "itl_ms" => "between tokens (means)",
                "e2e_ms" => "whole reply",
                _ => "in the server's queue",
            };
            let columns = [times.mean, times.p50, times.p90, times.p99, times.max];
            let cell =
                |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
            let _ = write!(text, "{name:<24}");
            for value in columns {
                let _ = write!(text, "{:>10}", cell(value));
            }
            text.push('\n');
        }
        for (error, count) in &self.errors {
            let _ = writeln!(text, "{count} times: {error}");
        }
        text
    }
}

/// `None` where there is nothing to describe.
#[derive(Debug, Default)]
struct Distribution {
    count: usize,
    mean: Option<f64>,
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

impl Distribution {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        // Nearest rank: a value that was seen.
        let rank = |share: f64| {
            let at = (share * values.len() as f64).ceil() as usize;
            values.get(at.saturating_sub(1)).copied()
        };
        Self {
            count: values.len(),
            mean: (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64),
            p50: rank(0.5),
            p90: rank(0.9),
            p99: rank(0.99),
            max: values.last().copied(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "count": self.count,
            "mean": self.mean,
            "p50": self.p50,
            "p90": self.p90,
            "p99": self.p99,
            "max": self.max,
        })
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::Distribution;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let times = Distribution::of((1..=100).rev().map(f64::from).collect());
        let seen = [times.p50, times.p90, times.p99, times.max, times.mean];
        assert_eq!(seen, [50.0, 90.0, 99.0, 100.0, 50.5].map(Some));
        assert_eq!(Distribution::of(vec![7.0]).p99, Some(7.0));
        assert_eq!(Distribution::of(Vec::new()).p50, None);
    }
}
