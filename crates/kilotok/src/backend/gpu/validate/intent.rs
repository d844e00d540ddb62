//! What every record has to say, told a second time: from the numbers of the model and the names of
//! regions, without the code that wrote the records.

mod draft;
mod target;

use std::collections::HashMap;

use kilotok_kernels::abi::program as abi;

use super::super::arena::Region;
use super::super::lower::{Lowered, Rows};
use super::fields;
use crate::spec::{Activation, ModelSpec, RopeSpec};

type Told<T> = Result<T, String>;

struct Intent<'a> {
    lowered: &'a Lowered<'a>,
    spec: &'a ModelSpec,
    regions: HashMap<&'a str, &'a Region>,
}

/// All records in their order.
///
/// # Errors
/// The name of what has no region, or none of the right size.
pub(super) fn records(lowered: &Lowered<'_>) -> Told<Vec<abi::Op>> {
    let regions = lowered.regions.iter().map(|region| (&*region.name, region)).collect();
    let intent = Intent { lowered, spec: &lowered.model.spec, regions };
    let flagged = |ops: &[abi::Op], flags: u32| -> Vec<abi::Op> {
        ops.iter().map(|op| abi::Op { flags: op.flags | flags, ..*op }).collect()
    };
    let (target, mut context, mut draft) = (intent.target()?, Vec::new(), Vec::new());
    if let Some(drafter) = &intent.spec.drafter {
        (context, draft) = (intent.context(drafter)?, intent.draft(drafter)?);
    }
    let mut ops = [&target[..], &context, &draft].concat();
    if !draft.is_empty() {
        ops.push(intent.lay_out(true)?);
        ops.extend(flagged(&draft, abi::FLAG_DRAFT));
    }
    ops.push(intent.lay_out(false)?);
    ops.extend(target);
    let (adjust, filter) = intent.rules()?;
    ops.push(abi::Op::new(abi::OP_ADJUST, abi::FLAG_RULES, &adjust));
    ops.push(abi::Op::new(abi::OP_FILTER, abi::FLAG_RULES, &filter));
    let choose = abi::Choose { kept: filter.kept, ..intent.choose("best")? };
    ops.push(abi::Op::new(abi::OP_CHOOSE, 0, &choose));
    let flags = abi::FLAG_DECIDES | abi::FLAG_NEW_PASS;
    let (counts, stride) = (adjust.counts, adjust.stride);
    let accept = abi::Accept { best: intent.address("best")?, counts, stride, reserved: 0 };
    ops.push(abi::Op::new(abi::OP_ACCEPT, flags, &accept));
    ops.extend(flagged(&context, abi::FLAG_DRAFT));
    Ok(ops)
}

/// The field in which `found` parts from `wanted`, and both; `None` where a device does the same.
pub(super) fn difference(wanted: &abi::Op, found: &abi::Op, regions: &[Region]) -> Option<String> {
    if wanted.kind != found.kind {
        let [wanted, found] = [wanted, found].map(|op| fields::kind(op.kind));
        return Some(format!("is {found}, expected {wanted}"));
    }
    if wanted.flags != found.flags {
        return Some(format!("`flags` are {}, expected {}", found.flags, wanted.flags));
    }
    let leaves = fields::leaves(wanted.kind);
    let kind = wanted.kind;
    let [wanted, found] = [wanted, found].map(|op| fields::numbers(op, &leaves));
    let is_read = fields::read(kind, &leaves, &wanted);
    let at = (0..leaves.len()).find(|i| is_read[*i] && wanted[*i] != found[*i])?;
    let (name, is_address) = (&leaves[at].name, leaves[at].size == 8);
    let show = |value: u64| match regions.iter().rfind(|r| is_address && r.address <= value) {
        Some(region) if value < region.end() => {
            format!("`{}` + {}", region.name, value - region.address)
        }
        _ => format!("{value:#x}"),
    };
    Some(format!("`{name}` is {}, expected {}", show(found[at]), show(wanted[at])))
}

