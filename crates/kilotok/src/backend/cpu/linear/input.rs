//! Rows on their way into a matrix: packed once for all threads, or by every thread for itself.
//!
//! What one thread packs another must fetch from its cache, and take back for the next op. That
//! costs more than packing a few rows twice, so few rows are packed by every thread that
//! multiplies them, in memory of its own.
#![allow(unsafe_code, reason = "hands every thread a buffer of its own")]

use std::marker::PhantomData;

use super::super::router::Routes;
use super::super::simd::Kernels;
use super::pack::{Orders, Packed};

/// Floats, padding included, that threads pack for themselves at most: 8 rows of 2048 columns.
const OWN_FLOATS: usize = 1 << 14;

/// The buffers of all threads.
#[derive(Debug)]
pub(crate) struct Packs {
    shared: Packed,
    own: Vec<Own>,
    /// Number of the newest input.
    newest: u64,
}

/// A thread's buffer and the number of the input that it holds.
#[derive(Debug)]
#[repr(align(128))]
struct Own {
    packed: Packed,
    holds: u64,
}

/// Rows to be multiplied: those that `rows` names of `x`, `[_, cols]`.
#[derive(Clone, Copy)]
pub(crate) struct Unpacked<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) rows: &'a [u32],
    pub(crate) cols: usize,
    pub(crate) orders: Orders,
    /// Where an expert's rows are multiplied by matrices of its own; `rows` is then sorted by
    /// expert.
    pub(crate) routes: Option<&'a Routes>,
}

impl Unpacked<'_> {
    fn pack(&self, to: &mut Packed) {
        let Self { x, rows, cols, orders, routes } = *self;
        match routes {
            None => to.pack(x, rows, cols, orders),
            Some(routes) => {
                let groups = routes.active.iter().map(|expert| routes.of(*expert));
                to.pack_groups(x, rows, cols, orders, &groups);
            }
        }
    }
}

/// Rows that every thread finds packed.
pub(crate) struct Input<'a> {
    rows: Unpacked<'a>,
    shared: Option<&'a Packed>,
    own: *mut Own,
    threads: usize,
    number: u64,
    packs: PhantomData<&'a mut Packs>,
}

// SAFETY: threads share what was packed before and write to buffers of their own alone.
unsafe impl Sync for Input<'_> {}

impl Packs {
    /// Room for `rows` times `per_row` floats of rows padded by [`Packed::padded`].
    pub(crate) fn new(rows: usize, per_row: usize, threads: usize, kernels: &Kernels) -> Self {
        let own = || Packed::new(1, OWN_FLOATS.min(rows * per_row), kernels);
        Self {
            shared: Packed::new(rows, per_row, kernels),
            own: (0..threads).map(|_| Own { packed: own(), holds: 0 }).collect(),
            newest: 0,
        }
    }

    /// Bytes held.
    pub(crate) fn num_bytes(&self) -> usize {
        let own: usize = self.own.iter().map(|own| own.packed.num_bytes()).sum();
        self.shared.num_bytes() + own
    }

    /// Rows for the next matrices; they are packed at once or when a thread needs them.
    pub(crate) fn input<'a>(&'a mut self, rows: Unpacked<'a>) -> Input<'a> {
        self.newest += 1;
        let floats = rows.rows.len() * Packed::padded(rows.cols);
        let shared = if floats > OWN_FLOATS {
            rows.pack(&mut self.shared);
            Some(&self.shared)
        } else {
            None
        };
        let (own, threads, number) = (self.own.as_mut_ptr(), self.own.len(), self.newest);
        Input { rows, shared, own, threads, number, packs: PhantomData }
    }
}

impl Input<'_> {
    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows.rows.len()
    }

    /// The packed rows, for thread `thread`.
    ///
    /// # Safety
    /// The caller is thread `thread` of the job.
    pub(crate) unsafe fn on(&self, thread: usize) -> &Packed {
        if let Some(shared) = self.shared {
            return shared;
        }
        assert!(thread < self.threads, "no such thread");
        // SAFETY: the buffers are borrowed for as long as this input, and nobody but thread
        // `thread` looks at its own; it holds no reference to it from before it was packed.
        unsafe {
            let own = self.own.add(thread);
            if (*own).holds != self.number {
                let own = &mut *own;
                self.rows.pack(&mut own.packed);
                own.holds = self.number;
            }
            &(*own).packed
        }
    }
}
