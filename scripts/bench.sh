#!/usr/bin/env bash
# Every CPU benchmark: benches/cpu_*.py on the installed kilotok, benches/cpu_*.rs through cargo. Each prints JSON,
# kept with the machine it ran on.
#
# Environment: KILOTOK_VENV (default .venv), KILOTOK_RESULTS_DIR (default benches/results).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${KILOTOK_VENV:-.venv}
results=${KILOTOK_RESULTS_DIR:-benches/results}
record() {
  local name=$1
  shift
  "$venv/bin/python" scripts/record_bench.py --cpu --results "$results" --name "$name" -- "$@"
}
"$venv/bin/python" -m pip install --quiet jinja2
for bench in benches/cpu_*.py; do
  name=$(basename "$bench" .py)
  record "${name#cpu_}" "$venv/bin/python" "$bench"
done
for bench in benches/cpu_*.rs; do
  name=$(basename "$bench" .rs)
  record "${name#cpu_}" cargo bench --quiet -p kilotok --bench "$name"
done
