//! Runs op records on the host, one op after the other, from nothing but what `program.h` says of
//! them: what the device has to compute, and a second reader of every record. Nothing but
//! [`super::replay`] and tests uses it; records that point outside of the memory make it panic.
#![expect(
    clippy::unwrap_used,
    reason = "records were validated, or are broken on purpose by who catches panics"
)]

mod attention;
mod dense;
mod moe;
mod rounds;
mod rules;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use kilotok_gpu::GpuError;
use kilotok_gpu::pool::Component;
use kilotok_kernels::abi::Shared;
use kilotok_kernels::abi::program as abi;

use super::arena::IMAGINED;
use super::device::{Device, NewWeights, Transfer};
use super::load::fill;
use super::lower::{Lowered, Upload};
use crate::numeric::bf16;
use crate::weights::repack::unpack::unpack;
use crate::weights::repack::{StepFormat, StepShape};

/// A matrix as rows of floats.
type Rows = Arc<Vec<Vec<f32>>>;

/// Memory of a lowered model, and its ops.
pub(super) struct Vm {
    memory: [Vec<u8>; 5],
    ops: Vec<abi::Op>,
    blocks: u32,
    command: abi::Command,
    told: Vec<abi::Round>,
    /// Unpacked matrices by address.
    matrices: Mutex<HashMap<u64, Rows>>,
}

impl Vm {
    /// A model that was lowered to [`IMAGINED`] addresses, with its weights.
    pub(super) fn new(lowered: &Lowered<'_>) -> Self {
        let mut vm = Self::empty(lowered);
        for Upload { address, content } in &lowered.uploads {
            let mut piece = vec![0; content.bytes() as usize];
            assert_eq!(fill(content, 0, &mut piece, 1).unwrap(), piece.len());
            vm.load(*address, &piece);
        }
        vm
    }

    /// The same with zeros for weights.
    pub(super) fn empty(lowered: &Lowered<'_>) -> Self {
        Self {
            memory: lowered.sizes.map(|bytes| vec![0; bytes as usize]),
            ops: lowered.ops.clone(),
            blocks: lowered.blocks,
            command: abi::Command::default(),
            told: Vec::new(),
            matrices: Mutex::default(),
        }
    }

    /// Writes weights.
    pub(super) fn load(&mut self, address: u64, bytes: &[u8]) {
        self.bytes_mut(address, bytes.len()).copy_from_slice(bytes);
    }

    fn place(address: u64) -> (usize, usize) {
        let component = IMAGINED.iter().rposition(|base| *base <= address).unwrap();
        (component, (address - IMAGINED[component]) as usize)
    }

    pub(super) fn bytes(&self, address: u64, len: usize) -> &[u8] {
        let (component, at) = Self::place(address);
        &self.memory[component][at..at + len]
    }

    fn bytes_mut(&mut self, address: u64, len: usize) -> &mut [u8] {
        let (component, at) = Self::place(address);
        &mut self.memory[component][at..at + len]
    }

    /// Everything but weights.
    #[cfg(test)]
    pub(super) fn activations(&self) -> Vec<Vec<u8>> {
        self.memory[1..].to_vec()
    }

    #[cfg(test)]
    pub(super) fn set_activations(&mut self, memory: Vec<Vec<u8>>) {
        for (to, from) in self.memory[1..].iter_mut().zip(memory) {
            *to = from;
        }
    }

    fn values<T: Shared>(&self, address: u64, count: usize) -> Vec<T> {
        let mut bytes = self.bytes(address, count * size_of::<T>());
        (0..count).map(|_| T::read(&mut bytes).unwrap()).collect()
    }

    fn put<T: Shared>(&mut self, address: u64, values: &[T]) {
        let mut bytes = Vec::new();
        for value in values {
            value.write(&mut bytes);
        }
        self.bytes_mut(address, bytes.len()).copy_from_slice(&bytes);
    }

    fn floats(&self, address: u64, count: usize) -> Vec<f32> {
        self.values(address, count)
    }

    /// Elements `from ..` of row `row` of a bf16 buffer.
    fn bf16_row(&self, base: u64, row: usize, stride: u32, count: usize) -> Vec<f32> {
        let mut out = vec![0.0; count];
        let at = base + (row * stride as usize * 2) as u64;
        bf16::decode_row(self.bytes(at, count * 2), &mut out);
        out
    }

    fn put_bf16(&mut self, base: u64, row: usize, stride: u32, values: &[f32]) {
        let bytes = bf16::encode_row(values);
        let at = base + (row * stride as usize * 2) as u64;
        self.bytes_mut(at, bytes.len()).copy_from_slice(&bytes);
    }

