//! Other weights in place of those on the device.

use std::sync::Arc;

use super::super::device::{Device, NewWeights};
use super::super::lower::{Upload, lower};
use super::GpuExecutor;
use crate::backend::cpu::check;
use crate::error::{Error, Result};
use crate::model::Model;

impl<D: Device> GpuExecutor<D> {
    /// Packs what is not shared with the weights in use and copies it over them. The program and
    /// all addresses stay, so nothing is reserved and commands run as before.
    ///
    /// # Errors
    /// [`Error::ModelFormat`] where the new weights do not lie as the old ones do: those are still in
    /// place then. [`Error::EngineDead`] where copying failed: some are replaced and others not, and
    /// nothing is computed with them.
    pub(super) fn replace(&mut self, model: Arc<Model>) -> Result<()> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        check::model(&model)?;
        let other = |what| Error::model_format("spec", format!("the new weights are {what}"));
        if model.spec != self.model.spec {
            return Err(other("of another model"));
        }
        let old = Arc::clone(&self.model);
        let (blocks, bases) = self.place;
        let old = lower(&old, self.limits, blocks, bases)?;
        let mut new = lower(&model, self.limits, blocks, bases)?;
        let is_alike = |(a, b): (&Upload<'_>, &Upload<'_>)| {
            (a.address, a.content.bytes()) == (b.address, b.content.bytes())
        };
        if old.ops != new.ops
            || old.uploads.len() != new.uploads.len()
            || !old.uploads.iter().zip(&new.uploads).all(is_alike)
        {
            return Err(other("of other formats"));
        }
        let mut olds = old.uploads.iter();
        new.uploads.retain(|upload| {
            !olds.next().is_some_and(|old| old.content.is_shared_with(&upload.content))
        });
        if let Err(error) = self.machine.load(NewWeights(&new.uploads)) {
            let reason = format!("not all of the new weights arrived: {error}");
            let error = Error::EngineDead { reason };
            self.failure = Some(error.clone());
            return Err(error);
        }
        drop((old, new));
        self.model = model;
        Ok(())
    }
}
