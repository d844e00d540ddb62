//! The CPU executor on random tiny models: against a naive f64 forward, and for batch invariance.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod invariance;
mod limits;
mod models;
mod naive;
mod oracle;
mod prefix;
