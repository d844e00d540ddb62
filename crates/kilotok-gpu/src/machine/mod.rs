//! Runs programs: op records in device memory, one command after the other.
//!
//! In *graph* mode every op is one launch; the launches of a line of ops are recorded once and
//! submitted as one graph. In *persistent* mode one kernel stays on the device: the host writes a
//! command and rings, the device answers with the command's number. The kernel leaves the device
//! when nothing was asked for a while, and is started again by the next command. Either way a
//! machine that fails stays failed: whatever it said last is not to be believed.

mod debug;
mod mailbox;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kilotok_kernels::abi::program as abi;

use crate::context::Context;
use crate::error::GpuError;
use crate::graph::Graph;
use crate::launch::LaunchConfig;
use crate::library::{Kernel, Library};
use crate::pool::MemoryPool;
use crate::stream::Stream;
pub use debug::Debug;
pub use trace::MOST_RECORDS;
use trace::Tracing;

/// How commands are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One launch per op, recorded as graphs.
    Graph,
    /// One kernel that stays.
    Persistent,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Graph => "graph",
            Self::Persistent => "persistent",
        })
    }
}

/// The family of the two kernels that run programs.
pub const FAMILY: &str = "engine";

/// A command is given up when the device has shown no sign of life for so long.
const PATIENCE: Duration = Duration::from_millis(900);

/// The resident kernel leaves the device after so long without a command.
const IDLE_MS: u32 = 200;

/// Where a program's own memory lies; all in the machine's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Room for all op records.
    pub ops: u64,
    /// Room for one command.
    pub command: u64,
    /// 32 words that blocks wait by.
    pub barrier: u64,
}

/// How a machine is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineOptions {
    /// How commands are run.
    pub mode: Mode,
    /// How long the device may show no sign of life.
    pub patience: Duration,
    /// After how many milliseconds without a command the kernel leaves the device.
    pub idle_ms: u32,
    /// What is done beside the work, in persistent mode.
    pub debug: Debug,
}

impl MachineOptions {
    /// The usual waits.
    pub const fn new(mode: Mode) -> Self {
        Self { mode, patience: PATIENCE, idle_ms: IDLE_MS, debug: Debug::NONE }
    }
}

/// A program on a device, and the memory that it works on.
#[derive(Debug)]
pub struct Machine {
    // Dropped in this order: graphs and kernels before the memory they know.
    graphs: HashMap<(u32, u32, u32), Graph>,
    resident: Kernel,
    op: Kernel,
    tracing: Tracing,
    mailbox: mailbox::Box,
    stream: Stream,
    copies: Stream,
    pool: MemoryPool<Arc<Context>>,
    args: abi::Machine,
    /// Flags of all ops.
    flags: Vec<u32>,
    options: MachineOptions,
    /// Of the newest command.
    number: u32,
    is_resident: bool,
    /// When the newest command was.
    answered: Instant,
    failure: Option<GpuError>,
}

impl Machine {
    /// Blocks of a machine on `context`'s device: one per SM.
    pub fn num_blocks(context: &Context) -> u32 {
        context.device().num_sms
    }

    /// Copies `ops` to the device and gets ready to run them.
    ///
    /// # Errors
    /// [`GpuError::NoImage`] and [`GpuError::UnsupportedDevice`] where there is no kernel for the
    /// device, [`GpuError::Unsupported`] for debugging in graph mode, [`GpuError::Shape`] for places
    /// outside of the pool, [`GpuError::OutOfMemory`], [`GpuError::Driver`].
    ///
    /// # Safety
    /// Every address in `ops` has to lie in `pool`, in a part that is as large as `program.h` asks of
    /// it and that holds what it asks for: the ops are run on them as they are.
    pub unsafe fn new(
        pool: MemoryPool<Arc<Context>>,
        ops: &[abi::Op],
        places: Places,
        options: MachineOptions,
    ) -> Result<Self, GpuError> {
        let context = Arc::clone(pool.context());
        let library = Library::embedded(&context, FAMILY)?;
        // SAFETY: the caller's promise.
        unsafe { Self::with_library(&library, pool, ops, places, options) }
    }

