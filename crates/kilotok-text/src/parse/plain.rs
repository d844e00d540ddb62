//! Output without markup.

use super::{Delta, OutputParser};

/// Everything is content.
pub(super) struct PlainParser;

impl OutputParser for PlainParser {
    fn push(&mut self, text: &str) -> Vec<Delta> {
        if text.is_empty() { Vec::new() } else { vec![Delta::Content(text.to_owned())] }
    }

    fn finish(&mut self) -> Vec<Delta> {
        Vec::new()
    }

    fn held_bytes(&self) -> usize {
        0
    }
}
