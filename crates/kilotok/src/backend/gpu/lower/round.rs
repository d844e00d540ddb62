//! A round on the device: draft, verify, apply a run's rules, choose, accept, commit.

use kilotok_kernels::abi::program as abi;

use super::{Buffers, Lowering, Rows};

/// The ops with `flags` added.
fn flagged(ops: &[abi::Op], flags: u32) -> impl Iterator<Item = abi::Op> {
    ops.iter().map(move |op| abi::Op { flags: op.flags | flags, ..*op })
}

impl Lowering<'_> {
    /// Choices among the logits, collected in `best`.
    pub(super) fn choose(&self, best: u64) -> abi::Choose {
        abi::Choose {
            logits: self.buffers.logits.address,
            stride: self.buffers.logits.stride,
            best,
            kept: 0,
            vocab: self.model.spec.vocab as u32,
        }
    }

    /// What applies the rules of runs to their logits.
    fn rules(&self) -> [abi::Op; 2] {
        let Buffers { logits, peaks, kept, counts, biases, .. } = self.buffers;
        let Rows { address: logits, stride } = logits;
        let (vocab, blocks) = (self.model.spec.vocab as u32, self.blocks);
        let adjust = abi::Adjust { logits, counts, biases, peaks, stride, vocab };
        let filter =
            abi::Filter { scaled: logits, peaks, kept, stride, vocab, blocks, reserved: 0 };
        [
            abi::Op::new(abi::OP_ADJUST, abi::FLAG_RULES, &adjust),
            abi::Op::new(abi::OP_FILTER, abi::FLAG_RULES, &filter),
        ]
    }

    fn lay_out(&self, is_draft: bool) -> abi::Op {
        let flags = abi::FLAG_NEW_PASS | if is_draft { abi::FLAG_DRAFT } else { 0 };
        let rows = self.block_rows as u32;
        let best = self.buffers.draft_best;
        let lay_out = abi::LayOut { best, is_draft: u32::from(is_draft), rows };
        abi::Op::new(abi::OP_LAY_OUT, flags, &lay_out)
    }

    /// The head of a round with drafts.
    pub(super) fn drafting(&self, draft: &[abi::Op]) -> Vec<abi::Op> {
        if draft.is_empty() {
            return Vec::new();
        }
        let mut ops = vec![self.lay_out(true)];
        ops.extend(flagged(draft, abi::FLAG_DRAFT));
        ops
    }

    /// The rest of a round; context is kept only where drafts may follow.
    pub(super) fn verifying(&self, target: &[abi::Op], context: &[abi::Op]) -> Vec<abi::Op> {
        let mut ops = vec![self.lay_out(false)];
        ops.extend_from_slice(target);
        ops.extend(self.rules());
        let Buffers { best, kept, counts, logits, .. } = self.buffers;
        let choose = abi::Choose { kept, ..self.choose(best) };
        ops.push(abi::Op::new(abi::OP_CHOOSE, 0, &choose));
        let flags = abi::FLAG_DECIDES | abi::FLAG_NEW_PASS;
        let accept = abi::Accept { best, counts, stride: logits.stride, reserved: 0 };
        ops.push(abi::Op::new(abi::OP_ACCEPT, flags, &accept));
        ops.extend(flagged(context, abi::FLAG_DRAFT));
        ops
    }
}
