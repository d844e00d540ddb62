//! What the device says, as errors of the engine.

use kilotok_gpu::GpuError;

use crate::error::Error;

/// Before anything runs: there is no GPU to use.
pub(super) fn no_gpu(error: &GpuError) -> Error {
    let mut reason = error.to_string();
    if is_lost(error) {
        reason = format!(
            "a kernel that failed before in this process took its CUDA context along, and the driver \
             gives no other one: restart the process ({reason})"
        );
    }
    Error::NoGpu { reason }
}

/// Whether the error is of those that stay with a context from a failed kernel on: the driver's
/// 700 (illegal address) to 721, as far as they come from kernels.
fn is_lost(error: &GpuError) -> bool {
    matches!(error, GpuError::Driver { code: 700 | 702 | 709 | 710 | 714..=721, .. })
}

/// While a model is brought to the device.
pub(super) fn loading(error: GpuError) -> Error {
    match error {
        GpuError::DoesNotFit { free, fraction, shortage } => Error::OutOfMemory {
            what: format!("the model in {fraction} of the GPU's {free} free bytes ({shortage})"),
            needed: shortage.total(),
            available: shortage.available,
            unit: "bytes",
        },
        GpuError::OutOfMemory { kind, bytes } => Error::OutOfMemory {
            what: format!("{kind} memory"),
            needed: bytes as u64,
            available: 0,
            unit: "bytes",
        },
        GpuError::Shape { .. } => Error::model_format("spec", error.to_string()),
        GpuError::Unsupported { what, reason } => {
            Error::Unsupported { what, reason: reason.to_owned() }
        }
        error => no_gpu(&error),
    }
}

/// When a trace is asked for: what cannot be done is no failure of the engine.
pub(super) fn tracing(error: &GpuError) -> Error {
    match error {
        GpuError::Unsupported { what, reason } => {
            Error::Unsupported { what, reason: (*reason).to_owned() }
        }
        GpuError::Shape { .. } => Error::invalid("ops", error.to_string()),
        GpuError::OutOfMemory { bytes, .. } => Error::OutOfMemory {
            what: "a trace on the GPU".to_owned(),
            needed: *bytes as u64,
            available: 0,
            unit: "bytes",
        },
        GpuError::NoImage { .. } | GpuError::UnsupportedDevice { .. } => {
            Error::Unsupported { what: "trace", reason: error.to_string() }
        }
        error => running(error),
    }
}

/// While rounds are made: nothing that the device says after that is to be believed.
pub(super) fn running(error: &GpuError) -> Error {
    Error::EngineDead { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_context_is_told_from_a_missing_gpu() {
        let error = |code| GpuError::Driver {
            call: "cuStreamCreate",
            code,
            name: "NAME".into(),
            detail: "detail".into(),
        };
        assert!(loading(error(700)).to_string().contains("restart the process"));
        assert!(loading(error(719)).to_string().contains("cuStreamCreate"));
        assert!(!loading(error(100)).to_string().contains("restart"));
    }
}