impl Intent<'_> {
    fn region(&self, name: &str) -> Told<&Region> {
        self.regions.get(name).copied().ok_or_else(|| format!("there is no region `{name}`"))
    }

    fn address(&self, name: &str) -> Told<u64> {
        Ok(self.region(name)?.address)
    }

    fn address_if(&self, is_there: bool, name: &str) -> Told<u64> {
        if is_there { self.address(name) } else { Ok(0) }
    }

    /// A buffer of `rows` rows of elements of `size` bytes, from its size.
    fn rows(&self, name: &str, rows: usize, size: u64) -> Told<Rows> {
        let region = self.region(name)?;
        let stride = (region.bytes / (rows as u64 * size)) as u32;
        Ok(Rows { address: region.address, stride })
    }

    fn input(&self, name: &str, width: usize) -> Told<Rows> {
        self.rows(&format!("{name} {width}"), abi::ROWS, 2)
    }

    fn output(&self, width: usize) -> Told<Rows> {
        self.rows(&format!("output {width}"), abi::ROWS, 4)
    }

    fn x(&self) -> Told<Rows> {
        self.rows("x", abi::ROWS, 2)
    }

    /// The matrix in region `name`, whose size says the format.
    fn matrix(&self, name: &str, tiles: usize, cols: usize, experts: usize) -> Told<abi::Matrix> {
        const PERIOD: usize = 6144;
        let region = self.region(name)?;
        for (format, width, bytes) in
            [(abi::BF16, 64, 4096), (abi::FP8, 128, 4224), (abi::MXFP4, 64, 1088)]
        {
            let steps = cols.div_ceil(width);
            let expert_bytes = (tiles * steps) as u64 * bytes;
            if expert_bytes * experts as u64 == region.bytes {
                return Ok(abi::Matrix {
                    steps: region.address,
                    expert_bytes,
                    format,
                    tiles: tiles as u32,
                    steps_per_tile: steps as u32,
                    chunk_steps: (256 * cols.div_ceil(PERIOD) / width) as u32,
                });
            }
        }
        let bytes = region.bytes;
        Err(format!("`{name}`: {bytes} bytes are no {experts} times {tiles} tiles of {cols}"))
    }

    fn norm(&self, eps: f32) -> Told<abi::Norm> {
        let (width, parts) = (self.spec.hidden as f32, self.spec.hidden.div_ceil(32) as u32);
        Ok(abi::Norm { squares: self.address("squares")?, parts, width, eps, reserved: 0 })
    }

    /// The residual, and what the norm in region `next` needs of it.
    fn residual(&self, next: &str, is_fresh: bool) -> Told<abi::Residual> {
        let (residual, x) = (self.rows("residual", abi::ROWS, 4)?, self.x()?);
        Ok(abi::Residual {
            residual: residual.address,
            norm_weight: self.address(next)?,
            x: x.address,
            squares: self.address("squares")?,
            tap: 0,
            stride: residual.stride,
            x_stride: x.stride,
            tap_stride: 0,
            fresh: u32::from(is_fresh),
        })
    }

    fn embed(&self, next: &str, mask: u64) -> Told<abi::Op> {
        let hidden = self.spec.hidden;
        let embed = abi::Embed {
            embedding: self.address("embed")?,
            mask,
            to: self.residual(next, true)?,
            width: hidden as u32,
            tiles: hidden.div_ceil(32) as u32,
        };
        Ok(abi::Op::new(abi::OP_EMBED, 0, &embed))
    }

    fn rope(&self, name: &str, spec: &RopeSpec) -> Told<abi::Op> {
        let rope = abi::Rope {
            frequencies: self.address(&format!("{name} frequencies"))?,
            rotations: self.address(name)?,
            pairs: (spec.dims / 2) as u32,
            magnitude: spec.magnitude() as f32,
        };
        Ok(abi::Op::new(abi::OP_ROPE, 0, &rope))
    }

    /// The normed residual times the matrix in region `name`.
    fn project(&self, name: &str, width: usize, to: Rows, has_bias: bool) -> Told<abi::Linear> {
        let x = self.x()?;
        Ok(abi::Linear {
            weights: self.matrix(name, width.div_ceil(32), self.spec.hidden, 1)?,
            norm: self.norm(self.spec.norm_eps)?,
            x: x.address,
            out: to.address,
            bias: self.address_if(has_bias, &format!("{name}.bias"))?,
            x_stride: x.stride,
            out_stride: to.stride,
            out_width: width as u32,
            store: abi::STORE_F32,
            ..abi::Linear::default()
        })
    }

    /// The matrix in region `name` times `x` of `cols` columns, onto the residual.
    fn add(
        &self,
        name: &str,
        (x, cols): (Rows, usize),
        to: abi::Residual,
        has_bias: bool,
    ) -> Told<abi::Op> {
        let hidden = self.spec.hidden;
        let linear = abi::Linear {
            weights: self.matrix(name, hidden.div_ceil(32), cols, 1)?,
            to,
            x: x.address,
            bias: self.address_if(has_bias, &format!("{name}.bias"))?,
            x_stride: x.stride,
            store: abi::STORE_RESIDUAL,
            ..abi::Linear::default()
        };
        Ok(abi::Op::new(abi::OP_LINEAR, 0, &linear))
    }

    fn dense(&self, name: &str, inter: usize, eps: f32, to: abi::Residual) -> Told<[abi::Op; 2]> {
        let (x, hidden) = (self.x()?, self.input("hidden", inter)?);
        let tiles = inter.div_ceil(16);
        let up = abi::Linear {
            weights: self.matrix(&format!("{name}.gate_up"), tiles, self.spec.hidden, 1)?,
            norm: self.norm(eps)?,
            activation: activation(Activation::Silu),
            x: x.address,
            out: hidden.address,
            x_stride: x.stride,
            out_stride: hidden.stride,
            out_width: inter as u32,
            store: abi::STORE_SWIGLU,
            ..abi::Linear::default()
        };
        let down = self.add(&format!("{name}.down"), (hidden, inter), to, false)?;
        Ok([abi::Op::new(abi::OP_LINEAR, 0, &up), down])
    }

    /// Chunks of a row's keys, and where their results go.
    fn partial_results(
        &self,
        (heads, kv_heads, v_dim): (usize, usize, usize),
        window: Option<usize>,
    ) -> Told<(u32, u64)> {
        if window.is_some_and(|window| window <= 256) || kv_heads >= 128 {
            return Ok((1, 0));
        }
        let chunks = 128 / kv_heads.max(1);
        let each = v_dim + 2 * v_dim.div_ceil(64);
        let bytes = 4 * (32_768 + abi::ROWS * heads * (chunks + 1) * each);
        Ok((chunks as u32, self.address(&format!("partial results {bytes}"))?))
    }

    fn head(&self, eps: f32) -> Told<abi::Linear> {
        let logits = self.rows("logits", abi::ROWS, 4)?;
        let head = self.project("lm_head", self.spec.vocab, logits, false)?;
        Ok(abi::Linear { norm: self.norm(eps)?, ..head })
    }

    fn choose(&self, best: &str) -> Told<abi::Choose> {
        let logits = self.rows("logits", abi::ROWS, 4)?;
        Ok(abi::Choose {
            logits: logits.address,
            best: self.address(best)?,
            kept: 0,
            stride: logits.stride,
            vocab: self.spec.vocab as u32,
        })
    }

    /// What stands between the logits and the choice of a run with rules.
    fn rules(&self) -> Told<(abi::Adjust, abi::Filter)> {
        let logits = self.rows("logits", abi::ROWS, 4)?;
        let (stride, vocab) = (logits.stride, self.spec.vocab as u32);
        let peaks = self.address("peaks")?;
        let adjust = abi::Adjust {
            logits: logits.address,
            counts: self.address("token counts")?,
            biases: self.address("token biases")?,
            peaks,
            stride,
            vocab,
        };
        let filter = abi::Filter {
            scaled: logits.address,
            peaks,
            kept: self.address("kept")?,
            stride,
            vocab,
            blocks: self.lowered.blocks,
            reserved: 0,
        };
        Ok((adjust, filter))
    }

    fn lay_out(&self, is_draft: bool) -> Told<abi::Op> {
        let drafter = self.spec.drafter.as_ref();
        let rows = drafter.map_or(0, |drafter| drafter.block_size.min(self.lowered.pass_rows));
        let lay_out = abi::LayOut {
            best: self.address_if(drafter.is_some(), "draft best")?,
            is_draft: u32::from(is_draft),
            rows: rows as u32,
        };
        let flags = abi::FLAG_NEW_PASS | if is_draft { abi::FLAG_DRAFT } else { 0 };
        Ok(abi::Op::new(abi::OP_LAY_OUT, flags, &lay_out))
    }
}

fn activation(activation: Activation) -> abi::Activation {
    match activation {
        Activation::Silu => abi::Activation { kind: abi::SILU, ..abi::Activation::default() },
        Activation::ClampedSwiGlu { alpha, limit } => {
            abi::Activation { kind: abi::CLAMPED_SWIGLU, alpha, limit, reserved: 0 }
        }
    }
}
