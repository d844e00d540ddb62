# Sourced by the other scripts: one virtual environment with everything that tests and lints need.
#
# Environment: KILOTOK_VENV (default .venv), PYTHON (default python3), KILOTOK_CUDA=0 for a build without kernels.
# shellcheck shell=bash

venv=${KILOTOK_VENV:-$PWD/.venv}
case $venv in /*) ;; *) venv=$PWD/$venv ;; esac

say() { printf '\n=== %s\n' "$*"; }

# Exactly these versions: a new release of a formatter must not turn the tree red.
tools=("maturin>=1.14,<2" ruff==0.17.6 mypy==2.4.1 clang-format==23.1.5 numpy safetensors)

prepare_venv() {
  [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
  export PIP_DISABLE_PIP_VERSION_CHECK=1
  "$venv/bin/python" -m pip install --quiet "${tools[@]}"
  # pyo3's build script asks this interpreter, and so does the search for nvcc; the same one everywhere spares rebuilds.
  export PYO3_PYTHON=$venv/bin/python
  export PATH=$venv/bin:$HOME/.cargo/bin:$PATH
}

# Leaves a way to nvcc in the environment, from the PyPI wheels if need be.
prepare_nvcc() {
  if [ "${KILOTOK_CUDA:-}" = 0 ] || [ -n "${KILOTOK_NVCC:-}${KILOTOK_FATBIN_DIR:-}${CUDA_HOME:-}${CUDA_PATH:-}" ] ||
    command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ]; then
    return 0
  fi
  "$venv/bin/python" -m pip install --quiet "cuda-toolkit[nvcc,cccl]==13.0.*"
  KILOTOK_NVCC=$("$venv/bin/python" -c 'import nvidia.cu13 as m; print(list(m.__path__)[0])')/bin/nvcc
  export KILOTOK_NVCC
}
