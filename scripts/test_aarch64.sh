#!/usr/bin/env bash
# The Rust tests of crate kilotok on 64-bit Arm, under emulation where this machine is another: the NEON path's codecs,
# laws, f64 oracle and golden vectors. Slow (about an hour on 2 cores), so not part of `make test`.
#
# Needs the Rust standard library for aarch64-unknown-linux-gnu (`rustup target add aarch64-unknown-linux-gnu`, or
# Debian's rustc with libstd-rust-dev:arm64) and, on another architecture, a cross compiler and user-mode QEMU (Debian:
# gcc-aarch64-linux-gnu, libc6-dev-arm64-cross, qemu-user-static). Arguments go to `cargo test`, e.g. `--test cpu_golden`.
#
# Environment: KILOTOK_AARCH64_SYSROOT (default /usr/aarch64-linux-gnu), where the emulator finds the Arm libc.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu

need() {
  command -v "$1" >/dev/null || { echo "test_aarch64: $1 is missing: $2" >&2; exit 1; }
}
if [ "$(uname -m)" != aarch64 ]; then
  emulator=$(command -v qemu-aarch64 || command -v qemu-aarch64-static || true)
  [ -n "$emulator" ] || need qemu-aarch64 "install user-mode QEMU"
  need aarch64-linux-gnu-gcc "install a cross compiler"
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$emulator -L ${KILOTOK_AARCH64_SYSROOT:-/usr/aarch64-linux-gnu}"
fi
libdir=$(rustc --print target-libdir --target "$target")
ls "$libdir"/libstd-* >/dev/null 2>&1 || { echo "test_aarch64: rustc has no standard library for $target" >&2; exit 1; }

# One test at a time: the test program's own warning about slow tests would count as an allocation (law 4).
RUST_TEST_THREADS=1 KILOTOK_CUDA=0 exec cargo test --locked -p kilotok --profile ci --target "$target" --no-fail-fast "$@"
