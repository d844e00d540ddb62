# make demo: generate from the demo checkpoint (PROMPT="..." chooses what to continue)
# make test: every test that this machine can run
# make lint: formatting and lints
# make gpu-test: GPU tests and benchmarks of the installed wheel, on a machine with a GPU
# make bench: CPU benchmarks of the installed wheel

SHELL := /bin/bash
VENV := $(or $(KILOTOK_VENV),.venv)
export PROMPT
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: demo test lint gpu-test bench install clean

demo: install
	@if [ -n "$$PROMPT" ]; then $(VENV)/bin/kilotok generate "$$PROMPT"; else $(VENV)/bin/kilotok generate; fi

install: $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --disable-pip-version-check .

$(VENV)/bin/python:
	python3 -m venv $(VENV)

test:
	@scripts/test.sh

lint:
	@scripts/lint.sh

gpu-test:
	@scripts/gpu_check.sh

bench: install
	@scripts/bench.sh

clean:
	rm -rf target dist $(VENV)
