#!/usr/bin/env bash
# Every CPU benchmark (benches/cpu_*.py) of the installed kilotok; each prints JSON, kept with the machine it ran on.
#
# Environment: KILOTOK_VENV (default .venv), KILOTOK_RESULTS_DIR (default benches/results).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${KILOTOK_VENV:-.venv}
results=${KILOTOK_RESULTS_DIR:-benches/results}
shopt -s nullglob
benches=(benches/cpu_*.py)
if [ "${#benches[@]}" -eq 0 ]; then
  echo "bench: there are no CPU benchmarks" >&2
  exit 1
fi
for bench in "${benches[@]}"; do
  name=$(basename "$bench" .py)
  "$venv/bin/python" scripts/record_bench.py --results "$results" --name "${name#cpu_}" -- \
    "$venv/bin/python" "$bench"
done
