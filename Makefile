# Two commands for people: `make quickstart` and `make test`. VENV=... puts the environment elsewhere.
VENV ?= .venv
PYTHON ?= python3
RESULTS ?= quickstart-results
override VENV := $(patsubst ~/%,$(HOME)/%,$(VENV))
# pip compiles no modules: there are 23,000, of which the first run imports a part, compiles it and keeps the result,
# also where images of containers forbid that by a variable: each process would compile 2,000 modules anew.
unexport PYTHONDONTWRITEBYTECODE
# Folders may hold spaces: commands quote them, targets escape them, and pip, which splits the variable, gets no path.
BIN = "$(VENV)/bin"
empty :=
ESCAPED = $(subst $(empty) $(empty),\ ,$(VENV))
PIP = PIP_CONSTRAINT=constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet --no-compile
TEST_EXTRAS = detection,export,sql,serve,cluster,s3,gcs,dev

GPU_PYTHON ?= python3
OLDEST ?= .venv-oldest
GPU_ARGS ?=

SAMPLE ?= 100
SEED ?= 0

.PHONY: quickstart test test-all test-oldest lint mutants gpu help

help:
	@echo "make quickstart   set everything up, run sweeps/quickstart.yaml, print the leaderboard"
	@echo "make test         set everything up, pass the tests (about 15 minutes on 2 cores)"
	@echo "make test-all     the long tests too: every model, repeated kills"
	@echo "make test-oldest  the same with the oldest versions that pyproject.toml allows, in an environment of their own"
	@echo "make lint         ruff and mypy"
	@echo "make gpu          what only a GPU can show, as one table; GPU_PYTHON=... has torch already"
	@echo "make mutants ROOM=selection [SAMPLE=100 SEED=0]   plants faults in a room and counts those that its tests notice"

quickstart: $(ESCAPED)/.ready
	$(BIN)/raybench run sweeps/quickstart.yaml --storage "$(RESULTS)"
	$(BIN)/raybench leaderboard "$(RESULTS)" --wide
	@echo "results: $(RESULTS)/   with cost and latency: '$(VENV)/bin/raybench' leaderboard '$(RESULTS)'"

# Two processes with one thread each, where the second takes over tests of the first at the end; tests that start Ray
# run alone.
test: $(ESCAPED)/.ready-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not cluster" -n 2 --dist worksteal
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and cluster" tests/cluster

test-all: $(ESCAPED)/.ready-test
	$(BIN)/python -m pytest

# Installed anew each time: the oldest versions are those of pyproject.toml as it is.
test-oldest:
	test -x "$(OLDEST)/bin/python" || $(PYTHON) -m venv "$(OLDEST)"
	mkdir -p build
	$(PYTHON) -m tests.oldest > build/oldest.txt
	PIP_CONSTRAINT=build/oldest.txt "$(OLDEST)/bin/python" -m pip install --quiet --no-compile --editable ".[$(TEST_EXTRAS)]"
	OMP_NUM_THREADS=1 "$(OLDEST)/bin/python" -m pytest -m "not slow and not cluster" -n 2 --dist worksteal
	OMP_NUM_THREADS=1 "$(OLDEST)/bin/python" -m pytest -m "not slow and cluster" tests/cluster

lint: $(ESCAPED)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Needs neither ray nor the network: the machine's own Python, which has torch.
gpu:
	$(GPU_PYTHON) -m tests.gpu.check $(GPU_ARGS)

mutants: $(ESCAPED)/.ready-test
	nice -n 15 $(BIN)/python -m tests.mutants $(ROOM) --sample $(SAMPLE) --seed $(SEED)

$(ESCAPED)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv "$(VENV)"
	$(PIP) --editable .
	touch "$@"

$(ESCAPED)/.ready-test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv "$(VENV)"
	$(PIP) --editable ".[$(TEST_EXTRAS)]"
	touch "$(VENV)/.ready" "$@"
