//! How many sequences may be in flight, and how long the next one would wait.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::App;
use crate::error::ApiError;

/// Weight of the newest observation in the mean.
const NEWEST: f64 = 0.1;

/// What is said of the wait while nothing has finished yet.
const UNKNOWN: Duration = Duration::from_secs(1);

/// Counts sequences; what does not fit is refused at once, which costs nobody anything.
#[derive(Debug)]
pub(crate) struct Admission {
    slots: AtomicUsize,
    max_queue: usize,
    in_flight: AtomicUsize,
    /// Mean microseconds for which a sequence holds a slot.
    service_us: AtomicU64,
}

impl Admission {
    pub(crate) fn new(max_queue: usize) -> Self {
        Self {
            slots: AtomicUsize::new(0),
            max_queue,
            in_flight: AtomicUsize::new(0),
            service_us: AtomicU64::new(0),
        }
    }

    pub(crate) fn set_slots(&self, slots: usize) {
        self.slots.store(slots, Ordering::Relaxed);
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The wait to expect for a sequence that comes now, from the mean time of those before it;
    /// `None` while there were none.
    pub(crate) fn expected_wait(&self) -> Option<Duration> {
        let slots = self.slots.load(Ordering::Relaxed).max(1);
        let ahead = (self.in_flight() + 1).saturating_sub(slots);
        let service = self.service_us.load(Ordering::Relaxed);
        (service > 0)
            .then(|| Duration::from_micros(service.saturating_mul(ahead as u64) / slots as u64))
    }

    pub(crate) fn observe(&self, service: Duration) {
        let newest = service.as_micros() as f64;
        let before = self.service_us.load(Ordering::Relaxed);
        let mean =
            if before == 0 { newest } else { before as f64 * (1.0 - NEWEST) + newest * NEWEST };
        self.service_us.store(mean as u64, Ordering::Relaxed);
    }
}

/// Room for some sequences; given back when dropped.
pub(crate) struct Permit {
    app: App,
    sequences: usize,
}

impl Permit {
    /// Takes room, or says how long to wait for it.
    pub(crate) fn take(app: &App, sequences: usize) -> Result<Self, ApiError> {
        let admission = app.admission();
        let slots = admission.slots.load(Ordering::Relaxed);
        // A request of its own is always let in, however many sequences it has.
        let most = (slots + admission.max_queue).max(1);
        let before = admission.in_flight.fetch_add(sequences, Ordering::AcqRel);
        if before + sequences > most && before > 0 {
            admission.in_flight.fetch_sub(sequences, Ordering::AcqRel);
            app.metrics().rejected("queue_full");
            let wait = admission.expected_wait().unwrap_or(UNKNOWN);
            let wait = wait.clamp(Duration::from_millis(50), Duration::from_secs(120));
            return Err(ApiError::overloaded(
                format!(
                    "{before} sequences are in flight and at most {most} may be; \
                     room is expected in about {} ms",
                    wait.as_millis()
                ),
                wait,
            ));
        }
        Ok(Self { app: app.clone(), sequences })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.app.admission().in_flight.fetch_sub(self.sequences, Ordering::AcqRel);
    }
}
