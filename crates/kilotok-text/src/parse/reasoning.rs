//! Whether a prompt ends inside the model's thinking.

/// Where the output of a model with `<think>` markup begins.
///
/// Templates differ, and differ with flags, in whether they open or close the thinking themselves.
/// Guessing from a flag makes the answer vanish into the reasoning, or the reasoning show up in
/// the answer; the end of the prompt that was really sent is the only reliable witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningState {
    /// The prompt has opened the thinking: output is reasoning until `</think>`.
    Inside,
    /// The answer has begun or the thinking is closed.
    Closed,
    /// The turn has just begun: the model may open the thinking itself.
    Undecided,
}

const TURN: &str = "<|im_start|>assistant";
const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

impl ReasoningState {
    /// Reads the state off the end of a rendered prompt.
    ///
    /// Only what follows the last `<|im_start|>assistant` counts, so that `<think>` in a user's
    /// message changes nothing; without such a mark, only a tag at the very end counts.
    pub fn from_prompt_suffix(prompt: &str) -> Self {
        let Some(at) = prompt.rfind(TURN) else {
            let end = prompt.trim_end();
            return match () {
                () if end.ends_with(OPEN) => Self::Inside,
                () if end.ends_with(CLOSE) => Self::Closed,
                () => Self::Undecided,
            };
        };
        let turn = &prompt[at + TURN.len()..];
        match (turn.rfind(OPEN), turn.rfind(CLOSE)) {
            (Some(open), Some(close)) if open > close => Self::Inside,
            (Some(_), None) => Self::Inside,
            (None, None) if turn.trim().is_empty() => Self::Undecided,
            (_, Some(_)) | (None, None) => Self::Closed,
        }
    }
}
