//! What a server is told when it is built.

use std::time::Duration;

use crate::ApiKeys;

/// Bounds on what one request may ask for. Each is checked before any work is done for it.
#[derive(Debug, Clone)]
pub struct RequestLimits {
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Time in which a body has to arrive.
    pub body_timeout: Duration,
    /// Nesting of arrays and objects in a request body.
    pub json_depth: usize,
    /// Prompts of one `/v1/completions` call.
    pub prompts: usize,
    /// Messages of one conversation.
    pub messages: usize,
    /// Sequences of one request, over all prompts.
    pub sequences: usize,
    /// Likely tokens reported per position.
    pub logprobs: u32,
    /// Stop strings.
    pub stop: usize,
    /// Bytes of one stop string.
    pub stop_bytes: usize,
    /// Entries of `logit_bias` and of `stop_token_ids`.
    pub token_list: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            body_bytes: 8 << 20,
            body_timeout: Duration::from_secs(30),
            json_depth: 64,
            prompts: 64,
            messages: 4096,
            sequences: 64,
            logprobs: 20,
            stop: 16,
            stop_bytes: 1024,
            token_list: 1024,
        }
    }
}

/// Sampling parameters of requests that do not name them.
#[derive(Debug, Clone)]
pub struct SamplingDefaults {
    /// Softmax temperature.
    pub temperature: f32,
    /// Nucleus mass.
    pub top_p: f32,
    /// Tokens kept; 0 keeps all.
    pub top_k: u32,
    /// Generated tokens of a chat request at most; the context's end comes first if it is nearer.
    pub max_tokens: u32,
}

impl Default for SamplingDefaults {
    fn default() -> Self {
        Self { temperature: 1.0, top_p: 1.0, top_k: 0, max_tokens: 4096 }
    }
}

/// Which `Host` headers are answered. A page in a browser can point a name of its own at
/// 127.0.0.1; what it cannot do is to change the name that the browser sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hosts {
    /// Any: the server sits behind a proxy or asks for keys.
    #[default]
    Any,
    /// `localhost` and IP addresses.
    Local,
}

/// Everything a router needs to know besides the engine.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Name under which the model is served.
    pub model: String,
    /// Other names that requests may use.
    pub aliases: Vec<String>,
    /// Bounds on one request.
    pub limits: RequestLimits,
    /// Sampling parameters of requests that do not name them.
    pub defaults: SamplingDefaults,
    /// Keys that are let in; without any the server is open.
    pub keys: ApiKeys,
    /// Web pages that may call the server from a browser; none by default.
    pub allowed_origins: Vec<String>,
    /// `Host` headers that are answered.
    pub hosts: Hosts,
    /// Sequences that may wait beyond those that run; more are refused with 429.
    pub max_queue: usize,
    /// Silence after which a stream carries a comment.
    pub keep_alive: Duration,
    /// Rounds that do not come for this long while requests wait make `/health` fail.
    pub stall_after: Duration,
    /// Time in which an idle engine has to answer `/health` with a probe token.
    pub probe_timeout: Duration,
}

impl ServerConfig {
    /// Defaults for a model of this name.
    pub fn named(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            aliases: Vec::new(),
            limits: RequestLimits::default(),
            defaults: SamplingDefaults::default(),
            keys: ApiKeys::default(),
            allowed_origins: Vec::new(),
            hosts: Hosts::Any,
            max_queue: 128,
            keep_alive: Duration::from_secs(10),
            stall_after: Duration::from_secs(30),
            probe_timeout: Duration::from_secs(10),
        }
    }
}
