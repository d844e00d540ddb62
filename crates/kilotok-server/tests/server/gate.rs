//! A backend whose rounds a test lets through one by one.

use std::sync::Arc;
use std::time::Duration;

use kilotok::Result;
use kilotok::backend::{Backend, Limits, Report, SequenceInit, Slot, Work};
use parking_lot::{Condvar, Mutex};

/// The test's side.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Rounds that may still run.
    allowed: u64,
    /// Rounds begun.
    begun: u64,
    /// Sequences whose prompt the round begun last reads.
    prompts: usize,
}

impl Gate {
    /// Lets so many rounds through.
    pub(crate) fn allow(&self, rounds: u64) {
        self.state.lock().allowed += rounds;
        self.changed.notify_all();
    }

    pub(crate) fn begun(&self) -> u64 {
        self.state.lock().begun
    }

    /// Waits until this many rounds have begun; how many prompts the last of them reads.
    pub(crate) fn wait_for(&self, begun: u64) -> usize {
        let mut state = self.state.lock();
        while state.begun < begun {
            let waited = self.changed.wait_for(&mut state, Duration::from_secs(20));
            assert!(!waited.timed_out(), "round {begun} does not begin");
        }
        state.prompts
    }
}

/// `inner` behind a gate.
pub(crate) struct Gated {
    pub(crate) inner: Box<dyn Backend>,
    pub(crate) gate: Arc<Gate>,
}

impl Backend for Gated {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn open(&mut self, slot: Slot, sequence: SequenceInit) -> Result<()> {
        self.inner.open(slot, sequence)
    }

    fn close(&mut self, slot: Slot) {
        self.inner.close(slot);
    }

    fn run(&mut self, plan: &[Work], _max_rounds: u32, report: &mut Report) -> Result<()> {
        let mut state = self.gate.state.lock();
        state.begun += 1;
        state.prompts = plan.iter().filter(|work| matches!(work, Work::Prefill { .. })).count();
        self.gate.changed.notify_all();
        while state.allowed == 0 {
            self.gate.changed.wait(&mut state);
        }
        state.allowed -= 1;
        drop(state);
        self.inner.run(plan, 1, report)
    }
}
