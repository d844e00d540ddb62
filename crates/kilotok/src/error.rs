//! The one error type of this crate; one variant per cause a user can act on.

use std::path::PathBuf;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, named so that the reader knows what to change.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A checkpoint file could not be read at all.
    #[error("cannot read {}: {reason}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// A checkpoint is not understood: law 7, nothing that can change the arithmetic is guessed.
    #[error("{file}: {reason}")]
    ModelFormat {
        /// File name, with the tensor or key where one is to blame (`config.json: rope_theta`).
        file: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A request parameter is out of range.
    #[error("invalid `{parameter}`: {reason}")]
    InvalidRequest {
        /// The parameter's public name.
        parameter: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// Something does not fit into memory or into the page budget, now or ever.
    #[error("out of memory for {what}: needs {needed}, available {available} ({unit})")]
    OutOfMemory {
        /// What was to be placed.
        what: String,
        /// How much it needs.
        needed: u64,
        /// How much there is.
        available: u64,
        /// Unit of both numbers: `bytes`, `pages`, `positions` or `requests`.
        unit: &'static str,
    },
    /// Output could not be kept within what the request allows: a dead end, or a rule that is too
    /// complex to follow.
    #[error("the output could not be kept within its constraint: {reason}")]
    Constraint {
        /// What was met.
        reason: String,
    },
    /// The request was cancelled by its owner.
    #[error("the request was cancelled")]
    Cancelled,
    /// The engine was closed or failed; no call on it can succeed any more.
    #[error("the engine is dead: {reason}")]
    EngineDead {
        /// Why it died (`closed`, or what failed).
        reason: String,
    },
    /// What was asked for is understood, and this engine's backend cannot do it.
    #[error("{what} is not supported: {reason}")]
    Unsupported {
        /// The operation, by its public name.
        what: &'static str,
        /// Why, and what can be done instead.
        reason: String,
    },
    /// A GPU was asked for and none can be used.
    #[error("no usable GPU: {reason}")]
    NoGpu {
        /// What the probe found.
        reason: String,
    },
}

impl Error {
    /// A [`Error::ModelFormat`] from anything printable.
    pub fn model_format(file: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::ModelFormat { file: file.into(), reason: reason.into() }
    }

    /// A [`Error::InvalidRequest`] from anything printable.
    pub fn invalid(parameter: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidRequest { parameter: parameter.into(), reason: reason.into() }
    }
}
