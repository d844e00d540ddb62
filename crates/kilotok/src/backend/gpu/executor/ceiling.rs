//! How near to the memory's ceiling commands come.

use std::time::Duration;

use kilotok_gpu::{Context, copy_rate};

use super::super::lower::Lowered;

/// What commands have to read, beside what the memory can deliver.
///
/// Counted are the weights that a single row needs. Further rows of a command may need further
/// experts, and all of them keys and values: what is reached is at least what this says.
#[derive(Debug)]
pub(super) struct Ceiling {
    /// Bytes per second.
    rate: Option<f64>,
    /// Bytes of a pass of the target.
    pub(super) pass: f64,
    /// Bytes of a round without drafts.
    pub(super) plain_round: f64,
    /// Bytes of a round with drafts.
    pub(super) round: f64,
    reached: Option<f64>,
}

impl Ceiling {
    /// Of a lowered model, on a memory of `rate` bytes per second.
    pub(super) fn new(lowered: &Lowered<'_>, rate: Option<f64>) -> Self {
        let lines = &lowered.stretches;
        Self {
            rate,
            pass: lowered.weight_bytes(&lines.target),
            plain_round: lowered.weight_bytes(&lines.plain_round),
            round: lowered.weight_bytes(&lines.round),
            reached: None,
        }
    }

    /// Counts a command that read `bytes` in `took`.
    pub(super) fn observe(&mut self, bytes: f64, took: Duration) {
        let seconds = took.as_secs_f64();
        self.reached = self.rate.filter(|_| seconds > 0.0).map(|rate| bytes / seconds / rate);
    }

    /// Bytes per second that the memory delivers.
    pub(super) fn rate(&self) -> Option<f64> {
        self.rate
    }

    /// Share of the memory's rate that the last command reached.
    pub(super) fn reached(&self) -> Option<f64> {
        self.reached
    }
}

/// Rate of copies within the memory of a device; `None` where there is no room to measure it.
pub(super) fn measured(device: usize) -> Option<f64> {
    copy_rate(&Context::new(device).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Limits;
    use crate::backend::gpu::arena::IMAGINED;
    use crate::backend::gpu::lower::lower;
    use crate::testing::{Formats, hollow_model};

    /// gpt-oss-20b reads 3.6 billion active parameters per token, 4.25 bits each in experts and 16
    /// elsewhere; its embedding is looked up and not read.
    #[test]
    fn bytes_of_a_published_model_are_those_of_its_active_parameters() {
        let spec = crate::config::presets::find("gpt-oss-20b").unwrap().spec().unwrap();
        let model = hollow_model(spec, Formats::gpt_oss());
        let limits = Limits {
            max_rows: 8,
            slots: 1,
            pages: 8,
            page_size: 16,
            max_positions: 128,
            snapshots: 0,
        };
        let lowered = lower(&model, limits, 132, IMAGINED).unwrap();
        let mut ceiling = Ceiling::new(&lowered, Some(4e12));
        let expert = 3.0 * 2880.0 * 2880.0 * 4.25 / 8.0;
        let attention = 2880.0 * (2.0 * 4096.0 + 2.0 * 512.0) * 2.0;
        let bytes = 24.0 * (4.0 * expert + attention) + 201_088.0 * 2880.0 * 2.0;
        let counted = ceiling.pass / bytes;
        assert!((counted - 1.0).abs() < 0.03, "{counted}");
        ceiling.observe(2e9, Duration::from_millis(1));
        assert_eq!(ceiling.reached(), Some(0.5));
        let mut unknown = Ceiling::new(&lowered, None);
        unknown.observe(2e9, Duration::from_millis(1));
        assert_eq!(unknown.reached(), None);
    }
}
