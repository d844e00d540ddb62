//! The routes that generate or handle text.

pub(crate) mod chat;
pub(crate) mod completions;
mod conversation;
mod ids;
pub(crate) mod logprobs;
pub(crate) mod models;
mod openapi;
mod params;
pub(crate) mod tokenize;

pub(crate) use ids::unique as unique_id;
pub(crate) use openapi::openapi;
