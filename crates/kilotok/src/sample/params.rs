//! Sampling parameters of one request and their validation.

use crate::error::{Error, Result};

/// How tokens are chosen and when a sequence ends.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy; otherwise logits are divided by it. At most 100.
    pub temperature: f32,
    /// Keep the `top_k` most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set whose probability reaches `top_p`, in (0, 1].
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as likely as the most likely one, in [0, 1].
    pub min_p: f32,
    /// Divides positive (multiplies negative) logits of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from logits of tokens in the output.
    pub presence_penalty: f32,
    /// Subtracted per occurrence from logits of tokens in the output.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens before anything else.
    pub logit_bias: Vec<(u32, f32)>,
    /// Key of the noise. `None` draws one per request; the receipt reports it.
    pub seed: Option<u64>,
    /// Token ids that end the sequence, besides the model's own.
    pub stop_token_ids: Vec<u32>,
    /// Largest number of generated tokens, at least 1.
    pub max_tokens: u32,
    /// Go on after the model's end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Report log-probabilities of the chosen token and of this many most likely ones.
    pub logprobs: Option<u32>,
    /// The same for every prompt token but the first, which nothing precedes.
    pub prompt_logprobs: Option<u32>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
            stop_token_ids: Vec::new(),
            max_tokens: 128,
            ignore_eos: false,
            logprobs: None,
            prompt_logprobs: None,
        }
    }
}

/// Most log-probabilities that one request may ask for per token.
pub(crate) const MAX_LOGPROBS: u32 = 64;

impl SamplingParams {
    /// Checks every field against its range and against the vocabulary.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] naming the first field that is out of range.
    pub fn validate(&self, vocab: usize) -> Result<()> {
        let within = |name: &str, value: f32, low: f32, high: f32| {
            if value.is_finite() && (low..=high).contains(&value) {
                Ok(())
            } else {
                Err(Error::invalid(name, format!("{value} is not within [{low}, {high}]")))
            }
        };
        within("temperature", self.temperature, 0.0, 100.0)?;
        within("top_p", self.top_p, f32::MIN_POSITIVE, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01, 100.0)?;
        within("presence_penalty", self.presence_penalty, -100.0, 100.0)?;
        within("frequency_penalty", self.frequency_penalty, -100.0, 100.0)?;
        if self.max_tokens == 0 {
            return Err(Error::invalid("max_tokens", "0 is not at least 1"));
        }
        let known = |name: &str, token: u32| {
            if (token as usize) < vocab {
                Ok(())
            } else {
                Err(Error::invalid(name, format!("token id {token} is not below {vocab}")))
            }
        };
        for &(token, bias) in &self.logit_bias {
            known("logit_bias", token)?;
            within("logit_bias", bias, -1e4, 1e4)?;
        }
        for &token in &self.stop_token_ids {
            known("stop_token_ids", token)?;
        }
        let most = (MAX_LOGPROBS as usize).min(vocab);
        for (name, count) in
            [("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)]
        {
            if count.is_some_and(|n| n as usize > most) {
                return Err(Error::invalid(name, format!("at most {most} can be reported")));
            }
        }
        Ok(())
    }

    /// Whether logits depend on earlier tokens.
    pub(crate) fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }
}
