//! What becomes of what ops write.

use std::ops::Range;

use kilotok_kernels::abi::program as abi;

use super::Flaw;
use super::access::{Access, Mode};
use super::lines::Line;

/// Whether every result is read, and no result twice that is made for one reader: buffers are shared
/// by layers, so that a reader finds an earlier layer's where an op is missing.
#[derive(Default)]
pub(super) struct Results {
    /// Read by nobody yet: the op, the field, the bytes.
    unread: Vec<(u32, &'static str, Range<u64>)>,
    /// Read by their only reader.
    spent: Vec<Range<u64>>,
}

impl Results {
    /// The residual that ends a line, caches, and what an op writes for itself.
    fn may_stay(field: &str) -> bool {
        matches!(field, "to.residual" | "block" | "scratch" | "keys" | "values" | "counts")
    }

    fn is_for_one(field: &str) -> bool {
        matches!(field, "qkv" | "kv" | "logits" | "hidden" | "routes")
    }

    /// Takes one op's accesses into account.
    pub(super) fn pass(&mut self, op: u32, accesses: &[Access]) -> Result<(), Flaw> {
        let meets = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
        for Access { field, range, .. } in accesses.iter().filter(|a| a.mode != Mode::Write) {
            self.unread.retain(|(_, _, unread)| !meets(unread, range));
            if Self::is_for_one(field) {
                if self.spent.iter().any(|spent| meets(spent, range)) {
                    let reason = format!("`{field}` is what an earlier op was to read");
                    return Err(Flaw { op, reason });
                }
                self.spent.push(range.clone());
            }
        }
        for Access { field, range, .. } in accesses.iter().filter(|access| access.writes()) {
            self.spent.retain(|spent| !meets(spent, range));
            // From its beginning: what fills a tap up to whole tiles lies under the next tap.
            let is_lost = |unread: &Range<u64>| range.contains(&unread.start);
            let lost = self.unread.iter().find(|(by, _, unread)| *by != op && is_lost(unread));
            if let Some((op, field, _)) = lost {
                let reason = format!("`{field}` is written again before anybody has read it");
                return Err(Flaw { op: *op, reason });
            }
            if !Self::may_stay(field) {
                self.unread.push((op, *field, range.clone()));
            }
        }
        Ok(())
    }

    /// Promises are read by whoever they are made to; without logits nobody reads the last norm.
    pub(super) fn end(&self, line: &Line<'_>) -> Result<(), Flaw> {
        let is_without_logits = line.skip & abi::FLAG_LOGITS != 0;
        let left = self.unread.iter().find(|(_, field, range)| {
            let is_promised =
                line.promises.iter().any(|p| p.start <= range.start && range.end <= p.end);
            let is_norm = matches!(*field, "to.x" | "to.squares");
            let is_for_later = *field == "to.tap" && !line.commits;
            !(is_promised || is_for_later || is_norm && is_without_logits)
        });
        match left {
            Some((op, field, _)) => {
                Err(Flaw { op: *op, reason: format!("`{field}` is read by nobody") })
            }
            None => Ok(()),
        }
    }
}
