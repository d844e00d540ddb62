//! An answer as a sequence of blocks: thinking, text and calls, one after the other.

use kilotok_text::{Channel, Delta};

/// One block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Block {
    Reasoning(String),
    Text(String),
    Call {
        id: String,
        name: String,
        arguments: String,
        /// False where the call broke off: what there is of its arguments is no JSON.
        complete: bool,
    },
}

/// What happens to the newest block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Open(Block),
    More(String),
    Close(Block),
}

/// Orders the deltas of one answer into blocks.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    open: Option<Block>,
    /// Blocks that are complete.
    pub(crate) done: Vec<Block>,
}

impl Blocks {
    /// What a delta does.
    pub(crate) fn push(&mut self, delta: Delta, steps: &mut Vec<Step>) {
        match delta {
            Delta::Reasoning(text) => self.text(Channel::Reasoning, text, steps),
            Delta::Content(text) => self.text(Channel::Content, text, steps),
            Delta::ToolCallStart { id, name, .. } => {
                self.close(steps);
                self.start(
                    Block::Call { id, name, arguments: String::new(), complete: false },
                    steps,
                );
            }
            Delta::ToolCallArguments { json_fragment, .. } => {
                if let Some(Block::Call { arguments, .. }) = &mut self.open {
                    arguments.push_str(&json_fragment);
                    steps.push(Step::More(json_fragment));
                }
            }
            Delta::ToolCallEnd { .. } => {
                if let Some(Block::Call { complete, .. }) = &mut self.open {
                    *complete = true;
                }
                self.close(steps);
            }
            Delta::ToolCallBroken { markup, channel, .. } => {
                self.close(steps);
                self.text(channel, markup, steps);
            }
        }
    }

    /// Ends the answer.
    pub(crate) fn close(&mut self, steps: &mut Vec<Step>) {
        if let Some(block) = self.open.take() {
            self.done.push(block.clone());
            steps.push(Step::Close(block));
        }
    }

    fn text(&mut self, channel: Channel, more: String, steps: &mut Vec<Step>) {
        match (&mut self.open, channel) {
            (Some(Block::Reasoning(text)), Channel::Reasoning)
            | (Some(Block::Text(text)), Channel::Content) => text.push_str(&more),
            _ => {
                self.close(steps);
                let empty = match channel {
                    Channel::Reasoning => Block::Reasoning(String::new()),
                    Channel::Content => Block::Text(String::new()),
                };
                self.start(empty, steps);
                self.text(channel, more, steps);
                return;
            }
        }
        steps.push(Step::More(more));
    }

    fn start(&mut self, block: Block, steps: &mut Vec<Step>) {
        steps.push(Step::Open(block.clone()));
        self.open = Some(block);
    }
}

#[cfg(test)]
mod tests {
    use kilotok_text::{Channel, Delta};

    use super::{Block, Blocks, Step};

    #[test]
    fn blocks_open_once_and_close_once_in_order() {
        let call = |complete| Block::Call {
            id: "c".into(),
            name: "f".into(),
            arguments: "{}".into(),
            complete,
        };
        let start = || Delta::ToolCallStart { index: 0, id: "c".into(), name: "f".into() };
        let arguments = || Delta::ToolCallArguments { index: 0, json_fragment: "{}".into() };
        let mut blocks = Blocks::default();
        let mut steps = Vec::new();
        for delta in [
            Delta::Reasoning("a".into()),
            Delta::Reasoning("b".into()),
            Delta::Content("c".into()),
            start(),
            arguments(),
            Delta::ToolCallEnd { index: 0 },
            start(),
            arguments(),
            Delta::ToolCallBroken { index: 1, markup: "<x".into(), channel: Channel::Content },
            Delta::Content("y".into()),
        ] {
            blocks.push(delta, &mut steps);
        }
        blocks.close(&mut steps);
        assert_eq!(
            blocks.done,
            [
                Block::Reasoning("ab".into()),
                Block::Text("c".into()),
                call(true),
                call(false),
                Block::Text("<xy".into()),
            ]
        );
        let mut depth = 0;
        for step in &steps {
            match step {
                Step::Open(_) => depth += 1,
                Step::Close(_) => depth -= 1,
                Step::More(text) => assert!(!text.is_empty()),
            }
            assert!((0..=1).contains(&depth));
        }
        assert_eq!(depth, 0);
    }
}
