//! When requests are sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinSet;

use super::client::{Reply, Target};
use super::prompts::Ask;

/// Longest wait after a refusal before a client of a closed loop asks again.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// What decides when a request is sent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arrivals {
    /// Clients that wait for their answers: how fast is it for so many users.
    Closed { clients: usize },
    /// Poisson arrivals: users do not wait for each other. Times count from the moment at which a
    /// request was due, so a client that falls behind hides nothing.
    Open { rate: f64, seed: u64 },
}

/// A load.
pub(super) struct Load {
    pub(super) requests: usize,
    pub(super) warm_up: usize,
    pub(super) arrivals: Arrivals,
    pub(super) duration: Option<Duration>,
    pub(super) prompts: Vec<Ask>,
    pub(super) options: Value,
}

impl Load {
    /// Sends it; outcomes in no particular order, and how long it took.
    pub(super) async fn run(self, target: Target) -> (Vec<Reply>, Duration) {
        for number in 0..self.warm_up {
            self.send(&target, self.requests + number, Instant::now()).await;
        }
        let started = Instant::now();
        let load = Arc::new(self);
        let outcomes = match load.arrivals {
            Arrivals::Closed { clients } => closed(&load, &target, clients, started).await,
            Arrivals::Open { rate, seed } => open(&load, &target, rate, seed, started).await,
        };
        (outcomes, started.elapsed())
    }

    async fn send(&self, target: &Target, number: usize, due: Instant) -> Reply {
        let ask = &self.prompts[number % self.prompts.len()];
        let (route, body) = ask.request(number, &self.options);
        target.ask(route, &body, due).await
    }

    fn is_over(&self, started: Instant) -> bool {
        self.duration.is_some_and(|duration| started.elapsed() >= duration)
    }
}

async fn closed(load: &Arc<Load>, target: &Target, clients: usize, started: Instant) -> Vec<Reply> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (load, target, next) = (Arc::clone(load), target.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            let mut outcomes = Vec::new();
            while !load.is_over(started) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= load.requests {
                    break;
                }
                let outcome = load.send(&target, number, Instant::now()).await;
                if let Reply::Refused(wait) = outcome {
                    tokio::time::sleep(wait.min(MAX_WAIT)).await;
                }
                outcomes.push(outcome);
            }
            outcomes
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

async fn open(
    load: &Arc<Load>,
    target: &Target,
    rate: f64,
    seed: u64,
    started: Instant,
) -> Vec<Reply> {
    let mut random = Random(seed);
    let mut tasks = JoinSet::new();
    let mut due = started;
    for number in 0..load.requests {
        tokio::time::sleep_until(due.into()).await;
        if load.is_over(started) {
            break;
        }
        let (load, target, at) = (Arc::clone(load), target.clone(), due);
        tasks.spawn(async move { load.send(&target, number, at).await });
        due += Duration::from_secs_f64((-random.unit().ln() / rate).min(3600.0));
    }
    tasks.join_all().await
}

/// SplitMix64: enough for arrival times, and the same everywhere.
struct Random(u64);

impl Random {
    /// In (0, 1].
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (((z ^ (z >> 31)) >> 11) as f64 + 1.0) / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn gaps_have_the_mean_of_the_rate() {
        let mut random = Random(1);
        let mean = (0..100_000).map(|_| -random.unit().ln()).sum::<f64>() / 1e5;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
    }
}