    /// Rows of a packed matrix, `[tiles * 32][steps * columns]`.
    fn matrix(&self, m: &abi::Matrix, expert: usize) -> Rows {
        let address = m.steps + expert as u64 * m.expert_bytes;
        if let Some(rows) = self.matrices.lock().unwrap().get(&address) {
            return Arc::clone(rows);
        }
        let format = match m.format {
            abi::BF16 => StepFormat::Bf16,
            abi::FP8 => StepFormat::Fp8,
            _ => StepFormat::Mxfp4,
        };
        let (tiles, steps) = (m.tiles as usize, m.steps_per_tile as usize);
        let shape = StepShape { format, tiles, steps, chunk_steps: m.chunk_steps as usize };
        let rows = Arc::new(unpack(&shape, self.bytes(address, shape.bytes())));
        self.matrices.lock().unwrap().insert(address, Arc::clone(&rows));
        rows
    }

    fn rows(&self) -> usize {
        self.command.pass.rows as usize
    }

    /// The command as it is now, after ops that change its pass and its runs.
    pub(super) fn command(&self) -> &abi::Command {
        &self.command
    }

    /// Takes over a command without running it.
    pub(super) fn set_command(&mut self, command: &abi::Command) {
        self.command = *command;
        self.told.clear();
    }

    pub(super) fn run_op(&mut self, op: &abi::Op) {
        match op.kind {
            abi::OP_EMBED => self.embed(&op.payload()),
            abi::OP_ROPE => self.rope(&op.payload()),
            abi::OP_LINEAR => self.linear(&op.payload()),
            abi::OP_ATTENTION => self.attention(&op.payload()),
            abi::OP_ROUTER => self.router(&op.payload()),
            abi::OP_MOE_UP => self.moe_up(&op.payload()),
            abi::OP_MOE_DOWN => self.moe_down(&op.payload()),
            abi::OP_DRAFT_ATTENTION => self.draft_attention(&op.payload()),
            abi::OP_DRAFT_CONTEXT => self.draft_context(&op.payload()),
            abi::OP_ADJUST => self.adjust(&op.payload()),
            abi::OP_FILTER => self.filter(&op.payload()),
            abi::OP_CHOOSE => self.choose(&op.payload(), true),
            abi::OP_DRAFT_CHOOSE => self.choose(&op.payload(), false),
            abi::OP_LAY_OUT => self.lay_out(&op.payload()),
            abi::OP_ACCEPT => self.accept(op.payload()),
            kind => panic!("there is no op of kind {kind}"),
        }
    }
}

/// The sum of products, in lanes so that the compiler makes vectors of it.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0f32; LANES];
    let (a_rest, b_rest) = (a.chunks_exact(LANES).remainder(), b.chunks_exact(LANES).remainder());
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vm of {} ops in {} components", self.ops.len(), Component::ALL.len())
    }
}

impl Device for Vm {
    type Rows = Vec<f32>;

    fn rows(&self, len: usize) -> Result<Vec<f32>, GpuError> {
        Ok(vec![0.0; len])
    }

    fn run(&mut self, command: &abi::Command) -> Result<(), GpuError> {
        self.command = *command;
        self.told.clear();
        let ops = command.first_op as usize..(command.first_op + command.num_ops) as usize;
        for _ in 0..command.rounds {
            for op in ops.clone() {
                let op = self.ops[op];
                if op.flags & command.skip == 0 {
                    self.run_op(&op);
                }
            }
            if self.command.run.iter().any(|run| run.ended != 0) {
                break;
            }
        }
        Ok(())
    }

    fn park(&mut self) -> Result<(), GpuError> {
        Ok(())
    }

    fn rounds(&self, told: &mut dyn FnMut(abi::Round)) {
        self.told.iter().copied().for_each(told);
    }

    fn write(&mut self, address: u64, words: &[u32]) -> Result<(), GpuError> {
        self.put(address, words);
        Ok(())
    }

    fn copy(&mut self, copies: &mut dyn Iterator<Item = Transfer>) -> Result<(), GpuError> {
        for Transfer { from, to, bytes } in copies {
            let held = self.bytes(from, bytes as usize).to_vec();
            Self::load(self, to, &held);
        }
        Ok(())
    }

    fn load(&mut self, NewWeights(uploads): NewWeights<'_>) -> crate::Result<()> {
        for Upload { address, content } in uploads {
            let mut piece = vec![0; content.bytes() as usize];
            fill(content, 0, &mut piece, 1)?;
            Self::load(self, *address, &piece);
        }
        self.matrices.lock().unwrap().clear();
        Ok(())
    }

    fn read(&self, address: u64, values: &mut [f32]) -> Result<(), GpuError> {
        values.copy_from_slice(&self.floats(address, values.len()));
        Ok(())
    }

    fn read_bf16(&self, address: u64, bits: &mut [u16]) -> Result<(), GpuError> {
        let bytes = self.bytes(address, bits.len() * 2);
        for (bits, bytes) in bits.iter_mut().zip(bytes.chunks_exact(2)) {
            *bits = u16::from_le_bytes([bytes[0], bytes[1]]);
        }
        Ok(())
    }

    fn read_choices(&self, address: u64, choices: &mut [abi::Choice]) -> Result<(), GpuError> {
        choices.copy_from_slice(&self.values(address, choices.len()));
        Ok(())
    }
}