    /// # Safety
    /// As of [`Self::new`], and `library` has the two kernels.
    pub(crate) unsafe fn with_library(
        library: &Arc<Library>,
        pool: MemoryPool<Arc<Context>>,
        ops: &[abi::Op],
        places: Places,
        options: MachineOptions,
    ) -> Result<Self, GpuError> {
        options.debug.check(options.mode)?;
        let context = Arc::clone(pool.context());
        let [resident, op] =
            [library.kernel("kilotok_persistent")?, library.kernel("kilotok_graph_op")?];
        for kernel in [&resident, &op] {
            kernel.allow_shared_bytes(abi::SHARED_BYTES)?;
        }
        let (stream, copies) = (Stream::new(&context)?, Stream::new(&context)?);
        let mailbox = mailbox::Box::new(&context)?;
        pool.write(&copies, places.ops, ops)?;
        pool.write(&copies, places.command, &[abi::Command::default()])?;
        pool.fill_zero(&copies, places.barrier, 128)?;
        copies.synchronize()?;
        let args = abi::Machine {
            ops: places.ops,
            command: places.command,
            mailbox: mailbox.address(),
            barrier: places.barrier,
            op: 0,
            num_blocks: Self::num_blocks(&context),
            flags: options.debug.flags(),
            idle_ms: options.idle_ms,
            delay_seed: options.debug.delay_seed.unwrap_or(0),
            ..abi::Machine::default()
        };
        Ok(Self {
            graphs: HashMap::new(),
            resident,
            op,
            tracing: Tracing::default(),
            mailbox,
            stream,
            copies,
            pool,
            args,
            flags: ops.iter().map(|op| op.flags).collect(),
            options,
            number: 0,
            is_resident: false,
            answered: Instant::now(),
            failure: None,
        })
    }

    /// How commands are run.
    pub fn mode(&self) -> Mode {
        self.options.mode
    }

    /// The memory that the program works on.
    pub fn pool(&self) -> &MemoryPool<Arc<Context>> {
        &self.pool
    }

    /// A stream for copies while no command runs.
    pub fn copies(&self) -> &Stream {
        &self.copies
    }

