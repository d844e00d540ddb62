//! A failure of the device on purpose, to see what becomes of it: the environment asks for one.

use kilotok_gpu::GpuError;
use kilotok_kernels::abi::program as abi;

use super::super::device::Device;
use super::super::lower::Lowered;
use crate::error::{Error, Result};

const NAME: &str = "KILOTOK_GPU_FAULT";

/// No device has memory there.
const NOWHERE: u32 = 4096;

/// An illegal access in one of the next commands.
#[derive(Debug)]
pub(super) struct Fault {
    /// Commands until then, that one included.
    to_go: u32,
    /// Where records hold the address of the embedding.
    addresses: Vec<u64>,
}

impl Fault {
    /// What the environment asks for: `illegal-access@N`, at the Nth command from 1 on.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] where it asks for something else.
    pub(super) fn from_environment(lowered: &Lowered<'_>) -> Result<Option<Self>> {
        match std::env::var(NAME) {
            Err(_) => Ok(None),
            Ok(text) => Self::new(&text, lowered).map(Some),
        }
    }

    fn new(text: &str, lowered: &Lowered<'_>) -> Result<Self> {
        let number = text.strip_prefix("illegal-access@").and_then(|number| number.parse().ok());
        let Some(to_go) = number.filter(|number| *number > 0) else {
            let reason = format!("`{text}` is not `illegal-access@N` with a command's number");
            return Err(Error::invalid(NAME, reason));
        };
        // Behind kind and flags stands the first field of a record.
        let places = (0..).zip(&lowered.ops).filter(|(_, op)| op.kind == abi::OP_EMBED);
        let addresses = places.map(|(i, _)| lowered.buffers.ops + i * abi::OP_BYTES as u64 + 8);
        Ok(Self { to_go, addresses: addresses.collect() })
    }

    /// Breaks the records when it is time.
    pub(super) fn before_command(&mut self, machine: &mut impl Device) -> Result<(), GpuError> {
        self.to_go = self.to_go.saturating_sub(1);
        if self.to_go == 0 && !self.addresses.is_empty() {
            // Records never change under a resident kernel, which keeps them in its caches.
            machine.park()?;
            for address in self.addresses.drain(..) {
                machine.write(address, &[NOWHERE, 0])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::gpu::tests::demo_lowered;

    #[test]
    fn texts_that_ask_for_no_fault_are_refused() {
        demo_lowered(|lowered| {
            for text in ["", "hang", "illegal-access", "illegal-access@0", "illegal-access@-1"] {
                assert!(Fault::new(text, lowered).is_err(), "{text}");
            }
            let fault = Fault::new("illegal-access@3", lowered).unwrap();
            // The target's line, the drafter's, and both in a round.
            assert_eq!((fault.to_go, fault.addresses.len()), (3, 4));
        });
    }
}
