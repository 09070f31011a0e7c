# Sets up, runs, tests, measures and checks fasti3d; every target creates what it needs.
#
#   make demo              what people do in a sample clip (VIDEO=path: in yours)
#   make test              the tests, in a process per core (ARGS="-k pool" goes on to pytest, as does "-n0 --pdb")
#   make test-isa          those that depend on the instruction set, with each lower one of this CPU
#   make test-neon         the operators on aarch64, emulated (ARGS=--install: apt fetches the tools)
#   make bench             the benchmarks and their tables (ARGS too)
#   make sanitize          the operators under GCC's sanitizers (ARGS="thread 500 7": one, cases, seed)
#   make docs              this project's site, in build/docs (ARGS=serve: at localhost, made anew at every change)
#   make lint | format     the checks of style and types | what can be put right by itself
#   make setup | clean     set up all of it but the benchmarks' peers | remove what make and Python created
#
# PYTHON chooses the interpreter of a new .venv, TORCH the release of torch, FASTI3D_BUILD what is
# compiled (see setup.py). Where packages come from, and with that whether torch is its CPU or its
# CUDA build, is for pip's own settings to say (PIP_INDEX_URL and the like).

PYTHON ?= python3
TORCH ?= 2.13.0
FASTI3D_BUILD ?= auto
VIDEO ?=
ARGS ?=
export FASTI3D_BUILD

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
CSRC := $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h')
NEON := $(wildcard tests/neon/*.cpp tests/neon/*.h)

# What is installed; a stamp carries what it depends on in its name.
HAVE_TORCH := $(VENV)/.torch-$(TORCH)
HAVE_FASTI3D := $(VENV)/.fasti3d-$(FASTI3D_BUILD)
HAVE_TOOLS := $(VENV)/.fasti3d-tools
HAVE_PEERS := $(VENV)/.fasti3d-peers
HAVE_DOCS := $(VENV)/.fasti3d-docs
HAVE_OLDER_TRITON := $(VENV)/.triton-3.6

.PHONY: setup demo test test-isa test-neon bench docs sanitize lint format clean
.DELETE_ON_ERROR:

setup: $(HAVE_TOOLS)

$(HAVE_TORCH):
	@echo "setup: torch $(TORCH) and the build tools, in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.torch-* $(VENV)/.fasti3d-* $(VENV)/.triton-*
	@$(PIP) install "torch==$(TORCH)" numpy "setuptools>=77" "pybind11>=2.12" ninja
	@touch $@

# setup.py --name tells, or fails over, what cannot be built, which pip would keep to itself.
# Naming torch once more keeps pip from replacing it.
$(HAVE_FASTI3D): $(HAVE_TORCH) pyproject.toml setup.py fasti3d/version.py $(CSRC)
	@echo "setup: fasti3d, compiling what has changed (a minute or two the first time)"
	@$(BIN)/python setup.py --name > /dev/null
	@rm -f $(VENV)/.fasti3d-* fasti3d/_C*.so
	@$(PIP) install --no-build-isolation -e . "torch==$(TORCH)"
	@$(BIN)/python -c "from fasti3d.runtime import extension as e; print('setup: done, operators run', \
		f'in C++, {e.instruction_set()}' if e.CORE else e.load_error() or 'their references (make -B setup tries anew)')"
	@touch $@

# By name: pip finds the package installed, and adds the packages of an extra without building it again.
$(HAVE_TOOLS): $(HAVE_FASTI3D)
	@echo "setup: what the tests and checks need"
	@$(PIP) install "fasti3d[dev,ray]" "torch==$(TORCH)"
	@touch $@

$(HAVE_PEERS): $(HAVE_TOOLS)
	@echo "setup: what the benchmarks compare with"
	@$(PIP) install "fasti3d[bench]" "torch==$(TORCH)"
	@touch $@

# With what the tests need, among which are the adapters' packages that the API's pages import.
$(HAVE_DOCS): $(HAVE_TOOLS)
	@echo "setup: what the site is made with"
	@$(PIP) install "fasti3d[docs]" "torch==$(TORCH)"
	@touch $@

# For tests/ops/test_older_toolchain.py, in a folder beside the installed one; numpy 2.4 breaks its interpreter.
$(HAVE_OLDER_TRITON): $(HAVE_TORCH)
	@echo "setup: Triton 3.6 besides, for the tests"
	@rm -rf $(VENV)/triton-3.6
	@$(PIP) install --target $(VENV)/triton-3.6 --no-deps "numpy<2.4" \
		"triton==3.6.0; platform_system == 'Linux' and platform_machine == 'x86_64'"
	@touch $@

demo: $(HAVE_FASTI3D)
	@$(BIN)/fasti3d demo $(if $(VIDEO),"$(VIDEO)")

# Threads that spin while they wait for each other would take the cores from the other processes.
test test-isa: export OMP_WAIT_POLICY := passive
PARALLEL := -n auto --maxprocesses 8 --dist worksteal

test: setup $(HAVE_OLDER_TRITON)
	@echo "test: pytest"
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

# Sets the extension up as on an older CPU.
LOWER_ISAS = $(BIN)/python -c "from fasti3d.runtime import extension as e; \
	sets = e.build_info()['instruction_sets'] if e.CORE else (); print(*sets[:sets.index(e.instruction_set())] if sets else ())"

test-isa: setup
	@set -e; for isa in $$($(LOWER_ISAS)); do \
		echo "test-isa: $$isa"; \
		FASTI3D_ISA=$$isa $(BIN)/python -m pytest -q -m isa $(PARALLEL) $(ARGS); \
	done

test-neon: setup
	@$(BIN)/python tests/neon/neon.py $(ARGS)

bench: $(HAVE_PEERS)
	@echo "bench: pytest benchmarks"
	@mkdir -p .benchmarks
	@$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-json=.benchmarks/latest.json $(ARGS)
	@$(BIN)/python benchmarks/report.py .benchmarks/latest.json

# A broken link or anchor, or a public name without a place, is an error. The variable: no notice of other versions.
docs: $(HAVE_DOCS)
	@echo "docs: mkdocs, into build/docs"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(or $(ARGS),build)

sanitize: setup
	@$(BIN)/python tests/campaign/sanitize.py $(ARGS)

lint: setup
	@echo "lint: ruff, mypy, clang-format"
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run -Werror $(CSRC) $(NEON)

format: setup
	@echo "format: ruff, clang-format"
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@$(BIN)/clang-format -i $(CSRC) $(NEON)

clean:
	@echo "clean: .venv, builds, caches"
	@rm -rf $(VENV) build dist demo *.egg-info fasti3d/_C*.so .benchmarks .pytest_cache .ruff_cache .mypy_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
