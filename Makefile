# `make poc` and `make test` need Python 3.11, a C++ compiler and nothing else.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
STAMP := $(VENV)/.installed

export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_OFFLINE ?= 1

.PHONY: venv poc poc-chat test check format bench bench-chat bench-evidence bench-losses kernels-report whole clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: install it, or run make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt setuptools wheel
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[demo,dev]'
	touch $@

poc: venv
	$(BIN)/python examples/trec/fetch.py --out data/trec
	$(BIN)/deshi poc examples/trec/recipe.yaml

poc-chat: venv
	$(BIN)/python examples/chat/fetch.py --out data/chat
	$(BIN)/deshi poc examples/chat/recipe.yaml

test: venv
	$(BIN)/python -m pytest tests

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	rm -rf build/typecheck
	$(PIP) install --no-deps --no-build-isolation --target build/typecheck .
	MYPYPATH=build/typecheck $(BIN)/mypy -p deshi

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: venv
	$(BIN)/python -m deshi.jobs.evidence.benches.bench runs/trec

bench-chat: venv
	$(BIN)/python -m deshi.jobs.evidence.benches.bench_chat runs/chat

bench-evidence: venv
	$(BIN)/python -m deshi.jobs.evidence.benches.bench_evidence runs/trec

bench-losses: venv
	$(PIP) install --constraint constraints.txt --no-deps liger-kernel
	$(BIN)/python -m deshi.jobs.evidence.benches.bench_losses

kernels-report: venv
	$(BIN)/python -m deshi.kernels.proof.compiled

whole: venv
	$(BIN)/python -m pytest tests -m whole

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
