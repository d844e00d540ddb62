//! The threads of the backend: a fixed pool that runs numbered tasks without allocating.
//!
//! rayon would allocate a queue block now and then and parks its threads between ops; here a job
//! is one packed word a thread, from which it and then its fellows claim tasks, and threads spin
//! for a moment before they sleep, since the next op follows within microseconds. Every thread
//! has a run of neighbouring tasks, because what a task reads ahead belongs to the next.
#![allow(unsafe_code, reason = "lends a stack closure to threads that outlive the call")]

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::linear::INLINE_WORK;
use super::simd::Kernels;

/// What every op computes with: the kernels of one SIMD path and the threads.
pub(super) struct Compute {
    pub(super) kernels: &'static Kernels,
    pub(super) workers: Workers,
}

impl Compute {
    /// Runs `f(piece, thread)` over `0..len` in pieces of `piece`, on all threads where `work` multiply-adds
    /// are worth it. Pieces never change what an element's result is.
    pub(super) fn over(
        &self,
        len: usize,
        piece: usize,
        work: usize,
        f: impl Fn(Range<usize>, usize) + Sync,
    ) {
        if work < INLINE_WORK || self.workers.threads() == 1 || len <= piece {
            f(0..len, 0);
        } else {
            self.workers.run(len.div_ceil(piece), &|task, thread| {
                f(task * piece..((task + 1) * piece).min(len), thread);
            });
        }
    }

    /// Runs `f(task, thread)` for every task, on all threads where `work` is worth it.
    pub(super) fn tasks(&self, tasks: usize, work: usize, f: impl Fn(usize, usize) + Sync) {
        if work < INLINE_WORK || self.workers.threads() == 1 || tasks == 1 {
            (0..tasks).for_each(|task| f(task, 0));
        } else {
            self.workers.run(tasks, &f);
        }
    }
}

/// Tasks of a job fit into this many bits, claims beyond the end included.
const COUNT_BITS: u32 = 24;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
/// How often an idle thread looks for a job before it sleeps (tens of microseconds).
const SPINS: u32 = 1000;

/// Monomorphic entry: calls the closure at `data`.
type Call = unsafe fn(data: *const (), task: usize, thread: usize);

/// A value with cache lines of its own (two: they are fetched in pairs), so that writing to its
/// neighbours does not take it away from who reads it.
#[repr(align(128))]
struct Alone<T>(T);

impl<T> std::ops::Deref for Alone<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

