//! Other weights for a running engine.

use std::sync::Arc;

use crossbeam_channel::Sender;

use super::Engine;
use super::worker::Command;
use crate::backend::no_update;
use crate::error::Result;
use crate::model::Model;
use crate::weights::{self, TensorData};

/// Weights on their way to the engine thread.
pub(super) struct Update {
    pub(super) model: Arc<Model>,
    pub(super) keep_kv: bool,
    pub(super) outcome: Sender<Result<()>>,
}

impl Engine {
    /// Replaces weights between two rounds and returns when the next round will use them.
    ///
    /// Tensors are named and laid out as in a checkpoint; any subset will do. All of them are
    /// checked and converted first, beside the running rounds: an error changes nothing. A matrix
    /// keeps the format it was loaded in, so F32 and BF16 values for an expert in MXFP4 are
    /// rounded to MXFP4 ([`weights::updated`]).
    ///
    /// Requests in flight go on with the new weights. With `keep_kv` they keep the keys and values
    /// that the old weights made; without, their tokens are fed again, so that what follows is
    /// what the new weights would say after the same text.
    ///
    /// # Errors
    /// [`crate::Error::ModelFormat`] naming the tensor that is unknown, misshapen or not finite,
    /// [`crate::Error::Unsupported`] where the backend cannot change its weights,
    /// [`crate::Error::EngineDead`].
    pub fn update_weights(
        &self,
        tensors: impl IntoIterator<Item = (String, TensorData)>,
        keep_kv: bool,
    ) -> Result<()> {
        self.shared.alive()?;
        let mut current = self.model.lock();
        let Some(old) = current.as_ref() else {
            return Err(no_update());
        };
        let model = Arc::new(weights::updated(old, tensors)?);
        let (outcome, answer) = crossbeam_channel::bounded(1);
        let update = Update { model: Arc::clone(&model), keep_kv, outcome };
        self.commands.send(Command::Update(Box::new(update))).map_err(|_| self.shared.dead())?;
        answer.recv().map_err(|_| self.shared.dead())??;
        *current = Some(model);
        Ok(())
    }
}
