//! What ops wait for beyond the bytes they read: the op right before, the rows of the pass, and what
//! a line promises to whoever reads its results. Between two ops all blocks meet, so what is
//! published by the end of an op is there for every later one; some things are not that simple:
//!
//! * streaming warps run ahead of the barrier and wait only for the experts of the newest `moe_up`.
//!   A `moe_down` anywhere but right behind its `moe_up` waits forever, or streams other experts;
//! * `moe_up` selects by the logits of the `router` right before it, made of the same rows;
//! * `filter` takes what the `adjust` right before it made of the logits;
//! * rows change under a line only where every block reads them again: [`abi::FLAG_NEW_PASS`].

use kilotok_kernels::abi::program as abi;

use super::fields;

/// Whose rows are in the pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rows {
    /// Given by the host for one line.
    Host,
    /// Nobody's: a round has begun and no op has laid them out.
    None,
    Draft,
    Target,
    Committed,
}

/// What is wrong with `ops`, executed in this order: the index of an op, and why.
pub(super) fn check(ops: &[(u32, abi::Op)], mut rows: Rows) -> Result<(), (u32, String)> {
    for (i, (index, op)) in ops.iter().enumerate() {
        let flaw = |reason: String| Err((*index, reason));
        let before = i.checked_sub(1).and_then(|i| ops.get(i)).map(|(_, op)| op);
        let after = ops.get(i + 1).map(|(_, op)| op);
        let name = fields::kind(op.kind);
        let changes_rows = matches!(op.kind, abi::OP_LAY_OUT | abi::OP_ACCEPT);
        if changes_rows != (op.flags & abi::FLAG_NEW_PASS != 0) {
            return flaw(format!("`flags`: {name} and rows that change"));
        }
        if (op.kind == abi::OP_ACCEPT) != (op.flags & abi::FLAG_DECIDES != 0) {
            return flaw(format!("`flags`: {name} and the end of a run"));
        }
        if op.kind == abi::OP_MOE_DOWN && !before.is_some_and(|up| is_up_of(up, op)) {
            return flaw("is `moe_down`, and the op before is not its `moe_up`".into());
        }
        if op.kind == abi::OP_MOE_UP && !after.is_some_and(|down| is_up_of(op, down)) {
            return flaw("is `moe_up`, and the op behind is not its `moe_down`".into());
        }
        if op.kind == abi::OP_MOE_UP && !before.is_some_and(|router| is_router_of(router, op)) {
            return flaw("is `moe_up`, and the op before is not its `router`".into());
        }
        if op.kind == abi::OP_FILTER && !before.is_some_and(|adjust| is_adjust_of(adjust, op)) {
            return flaw("filters what the op before did not adjust".into());
        }
        let wanted: &[Rows] = match op.kind {
            abi::OP_EMBED if op.payload::<abi::Embed>().mask != 0 => &[Rows::Draft],
            abi::OP_DRAFT_ATTENTION | abi::OP_DRAFT_CHOOSE => &[Rows::Draft],
            abi::OP_EMBED
            | abi::OP_ATTENTION
            | abi::OP_ADJUST
            | abi::OP_FILTER
            | abi::OP_CHOOSE
            | abi::OP_ACCEPT => &[Rows::Target],
            abi::OP_DRAFT_CONTEXT => &[Rows::Committed],
            abi::OP_LAY_OUT if op.payload::<abi::LayOut>().is_draft != 0 => &[Rows::None],
            abi::OP_LAY_OUT => &[Rows::None, Rows::Draft],
            _ => &[Rows::Draft, Rows::Target, Rows::Committed],
        };
        if !wanted.contains(&rows) && (rows != Rows::Host || changes_rows) {
            return flaw(format!("{name} on rows of the pass that are {rows:?}"));
        }
        rows = match op.kind {
            abi::OP_LAY_OUT if op.payload::<abi::LayOut>().is_draft != 0 => Rows::Draft,
            abi::OP_LAY_OUT => Rows::Target,
            abi::OP_ACCEPT => Rows::Committed,
            _ => rows,
        };
    }
    let last = ops.last().map_or(0, |(index, _)| *index);
    match rows {
        Rows::None | Rows::Draft | Rows::Target => Err((last, "a round ends undecided".into())),
        Rows::Host | Rows::Committed => Ok(()),
    }
}

fn is_up_of(up: &abi::Op, down: &abi::Op) -> bool {
    if (up.kind, down.kind) != (abi::OP_MOE_UP, abi::OP_MOE_DOWN) || up.flags != down.flags {
        return false;
    }
    let (up, down): (abi::MoeUp, abi::MoeDown) = (up.payload(), down.payload());
    (up.routes, up.hidden, up.hidden_stride, up.top_k)
        == (down.routes, down.hidden, down.hidden_stride, down.top_k)
}

fn is_router_of(router: &abi::Op, up: &abi::Op) -> bool {
    if (router.kind, up.kind) != (abi::OP_ROUTER, abi::OP_MOE_UP) || router.flags != up.flags {
        return false;
    }
    let (router, up): (abi::Router, abi::MoeUp) = (router.payload(), up.payload());
    (router.logits, router.experts, router.x, router.x_stride, router.norm)
        == (up.logits, up.experts, up.x, up.x_stride, up.norm)
}

fn is_adjust_of(adjust: &abi::Op, filter: &abi::Op) -> bool {
    if (adjust.kind, adjust.flags) != (abi::OP_ADJUST, filter.flags) {
        return false;
    }
    let (adjust, filter): (abi::Adjust, abi::Filter) = (adjust.payload(), filter.payload());
    (adjust.logits, adjust.peaks, adjust.stride, adjust.vocab)
        == (filter.scaled, filter.peaks, filter.stride, filter.vocab)
}