struct Pool {
    /// Each thread's run of tasks: `end << 24 | next`.
    claims: Vec<Alone<AtomicU64>>,
    done: Alone<AtomicUsize>,
    data: AtomicPtr<()>,
    call: AtomicPtr<()>,
    started: AtomicUsize,
    sleepers: AtomicUsize,
    stop: AtomicBool,
    panicked: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

/// A fixed number of threads, the caller's included.
pub(super) struct Workers {
    pool: Arc<Pool>,
    handles: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `threads - 1` threads beside the caller's.
    ///
    /// # Errors
    /// What the operating system says when it refuses a thread.
    pub(super) fn new(threads: usize) -> std::io::Result<Self> {
        let pool = Arc::new(Pool {
            claims: (0..threads.max(1)).map(|_| Alone(AtomicU64::new(0))).collect(),
            done: Alone(AtomicUsize::new(0)),
            data: AtomicPtr::new(std::ptr::null_mut()),
            call: AtomicPtr::new(std::ptr::null_mut()),
            started: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut workers = Self { pool, handles: Vec::new() };
        for thread in 1..threads {
            let pool = Arc::clone(&workers.pool);
            let builder = std::thread::Builder::new().name(format!("kilotok-cpu-{thread}"));
            workers.handles.push(builder.spawn(move || pool.serve(thread))?);
        }
        // A thread allocates while it starts, which must not fall into the first rounds (law 4).
        while workers.pool.started.load(Ordering::Acquire) < workers.handles.len() {
            std::thread::yield_now();
        }
        Ok(workers)
    }

    /// Number of threads, the caller's included.
    pub(super) fn threads(&self) -> usize {
        self.handles.len() + 1
    }

    /// Runs `f(task, thread)` once for every task and returns when all are done. Not reentrant:
    /// only the owner of the backend calls it, from one thread at a time.
    pub(super) fn run<F: Fn(usize, usize) + Sync>(&self, tasks: usize, f: &F) {
        /// # Safety
        /// `data` is a live `F`.
        unsafe fn call<F: Fn(usize, usize)>(data: *const (), task: usize, thread: usize) {
            // SAFETY: `run` keeps `f` alive until every claimed task is done.
            let f = unsafe { &*data.cast::<F>() };
            f(task, thread);
        }
        assert!((tasks as u64) < COUNT_MASK / 2, "too many tasks");
        let pool = &*self.pool;
        pool.done.store(0, Ordering::Relaxed);
        pool.data.store(std::ptr::from_ref(f).cast::<()>().cast_mut(), Ordering::Relaxed);
        pool.call.store(call::<F> as *mut (), Ordering::Relaxed);
        let threads = pool.claims.len();
        for (thread, claim) in pool.claims.iter().enumerate() {
            let start = |thread: usize| (thread * tasks).div_ceil(threads);
            let (next, end) = (start(thread), start(thread + 1));
            claim.store((end as u64) << COUNT_BITS | next as u64, Ordering::SeqCst);
        }
        if pool.sleepers.load(Ordering::SeqCst) > 0 {
            drop(pool.lock.lock().unwrap_or_else(PoisonError::into_inner));
            pool.wake.notify_all();
        }
        pool.work(0);
        let mut spins = 0;
        while pool.done.load(Ordering::Acquire) < tasks {
            // A thread that owns a task may have lost its core to another process.
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        assert!(!pool.panicked.load(Ordering::Relaxed), "a task of the CPU backend panicked");
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.pool.stop.store(true, Ordering::SeqCst);
        drop(self.pool.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.pool.wake.notify_all();
        for handle in self.handles.drain(..) {
            let _ = handle.join();
        }
    }
}

impl Pool {
    /// Claims and runs tasks until the current job has none left, the thread's own run first.
    ///
    /// A claim is owned only where its number is below the run's end, and a job cannot end while
    /// a claim of it is owned, so `data` and `call` belong to the claimed job.
    fn work(&self, thread: usize) {
        let mut mine = 0;
        let (before, from) = self.claims.split_at(thread);
        for run in from.iter().chain(before) {
            loop {
                let claim = run.fetch_add(1, Ordering::AcqRel);
                let (end, task) = (claim >> COUNT_BITS, claim & COUNT_MASK);
                if task >= end {
                    break;
                }
                let data = self.data.load(Ordering::Relaxed);
                let call = self.call.load(Ordering::Relaxed);
                let run = std::panic::AssertUnwindSafe(|| {
                    // SAFETY: `run` stored a `Call` for a closure it keeps alive until all tasks
                    // of the job, this one included, have been counted as done.
                    unsafe {
                        let call = std::mem::transmute::<*mut (), Call>(call);
                        call(data, task as usize, thread);
                    }
                });
                if std::panic::catch_unwind(run).is_err() {
                    self.panicked.store(true, Ordering::Relaxed);
                }
                mine += 1;
            }
        }
        // Once a job, not once a task: the job lasts until the last thread has counted.
        if mine > 0 {
            self.done.fetch_add(mine, Ordering::AcqRel);
        }
    }

    /// Whether the current job still has unclaimed tasks.
    fn has_work(&self) -> bool {
        self.claims.iter().any(|run| {
            let claim = run.load(Ordering::SeqCst);
            claim & COUNT_MASK < claim >> COUNT_BITS
        })
    }

    /// A thread's life: spin, work, sleep.
    fn serve(&self, thread: usize) {
        self.started.fetch_add(1, Ordering::Release);
        loop {
            let mut spins = 0;
            while !self.has_work() && spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
            }
            if spins == SPINS {
                let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
                // Registered before the last look: `run` looks at `sleepers` after publishing.
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                while !self.has_work() && !self.stop.load(Ordering::SeqCst) {
                    guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            self.work(thread);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once() {
        let workers = Workers::new(4).unwrap();
        let counts: Vec<AtomicUsize> = (0..97).map(|_| AtomicUsize::new(0)).collect();
        for round in 1..2000 {
            let tasks = round % counts.len();
            workers.run(tasks, &|task, thread| {
                assert!(thread < 4);
                counts[task].fetch_add(1, Ordering::Relaxed);
            });
            if round % 500 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(2)); // let them fall asleep
            }
        }
        let expected = |task: usize| (1..2000).filter(|round| round % 97 > task).count();
        for (task, count) in counts.iter().enumerate() {
            assert_eq!(count.load(Ordering::Relaxed), expected(task));
        }
    }
}
