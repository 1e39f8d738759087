# make serve   set everything up and serve the CLIs you have at 127.0.0.1:8080
# make test    set everything up and run every test, those with the real CLIs too
# make check   format, lint and types
# make fuzz    look longer for what breaks parsers and the server: FUZZ=20 times as long as test
# make soak    everything at once for long, with kills: ARGS="--requests 10000 --fakes"
# make bench   measure clinvk and write the figures to benchmarks/README.md

PYTHON ?= python3
BIN := .venv/bin
REAL := tests/real/node_modules
AGENTS := tests/real/agents/node_modules
OLDER := tests/real/.venv
ARGS ?=
FUZZ ?= 20

.PHONY: serve test check format fuzz soak bench clean

serve: .venv/.installed
	$(BIN)/clinvk serve $(ARGS)

test: .venv/.dev $(REAL)/.installed $(AGENTS)/.installed $(OLDER)/.installed
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --cov --cov-report=term $(ARGS)

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

fuzz: .venv/.dev
	CLINVK_FUZZ=$(FUZZ) $(BIN)/python -m pytest --timeout=0 tests/fuzz tests/test_patterns.py \
		tests/faults/test_schedules.py $(ARGS)

soak: .venv/.dev $(REAL)/.installed
	$(BIN)/python -m tests.real.soak $(ARGS)

bench: .venv/.dev $(REAL)/.installed
	$(BIN)/python -m benchmarks $(or $(ARGS),all --write)

clean:
	rm -rf .venv $(REAL) $(AGENTS) $(OLDER) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "clinvk needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/.dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ .venv/.installed

# Install scripts stay off; Claude Code's own puts its binary in place and is run by name.
$(REAL)/.installed: tests/real/package.json tests/real/package-lock.json
	cd tests/real && npm ci --ignore-scripts --no-audit --no-fund
	cd tests/real && node node_modules/@anthropic-ai/claude-code/install.cjs
	@touch $@

# Not `npm ci`: a registry may lack an optional package of another platform. The lock counts.
$(AGENTS)/.installed: tests/real/agents/package.json tests/real/agents/package-lock.json
	cd tests/real/agents && npm install --no-save --ignore-scripts --no-audit --no-fund
	@touch $@

# A client that cannot live with the newest openai, and the openai that it can live with; and a
# server, whose packages are its own.
$(OLDER)/.installed: tests/real/instructor_client.txt tests/real/llmock.txt | .venv/.dev
	$(BIN)/python -m venv --clear --without-pip $(OLDER)
	$(BIN)/python -m pip --python $(OLDER) install --quiet --disable-pip-version-check \
		-r tests/real/instructor_client.txt -r tests/real/llmock.txt
	@touch $@
