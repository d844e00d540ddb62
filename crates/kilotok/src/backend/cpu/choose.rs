//! Op `choose`: the target's own token for one row, greedy or Gumbel-max.

use crate::backend::TokenLogprobs;
use crate::sample::{History, Noise, SamplingParams, TokenMask};

/// Chooses tokens; owns the scratch memory so that choosing allocates nothing (law 4).
#[derive(Debug)]
pub struct Chooser {
    /// Logits after bias, penalties and temperature, `[vocab]`.
    scaled: Vec<f32>,
    /// Token ids, best first as far as sorted, `[vocab]`.
    order: Vec<u32>,
}

/// Values compared side by side.
const LANES: usize = 32;

/// The largest value, as far as not NaN; -inf where there is none.
pub(super) fn largest(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = values.as_chunks::<LANES>();
    for chunk in whole {
        for (largest, &value) in lanes.iter_mut().zip(chunk) {
            *largest = if value > *largest { value } else { *largest };
        }
    }
    let larger = |largest: f32, &value: &f32| if value > largest { value } else { largest };
    rest.iter().fold(lanes.iter().fold(f32::NEG_INFINITY, larger), larger)
}

/// Index of the largest value, the lowest one on ties; NaN never wins.
pub fn argmax(values: &[f32]) -> u32 {
    let largest = largest(values);
    // Counted, since a search that may end early is not done in vectors.
    let has = |chunk: &[f32]| chunk.iter().filter(|value| **value == largest).count() > 0;
    let chunk = values.chunks(LANES).position(has).unwrap_or(0);
    let start = chunk * LANES;
    let place = values[start.min(values.len())..].iter().position(|&value| value == largest);
    (start + place.unwrap_or(0)) as u32
}

impl Chooser {
    /// Scratch memory for a vocabulary.
    pub fn new(vocab: usize) -> Self {
        Self { scaled: vec![0.0; vocab], order: Vec::with_capacity(vocab) }
    }

    /// The token for absolute `position`, from the row before it.
    ///
    /// Order: logit bias, penalties, temperature, top-k, top-p, min-p, then the largest
    /// `logit / T + gumbel(seed, position, token)` among the kept tokens (lowest id on ties).
    /// Depends on its arguments alone, so a row chooses alike in any block and batch.
    pub fn choose(
        &mut self,
        logits: &[f32],
        params: &SamplingParams,
        history: Option<&History>,
        seed: u64,
        position: u64,
    ) -> u32 {
        self.choose_allowed(logits, None, params, history, seed, position)
    }

    /// Like [`Chooser::choose`] among the tokens of `mask`, which come before all else: filters
    /// see no other token. The mask has at least one.
    pub fn choose_allowed(
        &mut self,
        logits: &[f32],
        mask: Option<&TokenMask>,
        params: &SamplingParams,
        history: Option<&History>,
        seed: u64,
        position: u64,
    ) -> u32 {
        let greedy = params.temperature == 0.0;
        if greedy && params.logit_bias.is_empty() && history.is_none() && mask.is_none() {
            return argmax(logits);
        }
        self.scaled.copy_from_slice(logits);
        if let Some(mask) = mask {
            mask.apply(&mut self.scaled);
        }
        let chosen = self.choose_scaled(params, history, seed, position);
        // Only where every allowed logit is NaN or -inf does something else come out.
        let escaped = mask.filter(|mask| !mask.allows(chosen));
        escaped.and_then(TokenMask::first).unwrap_or(chosen)
    }

