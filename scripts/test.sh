#!/usr/bin/env bash
# Every test that this machine can run, Rust and Python, ending with totals and every skip with its reason.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
prepare_venv && prepare_nvcc || exit 1

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
failed=()
step() {
  local name=$1
  shift
  say "$name"
  "$@" 2>&1 | tee "$logs/$name"
  [ "${PIPESTATUS[0]}" -eq 0 ] || failed+=("$name")
}

# kilotok-py has no Rust tests: the Python tests below are its tests, and they run on the wheel.
if command -v cargo-nextest >/dev/null; then
  step rust cargo nextest run --locked --workspace --exclude kilotok-py --cargo-profile ci --profile ci
else
  step rust cargo test --locked --workspace --exclude kilotok-py --profile ci --no-fail-fast --lib --bins --tests --examples
fi
step doc cargo test --locked --workspace --exclude kilotok-py --profile ci --no-fail-fast --doc

# Through pip, as a user would, but with the compiled dependencies of the tests above.
build_wheel() {
  rm -rf dist/test
  MATURIN_PEP517_ARGS="--profile ci --locked" python -m pip wheel --no-deps --wheel-dir dist/test . &&
    python -m pip install --quiet --force-reinstall --no-deps dist/test/*.whl &&
    python -m pip install --quiet "$(echo dist/test/*.whl)[test]"
}
step wheel build_wheel
if [ -f "$logs/wheel" ] && [[ " ${failed[*]-} " != *" wheel "* ]]; then
  step python python -m pytest -q "$@"
fi

say "totals"
# cargo prints one result per test program; nextest one summary.
sum_results() {
  awk -v name="$1" '/^test result:/ { passed += $4; failed += $6; ignored += $8; programs++ }
    END { if (programs) printf "%s %d passed, %d failed, %d ignored\n", name, passed, failed, ignored }' "$2"
}
grep -hE '^ *Summary \[' "$logs/rust" | sed 's/^ */rust:   /'
sum_results 'rust:  ' "$logs/rust"
sum_results 'doc:   ' "$logs/doc"
[ -f "$logs/python" ] && tail -n 1 "$logs/python" | sed 's/^/python: /'
say "skipped, with reasons"
{
  grep -hE '^test .* \.\.\. ignored' "$logs/rust" "$logs/doc"
  if command -v cargo-nextest >/dev/null; then grep -rnE '#\[ignore' crates --include='*.rs'; fi
  [ -f "$logs/python" ] && grep -hE '^SKIPPED' "$logs/python"
} | sort -u || true

if [ "${#failed[@]}" -gt 0 ]; then
  printf '\ntest: FAILED: %s\n' "${failed[*]}"
  exit 1
fi
printf '\ntest: all passed\n'
