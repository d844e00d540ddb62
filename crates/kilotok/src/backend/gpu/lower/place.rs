//! Where weights go, and what has to be copied there.

use std::sync::Arc;

use kilotok_gpu::pool::Component;
use kilotok_kernels::abi::program as abi;

use super::super::arena::Arena;
use crate::error::{Error, Result};
use crate::matrix::{Format, Matrix};
use crate::spec::RopeSpec;
use crate::weights::repack::{Packing, RowOrder, StepFormat, TILE_ROWS};

/// The matrices that are packed together, and their biases.
pub(super) type Expert<'m> = (Vec<&'m Matrix>, Option<Vec<&'m [f32]>>);

/// What lies at one place once the model is loaded; zeros follow up to the end of its region.
#[derive(Debug)]
pub(in crate::backend::gpu) enum Content<'m> {
    /// A matrix in steps.
    Steps(Packing<'m>),
    /// A vector in the order of a packed matrix's rows.
    Bias(Packing<'m>, Vec<&'m [f32]>),
    /// 32-bit floats.
    Floats(&'m [f32]),
    /// 64-bit floats.
    Doubles(Vec<f64>),
    /// A matrix row by row, as stored.
    Rows(String, &'m Matrix),
}

/// One copy to the device.
#[derive(Debug)]
pub(in crate::backend::gpu) struct Upload<'m> {
    pub(in crate::backend::gpu) address: u64,
    pub(in crate::backend::gpu) content: Content<'m>,
}

impl Content<'_> {
    /// What is copied, as far as it has a name.
    pub(in crate::backend::gpu) fn name(&self) -> Option<&str> {
        match self {
            Self::Steps(packing) | Self::Bias(packing, _) => Some(packing.name()),
            Self::Rows(name, _) => Some(name),
            Self::Floats(_) | Self::Doubles(_) => None,
        }
    }

    /// Whether both are the very same bytes in memory.
    pub(in crate::backend::gpu) fn is_shared_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Steps(a), Self::Steps(b)) => a.shares_matrices_with(b),
            (Self::Rows(_, a), Self::Rows(_, b)) => a.data.is_same(&b.data),
            (Self::Bias(_, a), Self::Bias(_, b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| std::ptr::eq(*a, *b))
            }
            (Self::Floats(a), Self::Floats(b)) => std::ptr::eq(*a, *b),
            (Self::Doubles(a), Self::Doubles(b)) => a == b,
            _ => false,
        }
    }

    /// Bytes that are copied.
    pub(in crate::backend::gpu) fn bytes(&self) -> u64 {
        let bytes = match self {
            Self::Steps(packing) => packing.shape().bytes(),
            Self::Bias(packing, _) => packing.shape().tiles * TILE_ROWS * 4,
            Self::Floats(values) => values.len() * 4,
            Self::Doubles(values) => values.len() * 8,
            Self::Rows(_, matrix) => {
                matrix.rows * matrix.cols * if matches!(matrix.format, Format::F32) { 4 } else { 2 }
            }
        };
        bytes as u64
    }
}

/// Takes memory for weights and remembers what goes there.
#[derive(Debug)]
pub(super) struct Placer<'m> {
    pub(super) arena: Arena,
    uploads: Vec<Upload<'m>>,
}

impl<'m> Placer<'m> {
    pub(super) fn new(arena: Arena) -> Self {
        Self { arena, uploads: Vec::new() }
    }

    pub(super) fn finish(self) -> (Vec<Upload<'m>>, Arena) {
        (self.uploads, self.arena)
    }

    fn weights(&mut self, name: &str, bytes: u64) -> u64 {
        self.arena.take(Component::Weights, name, bytes, true)
    }

    fn upload(&mut self, address: u64, content: Content<'m>) {
        self.uploads.push(Upload { address, content });
    }

    /// A matrix in steps, with its bias in the order of its rows (0: none).
    pub(super) fn matrix(
        &mut self,
        name: &str,
        parts: Vec<&'m Matrix>,
        order: &RowOrder,
        bias: Option<Vec<&'m [f32]>>,
    ) -> Result<(abi::Matrix, u64)> {
        self.experts(name, vec![(parts, bias)], order)
    }

