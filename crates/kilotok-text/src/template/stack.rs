//! A stack deep enough for whatever a limited template can nest.

use std::io;
use std::thread;

/// Stack for parsing: one level per byte of source at worst, at most 600 bytes each (measured).
const STACK_PER_SOURCE_BYTE: usize = 768;
/// Stack for values: nesting one level costs about ten units of fuel, and walking one level (to
/// print, compare or drop it) at most 500 bytes (measured).
const STACK_PER_FUEL: u64 = 64;
const BASE: usize = 8 << 20;

/// Longest template source in bytes; the largest known ones have a tenth of this.
pub(super) const MAX_SOURCE_BYTES: usize = 256 << 10;

/// Runs `work` on a thread of its own whose stack cannot overflow within the given limits.
///
/// The engine parses operators and drops nested values recursively without a limit of its own,
/// and a stack overflow would end the process. The memory is reserved, not used.
///
/// # Errors
/// The operating system's reason when it grants no such thread, or that `work` panicked.
pub(super) fn with_room_for<T: Send>(
    source_bytes: usize,
    fuel: u64,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    let for_values = usize::try_from(fuel.saturating_mul(STACK_PER_FUEL)).unwrap_or(usize::MAX);
    let for_source = source_bytes.saturating_mul(STACK_PER_SOURCE_BYTE);
    let bytes = for_values.max(for_source).saturating_add(BASE);
    thread::scope(|scope| {
        thread::Builder::new()
            .name("chat-template".to_owned())
            .stack_size(bytes)
            .spawn_scoped(scope, work)?
            .join()
            .map_err(|_| io::Error::other("the template engine panicked"))
    })
}
