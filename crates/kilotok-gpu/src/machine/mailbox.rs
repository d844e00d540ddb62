//! The words that host and device share while a program runs.

use std::sync::Arc;

use kilotok_kernels::abi::Shared;
use kilotok_kernels::abi::program::{Command, Mailbox, ROUND_RING, Round};

use crate::context::Context;
use crate::error::GpuError;
use crate::mem::MappedWords;
use crate::pool::MemoryPool;
use crate::stream::Stream;

macro_rules! word {
    ($field:ident) => {
        std::mem::offset_of!(Mailbox, $field) / 4
    };
}

/// [`Mailbox`] in host memory that the device sees.
#[derive(Debug)]
pub(super) struct Box {
    words: MappedWords,
    bytes: Vec<u8>,
}

impl Box {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, GpuError> {
        let words = MappedWords::new(context, size_of::<Mailbox>() / 4)?;
        Ok(Self { words, bytes: Vec::with_capacity(size_of::<Command>()) })
    }

    pub(super) fn address(&self) -> u64 {
        self.words.address()
    }

    /// Makes `command` the newest one, not rung yet.
    pub(super) fn put(&mut self, command: &Command) {
        self.bytes.clear();
        command.write(&mut self.bytes);
        self.words.write(word!(command), &self.bytes);
        self.words.store(word!(num_rounds), 0);
        self.words.store(word!(stop), 0);
    }

    /// Copies the newest command to `address` of `pool`, in the order of `stream`.
    pub(super) fn send(
        &self,
        pool: &MemoryPool<Arc<Context>>,
        stream: &Stream,
        address: u64,
    ) -> Result<(), GpuError> {
        pool.write_mapped(stream, address, &self.words, word!(command), size_of::<Command>())
    }

    pub(super) fn ring(&self, number: u32) {
        // The command's words come before the bell.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.words.store(word!(doorbell), number);
    }

    pub(super) fn finished(&self) -> u32 {
        self.words.load(word!(finished))
    }

    pub(super) fn heartbeat(&self) -> u32 {
        self.words.load(word!(heartbeat))
    }

    pub(super) fn error(&self) -> u32 {
        self.words.load(word!(error))
    }

    pub(super) fn is_parked(&self) -> bool {
        self.words.load(word!(parked)) != 0
    }

    pub(super) fn unpark(&self) {
        self.words.store(word!(parked), 0);
    }

    pub(super) fn stop(&self) {
        self.words.store(word!(stop), 1);
    }

    pub(super) fn waiting(&self) -> [u32; 8] {
        std::array::from_fn(|i| self.words.load(word!(waiting) + i))
    }

    /// Rounds told so far for the newest command.
    pub(super) fn num_rounds(&self) -> usize {
        self.words.load(word!(num_rounds)) as usize
    }

    /// The round number `index`, which is among the newest `ROUND_RING`.
    pub(super) fn round(&self, index: usize) -> Round {
        let mut bytes = [0; size_of::<Round>()];
        let place = index % ROUND_RING * size_of::<Round>() / 4;
        self.words.read(word!(rounds) + place, &mut bytes);
        Round::read(&mut bytes.as_slice()).unwrap_or_default()
    }
}
