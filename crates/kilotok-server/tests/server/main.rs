//! The router in this process, over a simulated model.
#![allow(clippy::unwrap_used, reason = "in tests a panic is a failure")]

mod chat;
mod completions;
mod constrained;
mod fields;
mod fuzz;
mod gate;
mod messages;
mod operation;
mod page;
mod prefix_cache;
mod responses;
mod scripted;
mod security;
mod support;
mod tools;
mod wire;
