//! Token counts that penalties depend on.

/// Which tokens stood in the prompt and how often each was generated.
///
/// Rows of a verified block see the history that includes their own drafted prefix: the walk
/// over a block pushes each accepted token before it chooses the next one (dflash_spec 2.2).
#[derive(Clone, Debug)]
pub struct History {
    in_prompt: Vec<bool>,
    generated: Vec<u32>,
}

impl History {
    /// The history of a sequence that has generated nothing yet.
    pub fn new(vocab: usize, prompt: &[u32]) -> Self {
        let mut in_prompt = vec![false; vocab];
        for &token in prompt {
            in_prompt[token as usize] = true;
        }
        Self { in_prompt, generated: vec![0; vocab] }
    }

    /// Set in [`History::word`] of a token that stood in the prompt.
    pub const IN_PROMPT: u32 = 1 << 31;

    /// How often `token` was generated and whether it stood in the prompt, in one word.
    pub fn word(&self, token: u32) -> u32 {
        let token = token as usize;
        self.generated[token] | if self.in_prompt[token] { Self::IN_PROMPT } else { 0 }
    }

    /// Counts one generated token.
    pub fn push(&mut self, token: u32) {
        self.generated[token as usize] += 1;
    }

    /// How often `token` was generated.
    pub(crate) fn count(&self, token: usize) -> u32 {
        self.generated[token]
    }

    /// Whether `token` stood in the prompt or was generated.
    pub(crate) fn seen(&self, token: usize) -> bool {
        self.in_prompt[token] || self.generated[token] > 0
    }
}
