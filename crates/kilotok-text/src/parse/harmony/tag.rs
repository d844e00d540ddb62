//! The special tokens of the format.

/// The markup of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    Start,
    End,
    Message,
    Channel,
    Constrain,
    Return,
    Call,
}

impl Tag {
    const ALL: [Self; 7] = [
        Self::Start,
        Self::End,
        Self::Message,
        Self::Channel,
        Self::Constrain,
        Self::Return,
        Self::Call,
    ];

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Start => "<|start|>",
            Self::End => "<|end|>",
            Self::Message => "<|message|>",
            Self::Channel => "<|channel|>",
            Self::Constrain => "<|constrain|>",
            Self::Return => "<|return|>",
            Self::Call => "<|call|>",
        }
    }

    /// A tag whose text begins with `text`. No tag's text begins another's.
    pub(super) fn beginning_with(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tag| tag.text().starts_with(text))
    }
}
