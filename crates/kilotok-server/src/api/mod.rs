//! The routes that generate or handle text.

mod answer;
mod blocks;
pub(crate) mod chat;
pub(crate) mod completions;
mod conversation;
mod ids;
pub(crate) mod logprobs;
pub(crate) mod messages;
pub(crate) mod models;
mod openapi;
mod params;
pub(crate) mod responses;
pub(crate) mod rules;
pub(crate) mod tokenize;
mod tools;

pub(crate) use ids::unique as unique_id;
pub(crate) use openapi::openapi;
