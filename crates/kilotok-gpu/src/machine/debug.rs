//! What a machine does beside its work, to find what depends on luck.

use kilotok_kernels::abi::program as abi;

use super::Mode;
use crate::error::GpuError;

/// Further barriers and delays; both leave every bit of every result as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Debug {
    /// One more barrier of all blocks after every op.
    pub has_barriers: bool,
    /// Delays blocks by up to 5 us and warps by up to 1 us, at random, in every op.
    pub delay_seed: Option<u32>,
}

impl Debug {
    /// Nothing.
    pub const NONE: Self = Self { has_barriers: false, delay_seed: None };

    pub(super) fn flags(self) -> u32 {
        let barriers = if self.has_barriers { abi::MACHINE_BARRIERS } else { 0 };
        let delays = if self.delay_seed.is_some() { abi::MACHINE_DELAYS } else { 0 };
        barriers | delays
    }

    pub(super) fn check(self, mode: Mode) -> Result<(), GpuError> {
        if self == Self::NONE || mode == Mode::Persistent {
            return Ok(());
        }
        Err(GpuError::Unsupported {
            what: "debugging a machine",
            reason: "graph mode has a barrier between any two ops; use persistent mode",
        })
    }
}
