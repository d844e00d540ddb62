//! Waiting for any of several token streams.

use std::time::Instant;

use parking_lot::{Condvar, Mutex};

type Waker = Box<dyn Fn() + Send>;

/// Counts deliveries of the streams it is attached to and passes them on.
#[derive(Default)]
pub(crate) struct Signal {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    deliveries: u64,
    waker: Option<Waker>,
}

impl Signal {
    /// Called from the engine thread after each delivery.
    pub(crate) fn notify(&self) {
        let mut state = self.state.lock();
        state.deliveries += 1;
        self.arrived.notify_all();
        if let Some(wake) = &state.waker {
            wake();
        }
    }

    pub(crate) fn deliveries(&self) -> u64 {
        self.state.lock().deliveries
    }

    /// Waits until there were more than `seen` deliveries; false when `deadline` came first.
    pub(crate) fn wait_beyond(&self, seen: u64, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        while state.deliveries <= seen {
            match deadline {
                None => self.arrived.wait(&mut state),
                Some(deadline) => {
                    if self.arrived.wait_until(&mut state, deadline).timed_out() {
                        return state.deliveries > seen;
                    }
                }
            }
        }
        true
    }

    /// Calls `waker` after each delivery, and now if there was one.
    pub(crate) fn set_waker(&self, waker: Waker) {
        let mut state = self.state.lock();
        if state.deliveries > 0 {
            waker();
        }
        state.waker = Some(waker);
    }
}