    /// Several matrices of one shape, one after the other, and their biases.
    pub(super) fn experts(
        &mut self,
        name: &str,
        experts: Vec<Expert<'m>>,
        order: &RowOrder,
    ) -> Result<(abi::Matrix, u64)> {
        let count = experts.len();
        let mut placed: Option<(abi::Matrix, u64)> = None;
        for (i, (parts, bias)) in experts.into_iter().enumerate() {
            let name_of_one = if count == 1 { name.to_owned() } else { format!("{name}.{i}") };
            let packing = Packing::new(name_of_one, parts, order.clone())?;
            let shape = packing.shape();
            let (bytes, rows) = (shape.bytes() as u64, (shape.tiles * TILE_ROWS) as u64);
            let matrix = abi::Matrix {
                steps: 0,
                expert_bytes: bytes,
                format: match shape.format {
                    StepFormat::Bf16 => abi::BF16,
                    StepFormat::Fp8 => abi::FP8,
                    StepFormat::Mxfp4 => abi::MXFP4,
                },
                tiles: shape.tiles as u32,
                steps_per_tile: shape.steps as u32,
                chunk_steps: shape.chunk_steps as u32,
            };
            let (first, biases) = *placed.get_or_insert_with(|| {
                let steps = self.weights(name, bytes * count as u64);
                let biases = bias
                    .as_ref()
                    .map_or(0, |_| self.weights(&format!("{name}.bias"), rows * 4 * count as u64));
                (abi::Matrix { steps, ..matrix }, biases)
            });
            if (abi::Matrix { steps: first.steps, ..matrix }) != first
                || bias.is_some() != (biases != 0)
            {
                let reason = "expert shapes, formats or biases differ from those of expert 0";
                return Err(Error::model_format(packing.name(), reason));
            }
            let i = i as u64;
            if let Some(bias) = bias {
                let content = Content::Bias(packing.clone(), bias);
                self.upload(biases + i * rows * 4, content);
            }
            self.upload(first.steps + i * bytes, Content::Steps(packing));
        }
        placed.ok_or_else(|| Error::model_format(name, "there are no experts"))
    }

    /// A matrix row by row; bfloat16, or 32-bit floats where `floats` says so.
    pub(super) fn rows(&mut self, name: &str, matrix: &'m Matrix, floats: bool) -> Result<u64> {
        let suits = match matrix.format {
            Format::Bf16 => true,
            Format::F32 => floats,
            _ => false,
        };
        if !suits || matrix.row_step != 1 {
            let expected = if floats { "bfloat16 or 32-bit floats" } else { "bfloat16" };
            let reason = format!("the GPU reads it as {expected}, it is {:?}", matrix.format);
            return Err(Error::model_format(name, reason));
        }
        let content = Content::Rows(name.to_owned(), matrix);
        let address = self.weights(name, content.bytes());
        self.upload(address, content);
        Ok(address)
    }

    /// A vector, filled up with zeros to `len`.
    pub(super) fn vector(&mut self, name: &str, values: &'m [f32], len: usize) -> u64 {
        let address = self.weights(name, len.max(values.len()) as u64 * 4);
        self.upload(address, Content::Floats(values));
        address
    }

    /// The frequencies of a rotary embedding.
    pub(super) fn frequencies(&mut self, name: &str, rope: &RopeSpec) -> u64 {
        let values = rope.frequencies();
        let address = self.weights(name, values.len() as u64 * 8);
        self.upload(address, Content::Doubles(values));
        address
    }
}

/// Rows of a fused projection in the order `[all Q heads | all K heads | all V heads]`.
pub(super) fn head_order(spec: &crate::spec::AttentionSpec) -> RowOrder {
    let map = spec.head_map();
    let heads = |offsets: &[usize], dim: usize| -> Vec<u32> {
        offsets.iter().flat_map(|at| *at as u32..(*at + dim) as u32).collect()
    };
    let rows = [heads(&map.q, spec.qk_dim), heads(&map.k, spec.qk_dim), heads(&map.v, spec.v_dim)];
    RowOrder::Map(Arc::from(rows.concat()))
}