    /// Runs one command until the device has finished it.
    ///
    /// # Errors
    /// [`GpuError::Shape`] for ops that do not exist; [`GpuError::Machine`] and [`GpuError::Driver`]
    /// where the device failed, now or before: from then on every command fails alike.
    pub fn run(&mut self, command: &abi::Command) -> Result<(), GpuError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let end = command.first_op.checked_add(command.num_ops);
        let fits = end.is_some_and(|end| end as usize <= self.flags.len());
        let rows = command.pass.rows as usize;
        if !fits || command.rounds == 0 || rows > abi::ROWS || command.num_runs as usize > abi::ROWS
        {
            let detail = format!(
                "ops {} + {} of {}, {} rounds, {rows} rows, {} runs",
                command.first_op,
                command.num_ops,
                self.flags.len(),
                command.rounds,
                command.num_runs
            );
            return Err(GpuError::Shape { op: "command", detail });
        }
        self.number = self.number.wrapping_add(1);
        let outcome = match self.options.mode {
            Mode::Graph => self.run_graph(command),
            Mode::Persistent => self.run_resident(command),
        };
        outcome.inspect_err(|error| self.failure = Some(error.clone()))
    }

    /// What the runs of the newest command did, round by round.
    pub fn rounds(&self) -> impl Iterator<Item = abi::Round> + '_ {
        let count = self.mailbox.num_rounds();
        (count.saturating_sub(abi::ROUND_RING)..count).map(|index| self.mailbox.round(index))
    }

    /// Takes the resident kernel off the device; the next command starts it again.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn park(&mut self) -> Result<(), GpuError> {
        if !self.is_resident || self.failure.is_some() {
            return Ok(());
        }
        if !self.mailbox.is_parked() {
            self.number = self.number.wrapping_add(1);
            self.mailbox.put(&abi::Command::default());
            self.mailbox.ring(self.number);
        }
        let parked = self.wait(|this| this.mailbox.is_parked());
        parked.and_then(|()| self.stream.synchronize()).inspect_err(|error| {
            self.failure = Some(error.clone());
        })?;
        self.is_resident = false;
        Ok(())
    }

    fn failed(&self, reason: String) -> GpuError {
        GpuError::Machine { command: self.number, reason, waiting: self.mailbox.waiting() }
    }

    fn check_mailbox(&self) -> Result<(), GpuError> {
        match self.mailbox.error() {
            abi::ERROR_NONE => Ok(()),
            abi::ERROR_TIMEOUT => Err(self.failed("a block waited in vain for another one".into())),
            code => Err(self.failed(format!("an op failed with error {code}"))),
        }
    }

    fn run_graph(&mut self, command: &abi::Command) -> Result<(), GpuError> {
        let key = (command.first_op, command.num_ops, command.skip);
        if !self.graphs.contains_key(&key) {
            let graph = self.record(key)?;
            self.graphs.insert(key, graph);
        }
        self.mailbox.put(command);
        self.mailbox.send(&self.pool, &self.stream, self.args.command)?;
        let mut seen = 0;
        for _ in 0..command.rounds {
            if let Some(graph) = self.graphs.get(&key) {
                // SAFETY: the addresses are those that `new` was promised; the memory is this
                // machine's, and nothing else runs on it.
                unsafe { graph.launch(&self.stream)? };
            }
            self.wait_for_stream()?;
            let told = self.mailbox.num_rounds();
            let is_over = (seen..told).any(|round| self.mailbox.round(round).ended != 0);
            seen = told;
            if is_over {
                break;
            }
        }
        Ok(())
    }

    /// The launches of a line of ops without those that are skipped.
    fn record(&self, (first, count, skip): (u32, u32, u32)) -> Result<Graph, GpuError> {
        let config = LaunchConfig {
            shared_bytes: abi::SHARED_BYTES,
            ..LaunchConfig::linear(self.args.num_blocks, abi::BLOCK_THREADS)
        };
        Graph::record(&self.stream, || {
            let ops = first..first + count;
            let ops = ops.filter(|op| self.flags[*op as usize] & skip == 0);
            for (i, op) in ops.enumerate() {
                // The first one follows a copy, which gives no early start.
                let config = LaunchConfig { is_programmatic: i > 0, ..config };
                let args = abi::Machine { op, ..self.args };
                // SAFETY: the argument is the kernel's; the rest was promised to `new`.
                unsafe { self.op.launch(&self.stream, &config, &args)? };
            }
            Ok(())
        })
    }

    /// Waits for the stream, and for what an op said of itself.
    fn wait_for_stream(&self) -> Result<(), GpuError> {
        let synchronized = self.stream.synchronize();
        // The mailbox knows more than the driver, which only knows that a kernel ended badly.
        self.check_mailbox()?;
        synchronized
    }

    fn start(&mut self, newest_finished: u32) -> Result<(), GpuError> {
        self.stream.synchronize()?;
        self.mailbox.unpark();
        self.pool.fill_zero(&self.stream, self.args.barrier, 128)?;
        let config = LaunchConfig {
            shared_bytes: abi::SHARED_BYTES,
            is_cooperative: true,
            ..LaunchConfig::linear(self.args.num_blocks, abi::BLOCK_THREADS)
        };
        let (trace, trace_records) = self.tracing.place();
        let args = abi::Machine { op: newest_finished, trace, trace_records, ..self.args };
        let kernel = self.traced_kernel()?.unwrap_or_else(|| self.resident.clone());
        // SAFETY: the argument is the kernel's; the rest was promised to `new`, and `self` stays until
        // the kernel has left the device.
        unsafe { kernel.launch(&self.stream, &config, &args)? };
        self.is_resident = true;
        Ok(())
    }

    fn run_resident(&mut self, command: &abi::Command) -> Result<(), GpuError> {
        let number = self.number;
        let half_idle = Duration::from_millis(u64::from(self.options.idle_ms) / 2);
        if !self.is_resident || self.mailbox.is_parked() {
            self.start(number.wrapping_sub(1))?;
        }
        self.mailbox.put(&abi::Command { reserved: number, ..*command });
        self.mailbox.ring(number);
        // Looked at after the bell: this thread may have stood still before it.
        let was_idle = self.answered.elapsed() > half_idle;
        loop {
            self.wait(|this| this.mailbox.finished() == number || this.mailbox.is_parked())?;
            // A kernel that leaves after a while says it finished whatever was rung last. If it was
            // really asked for this command, the command stands on the device.
            if self.mailbox.finished() == number && (!was_idle || self.stands_on_device(number)?) {
                self.answered = Instant::now();
                return Ok(());
            }
            // It left just before the bell rang.
            self.start(number.wrapping_sub(1))?;
        }
    }

    /// Whether the command of that number has reached the device.
    fn stands_on_device(&self, number: u32) -> Result<bool, GpuError> {
        let mut command = [abi::Command::default()];
        self.pool.read(&self.copies, self.args.command, &mut command)?;
        Ok(command[0].reserved == number)
    }

    /// Spins until `is_done`; gives up when the device shows no sign of life.
    fn wait(&self, is_done: impl Fn(&Self) -> bool) -> Result<(), GpuError> {
        /// Looks at the words between two looks at the clock, and clock readings between two
        /// questions to the driver.
        const LOOKS: u32 = 1 << 10;
        const READINGS: u32 = 1 << 4;
        let mut heartbeat = self.mailbox.heartbeat();
        let mut alive = Instant::now();
        for reading in 1u32.. {
            for _ in 0..LOOKS {
                if is_done(self) {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
            self.check_mailbox()?;
            let beat = self.mailbox.heartbeat();
            if beat != heartbeat {
                (heartbeat, alive) = (beat, Instant::now());
            } else if alive.elapsed() > self.options.patience {
                let ms = alive.elapsed().as_millis();
                return Err(self.failed(format!("no sign of life for {ms} ms")));
            }
            if reading % READINGS == 0 && self.stream.is_idle()? && !is_done(self) {
                // The kernel's last words may arrive after it.
                self.check_mailbox()?;
                if !is_done(self) {
                    return Err(self.failed("the kernel ended without an answer".into()));
                }
            }
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !self.is_resident {
            return;
        }
        // A kernel that failed ends by its own limits, or never: then its memory is not freed, since
        // freeing would wait for it.
        let _ = self.park();
        self.mailbox.stop();
        let patience = Instant::now();
        while matches!(self.stream.is_idle(), Ok(false)) {
            if patience.elapsed() > Duration::from_secs(4) {
                self.pool.abandon();
                self.tracing.abandon();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
