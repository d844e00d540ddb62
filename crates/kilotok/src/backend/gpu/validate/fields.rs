//! Fields of records by name, and which of them a device looks at.

use kilotok_kernels::abi::program as abi;
use kilotok_kernels::abi::{Layout, Shared};

/// Names of ops by [`abi::Op::kind`], with the structs of their payloads.
const KINDS: [(&str, &str); 16] = [
    ("no op", ""),
    ("`embed`", "KilotokEmbed"),
    ("`rope`", "KilotokRope"),
    ("`linear`", "KilotokLinear"),
    ("`attention`", "KilotokAttention"),
    ("`router`", "KilotokRouter"),
    ("`moe_up`", "KilotokMoeUp"),
    ("`moe_down`", "KilotokMoeDown"),
    ("`draft_attention`", "KilotokDraftAttention"),
    ("`draft_context`", "KilotokDraftContext"),
    ("`choose`", "KilotokChoose"),
    ("`lay_out`", "KilotokLayOut"),
    ("`accept`", "KilotokAccept"),
    ("`draft_choose`", "KilotokChoose"),
    ("`adjust`", "KilotokAdjust"),
    ("`filter`", "KilotokFilter"),
];

/// The name of a kind.
pub(super) fn kind(kind: u32) -> &'static str {
    KINDS.get(kind as usize).map_or("no op", |(name, _)| name)
}

/// One number of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// With the names of the structs around it: `weights.tiles`.
    pub(super) name: String,
    pub(super) offset: usize,
    /// 8: an address or a number of bytes; 4: any other number.
    pub(super) size: usize,
}

/// All numbers of the payload of `kind`, in order.
pub(super) fn leaves(kind: u32) -> Vec<Leaf> {
    fn push(layouts: &[Layout], c_name: &str, prefix: &str, at: usize, to: &mut Vec<Leaf>) {
        let Some(layout) = layouts.iter().find(|layout| layout.c_name == c_name) else { return };
        for field in &layout.fields {
            let (name, offset) = (format!("{prefix}{}", field.name), at + field.offset);
            let inner = match field.name {
                "weights" if field.size > 8 => "KilotokMatrix",
                "norm" => "KilotokNorm",
                "to" => "KilotokResidual",
                "activation" => "KilotokActivation",
                _ => {
                    to.push(Leaf { name, offset, size: field.size });
                    continue;
                }
            };
            push(layouts, inner, &format!("{name}."), offset, to);
        }
    }
    let mut leaves = Vec::new();
    if let Some((_, c_name)) = KINDS.get(kind as usize) {
        push(&abi::layouts(), c_name, "", 0, &mut leaves);
    }
    leaves
}

/// The numbers of a record in the order of `leaves`.
pub(super) fn numbers(op: &abi::Op, leaves: &[Leaf]) -> Vec<u64> {
    let mut bytes = Vec::with_capacity(abi::OP_BYTES);
    op.payload.write(&mut bytes);
    let number = |leaf: &Leaf| {
        let held = &bytes[leaf.offset..leaf.offset + leaf.size];
        held.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    };
    leaves.iter().map(number).collect()
}

/// Which of the numbers of a record a device looks at.
pub(super) fn read(kind: u32, leaves: &[Leaf], numbers: &[u64]) -> Vec<bool> {
    let of = |name: &str| {
        let at = leaves.iter().position(|leaf| leaf.name == name);
        at.and_then(|at| numbers.get(at)).copied().unwrap_or(0)
    };
    leaves.iter().map(|leaf| is_read(kind, &leaf.name, &of)).collect()
}

/// Whether a device looks at field `name`, from others of the same record.
fn is_read(kind: u32, name: &str, of: &dyn Fn(&str) -> u64) -> bool {
    let store = of("store");
    let is_linear = kind == abi::OP_LINEAR;
    match name.split('.').next_back().unwrap_or(name) {
        "reserved" => return false,
        "alpha" | "limit" if of("activation.kind") == u64::from(abi::SILU) => return false,
        "tap_stride" if of("to.tap") == 0 => return false,
        "max_pages" if of("page_table") == 0 => return false,
        "scratch" if of("max_chunks") == 1 => return false,
        "kept" if kind == abi::OP_DRAFT_CHOOSE => return false,
        "best" if kind == abi::OP_LAY_OUT && of("is_draft") != 0 => return false,
        "out" | "out_stride" | "out_width"
            if is_linear && store == u64::from(abi::STORE_RESIDUAL) =>
        {
            return false;
        }
        _ => {}
    }
    match name.split_once('.') {
        Some(("norm", field)) => field == "squares" || of("norm.squares") != 0,
        Some(("to", _)) if is_linear => store == u64::from(abi::STORE_RESIDUAL),
        Some(("activation", _)) if is_linear => store == u64::from(abi::STORE_SWIGLU),
        _ => true,
    }
}