    /// The choice among `self.scaled`, which are still plain logits.
    fn choose_scaled(
        &mut self,
        params: &SamplingParams,
        history: Option<&History>,
        seed: u64,
        position: u64,
    ) -> u32 {
        for &(token, bias) in &params.logit_bias {
            self.scaled[token as usize] += bias;
        }
        if let Some(history) = history {
            penalise(&mut self.scaled, params, history);
        }
        if params.temperature == 0.0 {
            return argmax(&self.scaled);
        }
        for value in &mut self.scaled {
            *value /= params.temperature;
        }
        let noise = Noise::new(seed, position);
        let score = |token: u32| self.scaled[token as usize] + noise.gumbel(token);
        let kept = keep(&self.scaled, &mut self.order, params);
        let mut best = (f32::NEG_INFINITY, u32::MAX);
        let mut consider = |token: u32| {
            let s = score(token);
            if s > best.0 || (s == best.0 && token < best.1) {
                best = (s, token);
            }
        };
        match kept {
            None => (0..self.scaled.len() as u32).for_each(&mut consider),
            Some(n) => self.order[..n].iter().copied().for_each(&mut consider),
        }
        // Only where every logit is NaN or -inf: nothing was considered better than nothing.
        if best.1 == u32::MAX { argmax(&self.scaled) } else { best.1 }
    }

    /// Log-probabilities of the raw logits: of `chosen` and of the `top` most likely tokens.
    pub fn logprobs(&mut self, logits: &[f32], chosen: u32, top: usize) -> TokenLogprobs {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&l| f64::from(l - max).exp()).sum();
        let log_sum = f64::from(max) + sum.ln();
        let of = |token: u32| (f64::from(logits[token as usize]) - log_sum) as f32;
        best_first(logits, &mut self.order, top);
        TokenLogprobs {
            chosen: of(chosen),
            top: self.order[..top].iter().map(|&token| (token, of(token))).collect(),
        }
    }
}

