#!/usr/bin/env bash
# Runs every GPU test and GPU benchmark of an installed kilotok; needs no Rust. The machine has to have a GPU, and nvcc for
# the stand-alone benchmarks (or compiled ones: KILOTOK_BENCH_PROGRAMS).
#
# Environment: PYTHON (default python3), KILOTOK_RESULTS_DIR (default benches/results).
# Writes <results>/<gpu>/<benchmark>.json with GPU, driver, clocks, date and command.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
results=${KILOTOK_RESULTS_DIR:-benches/results}

"$python" - <<'PY'
import sys
from kilotok import _core
report = _core.gpu_report()
print(report["text"])
if report["state"] != "ready" or not report["kernels"]["images"]:
    sys.exit("gpu_check: there is no GPU to check, or this build has no kernels")
PY

status=0
"$python" -m pytest -m gpu tests/gpu tests/device || status=1

for bench in benches/gpu_*.py; do
  name=$(basename "$bench" .py)
  if ! "$python" scripts/record_bench.py --results "$results" --name "${name#gpu_}" -- "$python" "$bench"; then
    echo "gpu_check: $bench failed" >&2
    status=1
  fi
done
# Says which lists of stale results want an edit before the new ones are committed.
if [ "$results" = benches/results ]; then "$python" scripts/check_results.py || true; fi
if [ "$status" -eq 0 ]; then echo "gpu_check: all passed"; else echo "gpu_check: FAILED" >&2; fi
exit "$status"
