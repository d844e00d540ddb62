//! Traces of a running engine.

use crossbeam_channel::Sender;

use super::Engine;
use super::worker::Command;
use crate::backend::Trace;
use crate::error::Result;

/// What is asked of the engine thread between two rounds.
pub(super) enum Tracing {
    Start(u32, Sender<Result<()>>),
    End(Sender<Result<Trace>>),
}

impl Engine {
    /// From the next round on, keeps what the device did in its newest `ops` ops, block by block.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] where the backend keeps no trace (a CPU, a GPU in graph mode) or one is running,
    /// [`crate::Error::InvalidRequest`] for a number of ops out of range, [`crate::Error::OutOfMemory`],
    /// [`crate::Error::EngineDead`].
    pub fn start_trace(&self, ops: u32) -> Result<()> {
        self.ask(|outcome| Tracing::Start(ops, outcome))
    }

    /// Ends the trace, between two rounds; what it kept.
    ///
    /// # Errors
    /// [`crate::Error::Unsupported`] where none is running, [`crate::Error::EngineDead`].
    pub fn end_trace(&self) -> Result<Trace> {
        self.ask(Tracing::End)
    }

    fn ask<T>(&self, question: impl FnOnce(Sender<Result<T>>) -> Tracing) -> Result<T> {
        self.shared.alive()?;
        let (outcome, answer) = crossbeam_channel::bounded(1);
        let command = Command::Trace(question(outcome));
        self.commands.send(command).map_err(|_| self.shared.dead())?;
        answer.recv().map_err(|_| self.shared.dead())?
    }
}
