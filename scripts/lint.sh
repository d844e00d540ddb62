#!/usr/bin/env bash
# Formatting and lints of Rust, CUDA and Python. Runs all of them and fails if any fails.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
prepare_venv && prepare_nvcc || exit 1

failed=()
gate() {
  local name=$1
  shift
  say "$name"
  "$@" || failed+=("$name")
}
python_folders=(python tests benches scripts build training)
for i in "${!python_folders[@]}"; do
  [ -d "${python_folders[i]}" ] || unset 'python_folders[i]'
done

gate "cargo fmt" cargo fmt --all --check
gate "ruff check" ruff check "${python_folders[@]}"
gate "ruff format" ruff format --check "${python_folders[@]}"
gate "clang-format" bash -c 'find cuda \( -name "*.cu" -o -name "*.cuh" -o -name "*.h" \) -print0 |
  xargs -0 clang-format --dry-run -Werror'
gate "mypy" mypy
gate "clippy" cargo clippy --locked --workspace --all-targets --profile ci -- -D warnings

if [ "${#failed[@]}" -gt 0 ]; then
  printf '\nlint: FAILED: %s\n' "${failed[*]}"
  exit 1
fi
printf '\nlint: all passed\n'
