//! Threads do not survive `fork`; what depends on them refuses to work in a forked process.

use std::process;
use std::sync::OnceLock;

use kilotok::Error;
use pyo3::prelude::*;

use crate::errors::raised;

static OWNER: OnceLock<u32> = OnceLock::new();

/// Whether this is the process that first used the engine; the first caller makes it so.
pub(crate) fn is_owner() -> bool {
    *OWNER.get_or_init(process::id) == process::id()
}

/// An `EngineDeadError` instead of a wait for threads that do not exist here.
pub(crate) fn check() -> PyResult<()> {
    if is_owner() {
        return Ok(());
    }
    let reason = "this process was forked from one that had used it; \
                  start processes with the `spawn` method"
        .to_owned();
    Err(raised(Error::EngineDead { reason }))
}