/// Repetition penalty on everything seen; presence and frequency on what was generated.
fn penalise(logits: &mut [f32], params: &SamplingParams, history: &History) {
    for (token, logit) in logits.iter_mut().enumerate() {
        if history.seen(token) {
            let penalty = params.repetition_penalty;
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
        let count = history.count(token);
        if count > 0 {
            *logit -= params.presence_penalty + params.frequency_penalty * count as f32;
        }
    }
}

/// Sorts the `count` best tokens (largest logit, then lowest id) to the front of `order`.
fn best_first(logits: &[f32], order: &mut Vec<u32>, count: usize) {
    order.clear();
    order.extend(0..logits.len() as u32);
    let better = |a: &u32, b: &u32| {
        logits[*b as usize].total_cmp(&logits[*a as usize]).then_with(|| a.cmp(b))
    };
    if count > 0 && count < order.len() {
        order.select_nth_unstable_by(count - 1, better);
    }
    order[..count].sort_unstable_by(better);
}

/// Applies top-k, top-p and min-p. `None` keeps all; `Some(n)` keeps `order[..n]`.
fn keep(scaled: &[f32], order: &mut Vec<u32>, params: &SamplingParams) -> Option<usize> {
    /// Most distributions reach any top-p within this many tokens; sorting more is rarely needed.
    const FIRST_TRY: usize = 1024;
    let vocab = scaled.len();
    let top_k = match params.top_k as usize {
        0 => vocab,
        k => k.min(vocab),
    };
    if top_k == vocab && params.top_p >= 1.0 && params.min_p <= 0.0 {
        return None;
    }
    let max = scaled.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mass = |token: u32| f64::from(scaled[token as usize] - max).exp();
    let mut sorted =
        if params.top_p < 1.0 || params.min_p > 0.0 { top_k.min(FIRST_TRY) } else { top_k };
    best_first(scaled, order, sorted);
    let total: f64 = if top_k == vocab {
        (0..vocab as u32).map(mass).sum()
    } else {
        if sorted < top_k {
            sorted = top_k;
            best_first(scaled, order, sorted);
        }
        order[..top_k].iter().map(|&t| mass(t)).sum()
    };
    loop {
        let mut before = 0.0;
        let mut kept = 0;
        for &token in &order[..sorted] {
            let m = mass(token);
            let in_nucleus = before < f64::from(params.top_p) * total;
            if kept > 0 && (!in_nucleus || m < f64::from(params.min_p)) {
                return Some(kept);
            }
            before += m;
            kept += 1;
        }
        if sorted == top_k {
            return Some(kept);
        }
        sorted = top_k;
        best_first(scaled, order, sorted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(temperature: f32) -> SamplingParams {
        SamplingParams { temperature, ..SamplingParams::default() }
    }

    /// Draw frequencies over positions follow the filtered softmax.
    #[test]
    fn draws_follow_the_filtered_distribution() {
        let logits = [1.0f32, 0.2, -0.5, 2.0, f32::NEG_INFINITY, 0.0];
        let cases = [
            (params(1.0), vec![0, 1, 2, 3, 5]),
            (params(0.5), vec![0, 1, 2, 3, 5]),
            (SamplingParams { top_k: 2, ..params(1.3) }, vec![0, 3]),
            (SamplingParams { top_p: 0.75, ..params(1.0) }, vec![0, 3]),
            (SamplingParams { min_p: 0.15, ..params(1.0) }, vec![0, 1, 3]),
        ];
        for (params, kept) in cases {
            let mut chooser = Chooser::new(logits.len());
            let mut counts = [0u32; 6];
            let n = 40_000;
            for position in 0..n {
                counts[chooser.choose(&logits, &params, None, 11, position) as usize] += 1;
            }
            let mass = |t: usize| f64::from(logits[t] / params.temperature).exp();
            let total: f64 = kept.iter().map(|&t| mass(t)).sum();
            for (token, count) in counts.into_iter().enumerate() {
                let expected = if kept.contains(&token) { mass(token) / total } else { 0.0 };
                let got = f64::from(count) / n as f64;
                let sigma = (expected * (1.0 - expected) / n as f64).sqrt();
                assert!(
                    (got - expected).abs() <= 5.0 * sigma,
                    "{params:?} {token}: {got} {expected}"
                );
            }
        }
    }

    #[test]
    fn greedy_prefers_the_lowest_id_and_ignores_nan() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, f32::NAN]), 1);
        assert_eq!(argmax(&[f32::NAN, f32::NEG_INFINITY]), 1);
        assert_eq!((argmax(&[f32::NAN; 40]), argmax(&[])), (0, 0));
        let mut many = vec![-1.0; 200];
        for at in [199, 100, 99, 31, 0] {
            many[at] = 2.0;
            assert_eq!(argmax(&many), at as u32);
        }
    }

    #[test]
    fn bias_and_penalties_change_the_greedy_choice() {
        let logits = [1.0f32, 0.9, -0.1, -5.0];
        let mut chooser = Chooser::new(4);
        let bias = SamplingParams { logit_bias: vec![(3, 7.0)], ..params(0.0) };
        assert_eq!(chooser.choose(&logits, &bias, None, 0, 0), 3);
        let repetition = SamplingParams { repetition_penalty: 1.5, ..params(0.0) };
        let history = History::new(4, &[0]);
        assert_eq!(chooser.choose(&logits, &repetition, Some(&history), 0, 0), 1);
        let frequency = SamplingParams { frequency_penalty: 0.6, ..params(0.0) };
        let mut history = History::new(4, &[0, 1]);
        assert_eq!(chooser.choose(&logits, &frequency, Some(&history), 0, 0), 0);
        history.push(0);
        assert_eq!(chooser.choose(&logits, &frequency, Some(&history), 0, 0), 1);
        history.push(1);
        history.push(1);
        assert_eq!(chooser.choose(&logits, &frequency, Some(&history), 0, 0), 0);
    }

    #[test]
    fn logprobs_are_of_the_raw_logits() {
        let logits = [0.0f32, 1.0, 2.0];
        let got = Chooser::new(3).logprobs(&logits, 0, 2);
        let log_sum = logits.iter().map(|&l| f64::from(l).exp()).sum::<f64>().ln() as f32;
        assert!((got.chosen + log_sum).abs() < 1e-6);
        assert_eq!(got.top.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 1]);
        assert!((got.top[0].1 - (2.0 - log_sum)).abs() < 1e-6);
    }
}
