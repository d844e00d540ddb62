//! Arguments from Python as settings of the engine.

use kilotok::SamplingParams;
use kilotok::engine::{ExecutionMode, Speculation};
use kilotok_text::GrammarSpec;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyString};

use crate::errors::invalid;

/// What `kilotok.SamplingParams.request` returns.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct RequestOptions {
    max_tokens: u32,
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    logit_bias: Vec<(u32, f32)>,
    seed: u64,
    stop_token_ids: Vec<u32>,
    ignore_eos: bool,
    logprobs: Option<u32>,
    /// Stop strings; the engine knows tokens only.
    pub(crate) stop: Vec<String>,
    pub(crate) skip_special_tokens: bool,
    /// Name of the parameter that constrains the text, and its value; a schema or a list as JSON.
    pub(crate) constraint: Option<(String, String)>,
    /// Tokens of the thinking at most.
    pub(crate) thinking_budget: Option<u32>,
}

impl RequestOptions {
    pub(crate) fn sampling(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
            seed: Some(self.seed),
            stop_token_ids: self.stop_token_ids.clone(),
            max_tokens: self.max_tokens,
            ignore_eos: self.ignore_eos,
            logprobs: self.logprobs,
            prompt_logprobs: None,
        }
    }
}

/// `"auto"`, `"graph"` or `"persistent"`.
pub(crate) fn mode(text: &str) -> PyResult<ExecutionMode> {
    match text {
        "auto" => Ok(ExecutionMode::Auto),
        "graph" => Ok(ExecutionMode::Graph),
        "persistent" => Ok(ExecutionMode::Persistent),
        other => Err(invalid("mode", &format!("'{other}' is not 'auto', 'graph' or 'persistent'"))),
    }
}

impl RequestOptions {
    /// The rule for the text, under its parameter's name.
    pub(crate) fn rule(&self) -> PyResult<Option<(&str, GrammarSpec)>> {
        let Some((name, value)) = &self.constraint else { return Ok(None) };
        let not_json = |error: serde_json::Error| invalid(name, &error.to_string());
        let spec = match name.as_str() {
            "json_schema" => {
                GrammarSpec::JsonSchema(serde_json::from_str(value).map_err(not_json)?)
            }
            "choice" => GrammarSpec::Choice(serde_json::from_str(value).map_err(not_json)?),
            "regex" => GrammarSpec::Regex(value.clone()),
            _ => GrammarSpec::Lark(value.clone()),
        };
        Ok(Some((name, spec)))
    }
}

/// `"off"`, `"auto"` or the rows of a block.
pub(crate) fn speculation(value: &Bound<'_, PyAny>) -> PyResult<Speculation> {
    let refuse = || {
        let found = value.repr().map_or_else(|_| "?".to_owned(), |text| text.to_string());
        invalid("speculation", &format!("{found} is not 'off', 'auto' or a block length"))
    };
    if let Ok(text) = value.cast::<PyString>() {
        return match text.to_str() {
            Ok("off") => Ok(Speculation::Off),
            Ok("auto") => Ok(Speculation::Auto),
            _ => Err(refuse()),
        };
    }
    if value.is_instance_of::<PyInt>() && !value.is_instance_of::<PyBool>() {
        return value.extract::<usize>().map(Speculation::Block).map_err(|_| refuse());
    }
    Err(refuse())
}
