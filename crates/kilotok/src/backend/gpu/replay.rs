//! A model's records and memory for other readers of `program.h`, and the records run one by one.

use kilotok_kernels::abi::Shared;
use kilotok_kernels::abi::program as abi;

use super::arena::IMAGINED;
use super::lower::{Lowered, lower};
use super::validate::validate;
use super::vm::Vm;
use crate::backend::Limits;
use crate::error::{Error, Result};
use crate::model::Model;

/// A named piece of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// What is there.
    pub name: String,
    /// Where it starts.
    pub address: u64,
    /// How long it is.
    pub bytes: u64,
}

/// Names of the lines of ops that commands run.
pub const LINES: [&str; 5] = ["target", "context", "draft", "round", "plain_round"];

/// A model lowered to addresses that no device has, in host memory with its weights.
#[derive(Debug)]
pub struct Replay {
    vm: Vm,
    /// Records of 256 bytes each.
    pub ops: Vec<u8>,
    /// Indices of the first op of each of [`LINES`] and past its last one.
    pub lines: [(u32, u32); 5],
    /// All regions in the order of their addresses.
    pub regions: Vec<Region>,
    /// Where each of the five pieces of memory starts, and its bytes.
    pub pieces: [(u64, u64); 5],
    /// Rows of a pass at most.
    pub pass_rows: usize,
    /// Rows of a whole drafter block; 0 without a drafter.
    pub block_rows: usize,
}

impl Replay {
    /// Lowers `model` for a grid of `blocks` blocks and packs its weights.
    ///
    /// # Errors
    /// [`Error::ModelFormat`] where the GPU cannot run the model.
    pub fn new(model: &Model, limits: Limits, blocks: u32) -> Result<Self> {
        let lowered = lower(model, limits, blocks, IMAGINED)?;
        validate(&lowered)
            .map_err(|flaw| Error::model_format("spec", format!("unsound program: {flaw}")))?;
        let vm = Vm::new(&lowered);
        let Lowered { ops, stretches: s, regions, sizes, pass_rows, block_rows, .. } = lowered;
        let mut records = Vec::with_capacity(ops.len() * abi::OP_BYTES);
        for op in &ops {
            op.write(&mut records);
        }
        let mut pieces = [(0, 0); 5];
        for (piece, (base, size)) in pieces.iter_mut().zip(IMAGINED.into_iter().zip(sizes)) {
            *piece = (base, size);
        }
        Ok(Self {
            vm,
            ops: records,
            lines: [s.target, s.context, s.draft, s.round, s.plain_round]
                .map(|line| (line.start, line.end)),
            regions: regions
                .into_iter()
                .map(|r| Region { name: r.name, address: r.address, bytes: r.bytes })
                .collect(),
            pieces,
            pass_rows,
            block_rows,
        })
    }

    fn holds(&self, address: u64, bytes: usize) -> bool {
        self.pieces.iter().any(|(base, size)| {
            (*base..=base + size).contains(&address) && bytes as u64 <= base + size - address
        })
    }

    /// Memory.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] outside of it.
    pub fn read(&self, address: u64, bytes: usize) -> Result<&[u8]> {
        if self.holds(address, bytes) {
            return Ok(self.vm.bytes(address, bytes));
        }
        Err(Error::invalid("address", format!("{address:#x} + {bytes} is outside of the memory")))
    }

    /// Overwrites memory; matrices stay as they were first read.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] outside of it.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<()> {
        self.read(address, bytes.len())?;
        self.vm.load(address, bytes);
        Ok(())
    }

    /// Runs one record under a command; what the command is afterwards.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] for a record or a command of another size.
    ///
    /// # Panics
    /// Where the record points outside of the memory.
    pub fn step(&mut self, record: &[u8], command: &[u8]) -> Result<Vec<u8>> {
        let op = whole::<abi::Op>("record", record)?;
        self.vm.set_command(&whole("command", command)?);
        self.vm.run_op(&op);
        let mut after = Vec::with_capacity(command.len());
        self.vm.command().write(&mut after);
        Ok(after)
    }
}

fn whole<T: Shared>(name: &str, mut bytes: &[u8]) -> Result<T> {
    let len = bytes.len();
    match T::read(&mut bytes) {
        Some(value) if bytes.is_empty() => Ok(value),
        _ => Err(Error::invalid(name, format!("{len} bytes, expected {}", size_of::<T>()))),
    }
}
