//! A model that says what a test wants to hear.

use std::collections::HashMap;

use kilotok::Result;
use kilotok::backend::{Backend, End, Limits, Progress, Report, SequenceInit, Slot, Work};
use kilotok_server::ServerConfig;
use kilotok_text::{EncodeOptions, Tokenizer};

use crate::support::{POSITIONS, SLOTS, Server, demo, engine_over};

const END: u32 = 2;

struct Scripted {
    script: Vec<u32>,
    /// Prompt length, limit, and tokens said.
    said: HashMap<Slot, (usize, usize, usize)>,
}

impl Backend for Scripted {
    fn limits(&self) -> Limits {
        Limits {
            max_rows: 64,
            slots: SLOTS,
            pages: SLOTS * POSITIONS / 16,
            page_size: 16,
            max_positions: POSITIONS,
            snapshots: 0,
        }
    }

    fn open(&mut self, slot: Slot, sequence: SequenceInit) -> Result<()> {
        self.said.insert(slot, (sequence.prompt.len(), sequence.params.max_tokens as usize, 0));
        Ok(())
    }

    fn close(&mut self, slot: Slot) {
        self.said.remove(&slot);
    }

    fn run(&mut self, plan: &[Work], _max_rounds: u32, report: &mut Report) -> Result<()> {
        report.clear();
        report.rounds = 1;
        for work in plan {
            let slot = match *work {
                Work::Prefill { slot, start, len } if start + len < self.said[&slot].0 => continue,
                Work::Prefill { slot, .. } | Work::Decode { slot, .. } => slot,
            };
            report.rows += 1;
            let (_, limit, said) = self.said.get_mut(&slot).unwrap();
            let token = self.script.get(*said).copied().unwrap_or(END);
            *said += 1;
            let end = match token {
                END => Some(End::StopToken),
                _ => (*said == *limit).then_some(End::Length),
            };
            let at = report.tokens.len();
            report.tokens.push(token);
            report.progress.push(Progress {
                slot,
                tokens: at..at + 1,
                proposed: 0,
                speculative: false,
                drafted: 0,
                accepted: 0,
                end,
            });
        }
        Ok(())
    }
}

/// A server whose model answers every prompt with `text`.
pub(crate) fn saying(text: &str) -> Server {
    let tokenizer = Tokenizer::from_dir(&demo()).unwrap().unwrap();
    let options = EncodeOptions { add_special_tokens: false, parse_special: true };
    let script = tokenizer.encode(text, options).unwrap();
    let backend = Scripted { script, said: HashMap::new() };
    Server::over(ServerConfig::named("sim"), engine_over(Box::new(backend)))
}

/// Thinking, an answer, and two calls, as the demo checkpoint writes them.
pub(crate) const EVERYTHING: &str = "<think>\nLet me see.\n</think>\nI will look.<tool_call>\n\
    {\"name\": \"weather\", \"arguments\": {\"city\": \"Bern\", \"days\": 2}}\n</tool_call>\
    <tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call>";

/// A call that the length limit cuts off.
pub(crate) const BROKEN: &str =
    "So:<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bern";
