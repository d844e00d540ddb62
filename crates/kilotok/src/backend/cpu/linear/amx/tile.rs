//! The tile instructions, which stable Rust has no intrinsics for, and the right to use them.
#![allow(unsafe_code, reason = "CPU instructions behind runtime detection")]

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::sync::LazyLock;

/// Bytes of a tile row.
pub(super) const ROW: usize = 64;

/// Configuration of the tiles: sixteen rows, of `columns` 32-bit columns in the accumulators and
/// in tile 6; tile 7 is full.
#[repr(C, align(64))]
pub(super) struct Config([u8; 64]);

impl Config {
    pub(super) fn new(columns: usize) -> Self {
        let mut bytes = [0; 64];
        bytes[0] = 1; // palette: eight tiles of 16 rows of 64 bytes
        for tile in 0..8 {
            bytes[16 + 2 * tile] = if tile == 7 { ROW as u8 } else { 4 * columns as u8 };
            bytes[48 + tile] = 16;
        }
        Self(bytes)
    }

    /// # Safety
    /// [`permission`] was granted.
    #[inline(always)]
    pub(super) unsafe fn load(&self) {
        // SAFETY: 64 readable bytes; the caller vouches for the permission.
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack, readonly)) }
    }
}

/// Gives the tile state back, so that switching threads stays cheap.
///
/// # Safety
/// [`permission`] was granted.
#[inline(always)]
pub(super) unsafe fn release() {
    // SAFETY: the caller vouches for the permission.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

/// Zeroes tile `T`.
///
/// # Safety
/// Tiles are configured.
#[inline(always)]
pub(super) unsafe fn zero<const T: u8>() {
    // SAFETY: the caller vouches for the configuration.
    unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, nomem, preserves_flags)) }
}

/// Loads tile `T` from rows `stride` bytes apart.
///
/// # Safety
/// Tiles are configured; the tile's rows are readable.
#[inline(always)]
pub(super) unsafe fn load<const T: u8>(p: *const u8, stride: usize) {
    // SAFETY: the caller vouches for configuration and memory.
    unsafe {
        asm!("tileloadd tmm{t}, [{p} + {s}*1]", t = const T, p = in(reg) p, s = in(reg) stride,
            options(nostack, readonly, preserves_flags));
    }
}

/// Stores tile `T` to rows of 64 bytes.
///
/// # Safety
/// Tiles are configured; the tile's rows are writable.
#[inline(always)]
pub(super) unsafe fn store<const T: u8>(p: *mut f32) {
    // SAFETY: the caller vouches for configuration and memory.
    unsafe {
        asm!("tilestored [{p} + {s}*1], tmm{t}", t = const T, p = in(reg) p, s = in(reg) ROW,
            options(nostack, preserves_flags));
    }
}

/// Tile `C` += tile 7 (outputs) times tile 6 (pairs of columns).
///
/// # Safety
/// Tiles are configured.
#[inline(always)]
pub(super) unsafe fn multiply<const C: u8>() {
    // SAFETY: the caller vouches for the configuration.
    unsafe {
        asm!("tdpbf16ps tmm{c}, tmm7, tmm6", c = const C,
            options(nostack, nomem, preserves_flags));
    }
}

/// Whether the CPU has bfloat16 tiles and the operating system lets this process use them; asks
/// the operating system once.
pub(crate) fn permission() -> bool {
    static GRANTED: LazyLock<bool> = LazyLock::new(|| {
        // SAFETY: every x86-64 CPU has `cpuid`; `xgetbv` is there where OSXSAVE (bit 27) is set.
        let usable = unsafe {
            let features = if __cpuid(0).eax >= 7 { __cpuid_count(7, 0) } else { return false };
            let tiles = features.edx & (1 << 22) != 0 && features.edx & (1 << 24) != 0;
            tiles && __cpuid(1).ecx & (1 << 27) != 0 && enabled()
        };
        usable && request()
    });
    *GRANTED
}

/// Whether the operating system saves tile state.
#[target_feature(enable = "xsave")]
fn enabled() -> bool {
    const TILES: u64 = 3 << 17;
    // SAFETY: the caller checked OSXSAVE.
    unsafe { _xgetbv(0) & TILES == TILES }
}

/// `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`: for all threads of the process.
fn request() -> bool {
    let result: isize;
    // SAFETY: a system call without pointers; it overwrites rcx and r11 alone.
    unsafe {
        asm!("syscall", inlateout("rax") 158isize => result, in("rdi") 0x1023usize,
            in("rsi") 18usize, out("rcx") _, out("r11") _, options(nostack));
    }
    result == 0
}
