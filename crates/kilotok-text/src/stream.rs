//! Incremental detokenising.

use std::sync::Arc;

use crate::utf8::Utf8Decoder;
use crate::{TextError, Tokenizer};

/// A character has at most four bytes, so four tokens at most can share one.
const TOKENS_PER_CHARACTER: usize = 4;

/// Turns a stream of token ids into pieces of text.
///
/// For byte-level tokenizers the concatenation of all pieces and `finish` equals
/// [`Tokenizer::decode`] of all tokens, no piece shows part of a character, and the work per token
/// does not depend on how many came before. Other decoders look at neighbouring tokens; for them a
/// short window is decoded again, which gives the same text wherever the decoder is local.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special_tokens: bool,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Bytes(Utf8Decoder),
    Window(Window),
}

/// `ids[..shown]` is context whose text was returned before; `ids[shown..]` is not shown yet.
#[derive(Debug, Clone, Default)]
struct Window {
    ids: Vec<u32>,
    shown: usize,
}

impl Detokenizer {
    /// Starts a stream.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special_tokens: bool) -> Self {
        let state = if tokenizer.is_byte_level() {
            State::Bytes(Utf8Decoder::default())
        } else {
            State::Window(Window::default())
        };
        Self { tokenizer, skip_special_tokens, state }
    }

    /// The text completed by one more token; empty while a character is unfinished.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] from decoders that can fail; byte-level ones cannot.
    pub fn push(&mut self, id: u32) -> Result<String, TextError> {
        if self.skip_special_tokens && self.tokenizer.is_special(id) {
            return Ok(String::new());
        }
        match &mut self.state {
            State::Bytes(decoder) => {
                let mut text = String::new();
                if let Some(bytes) = self.tokenizer.token_bytes(id) {
                    decoder.push(&bytes, &mut text);
                }
                Ok(text)
            }
            State::Window(window) => window.push(&self.tokenizer, id),
        }
    }

    /// Ends the stream; a truncated character becomes U+FFFD.
    ///
    /// # Errors
    /// As [`Detokenizer::push`].
    pub fn finish(&mut self) -> Result<String, TextError> {
        match &mut self.state {
            State::Bytes(decoder) => {
                let mut text = String::new();
                decoder.finish(&mut text);
                Ok(text)
            }
            State::Window(window) => window.show(&self.tokenizer, window.ids.len()),
        }
    }
}

impl Window {
    fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String, TextError> {
        self.ids.push(id);
        let whole = tokenizer.decode(&self.ids, false)?;
        if !whole.ends_with(char::REPLACEMENT_CHARACTER) {
            return self.show(tokenizer, self.ids.len());
        }
        // Only the last few tokens can belong to an unfinished character: a replacement
        // character older than that is real, and waiting longer would make the window grow.
        if self.ids.len() - self.shown > 2 * TOKENS_PER_CHARACTER {
            return self.show(tokenizer, self.ids.len() - TOKENS_PER_CHARACTER);
        }
        Ok(String::new())
    }

    /// Returns the text of `ids[shown..end]` in context and keeps it as the next context.
    fn show(&mut self, tokenizer: &Tokenizer, end: usize) -> Result<String, TextError> {
        if end == self.shown {
            return Ok(String::new());
        }
        let before = tokenizer.decode(&self.ids[..self.shown], false)?;
        let after = tokenizer.decode(&self.ids[..end], false)?;
        let text = match after.strip_prefix(before.as_str()) {
            Some(text) => text.to_owned(),
            // The new tokens changed how the context reads; their own reading loses nothing.
            None => tokenizer.decode(&self.ids[self.shown..end], false)?,
        };
        self.ids.drain(..self.shown);
        self.shown = end - self.shown;
        Ok(text)
    }
}
