//! Calls Python wakers from a thread of its own, so that the engine never waits for the GIL.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Sender, unbounded};
use pyo3::prelude::*;

/// A Python callable without arguments that is called some time after [`Waker::wake`].
pub(crate) struct Waker {
    callable: Py<PyAny>,
    is_pending: AtomicBool,
}

impl Waker {
    pub(crate) fn new(callable: Py<PyAny>) -> Arc<Self> {
        Arc::new(Self { callable, is_pending: AtomicBool::new(false) })
    }

    /// Never blocks; several wakes before the call are one call.
    pub(crate) fn wake(self: &Arc<Self>) {
        if !self.is_pending.swap(true, Ordering::AcqRel) {
            // The receiver lives as long as the process.
            let _ = notifier().send(Arc::clone(self));
        }
    }

    fn call(&self) {
        // Cleared first: what happens during the call must lead to another call.
        self.is_pending.store(false, Ordering::Release);
        // `None` while the interpreter shuts down: nobody is left to wake.
        Python::try_attach(|py| {
            // A closed event loop refuses; its stream is cancelled by then.
            let _ = self.callable.bind(py).call0();
        });
    }
}

fn notifier() -> &'static Sender<Arc<Waker>> {
    static SENDER: OnceLock<Sender<Arc<Waker>>> = OnceLock::new();
    SENDER.get_or_init(|| {
        let (sender, receiver) = unbounded::<Arc<Waker>>();
        std::thread::spawn(move || receiver.iter().for_each(|waker| waker.call()));
        sender
    })
}
