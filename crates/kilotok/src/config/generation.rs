//! `generation_config.json`: only the tokens that end a sequence are taken from it.

use super::json::{Fields, parse_object};
use crate::error::Result;

/// File name inside a checkpoint directory.
pub(super) const FILE: &str = "generation_config.json";

/// End-of-sequence token ids. Sampling defaults in the same file are suggestions to a caller and
/// change no logits, so they are left to whoever builds requests.
///
/// # Errors
/// [`crate::Error::ModelFormat`] where the text is no JSON object or an id is not a token id.
pub(super) fn eos_token_ids(text: &str) -> Result<Vec<u32>> {
    let map = parse_object(FILE, text)?;
    Fields::new(FILE, &map).token_ids("eos_token_id")
}
