# Sets up, runs, tests, measures and checks fasti3d; every target creates what it needs.
#
#   make demo              what people do in a sample clip (VIDEO=path: in yours)
#   make test              the tests, in a process per core (ARGS="-k pool" goes on to pytest, as does "-n0 --pdb")
#   make test-isa          those that depend on the instruction set, with each lower one of this CPU
#   make test-neon         the operators on aarch64, emulated (ARGS=--install: apt fetches the tools)
#   make bench             the benchmarks and their tables (ARGS too)
#   make sanitize          the operators under GCC's sanitizers (ARGS="thread 500 7": one, cases, seed)
#   make docs              this project's site, in build/docs (ARGS=serve: at localhost, made anew at every change)
#   make wheel             what an index of packages would carry, in dist: for this machine's CPUs, and the sources
#   make wheel-aarch64     the same for the other CPUs, by a cross compiler
#   make wheel-cuda        the CUDA kernels by themselves, where torch is its build for CUDA 13 (minutes)
#   make lock              pins anew what is installed here (ARGS=--upgrade: to the newest releases)
#   make lint | format     the checks of style and types | what can be put right by itself
#   make setup | clean     set up all of it but the benchmarks' peers | remove what make and Python created
#
# PYTHON chooses the interpreter of a new .venv, TORCH the release of torch, FASTI3D_BUILD what is
# compiled (see csrc/extensions.py). WHEEL names a wheel of this version, as a file or as fasti3d==VERSION, whose
# extension is then taken, and nothing is compiled. Packages but torch's are those of requirements/*.txt. Where they come
# from, and with that whether torch is its CPU or its CUDA build, is for pip's own settings to say (PIP_INDEX_URL).

PYTHON ?= python3
TORCH ?= 2.13.0
FASTI3D_BUILD ?= auto
WHEEL ?=
VIDEO ?=
ARGS ?=
export FASTI3D_BUILD

VENV := .venv
BIN := $(VENV)/bin
# For torch, which compiles with one core where it finds no ninja there.
export PATH := $(abspath $(BIN)):$(PATH)
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
CSRC := $(shell find csrc -name '*.cpp' -o -name '*.cu' -o -name '*.h')
MACHINE := $(shell uname -m)
VERSION := $(shell sed -n 's/__version__ = "\(.*\)"/\1/p' fasti3d/version.py)
NEON := $(wildcard tests/neon/*.cpp tests/neon/*.h)

# Names of packages, their releases and the hashes of their files: nothing is left to resolve.
LOCKED := $(PIP) install --no-deps -r requirements

# What is installed; a stamp carries what it depends on in its name.
HAVE_TORCH := $(VENV)/.torch-$(TORCH)
HAVE_FASTI3D := $(VENV)/.fasti3d-$(FASTI3D_BUILD)
HAVE_TOOLS := $(VENV)/.fasti3d-tools
HAVE_PEERS := $(VENV)/.fasti3d-peers
HAVE_PACKERS := $(VENV)/.fasti3d-packers
HAVE_DOCS := $(VENV)/.fasti3d-docs
HAVE_OLDER_TRITON := $(VENV)/.triton-3.6

.PHONY: setup demo test test-isa test-neon bench docs sanitize wheel wheel-aarch64 wheel-cuda lock lint format clean
.DELETE_ON_ERROR:

setup: $(HAVE_TOOLS)

$(HAVE_TORCH):
	@echo "setup: torch $(TORCH) and the build tools, in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@rm -f $(VENV)/.torch-* $(VENV)/.fasti3d-* $(VENV)/.triton-*
	@$(LOCKED)/build.txt
	@$(PIP) install "torch==$(TORCH)"
	@touch $@

# setup.py --name tells, or fails over, what cannot be built, which pip would keep to itself. The compiler runs beside
# the downloads, and by itself, since it starts anew for every editable installation.
$(HAVE_FASTI3D): $(HAVE_TORCH) pyproject.toml setup.py fasti3d/version.py requirements/run.txt csrc/extensions.py $(CSRC)
	@echo "setup: fasti3d, $(if $(WHEEL),from $(WHEEL),compiling what has changed (a minute the first time))"
	@$(BIN)/python setup.py --name > /dev/null
	@rm -f $(VENV)/.fasti3d-* fasti3d/_C*.so
	@$(if $(WHEEL),$(UNPACKED),$(BIN)/python setup.py -q build_ext --inplace) > $(VENV)/build.log 2>&1 & built=$$!; \
		$(LOCKED)/run.txt; installed=$$?; \
		wait $$built || { cat $(VENV)/build.log; exit 1; }; \
		exit $$installed
	@FASTI3D_BUILD=none $(PIP) install --no-deps --no-build-isolation -e .
	@$(BIN)/python -c "from fasti3d.runtime import extension as e; print('setup: done, operators run', \
		f'in C++, {e.instruction_set()}' if e.CORE else e.load_error() or 'their references (make -B setup tries anew)')"
	@touch $@

# The library of a wheel, into the tree.
UNPACKED = rm -rf build/prebuilt && $(PIP) download --no-deps --only-binary :all: -d build/prebuilt "$(WHEEL)" && \
	$(BIN)/python -m zipfile -e build/prebuilt/*.whl build/prebuilt && cp build/prebuilt/fasti3d/_C*.so fasti3d/

# Naming the extras then adds Triton, in the release that torch wants, and keeps pip from replacing torch.
$(HAVE_TOOLS): $(HAVE_FASTI3D) requirements/tools.txt
	@echo "setup: what the tests and checks need"
	@$(LOCKED)/tools.txt
	@$(PIP) install "fasti3d[dev,ray]" "torch==$(TORCH)"
	@touch $@

$(HAVE_PEERS): $(HAVE_TOOLS) requirements/peers.txt
	@echo "setup: what the benchmarks compare with"
	@$(LOCKED)/peers.txt
	@touch $@

# With what the tests need, among which are the adapters' packages that the API's pages import.
$(HAVE_DOCS): $(HAVE_TOOLS) requirements/docs.txt
	@echo "setup: what the site is made with"
	@$(LOCKED)/docs.txt
	@touch $@

$(HAVE_PACKERS): $(HAVE_TORCH) requirements/wheel.txt
	@echo "setup: what makes wheels portable"
	@$(LOCKED)/wheel.txt
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

# Tried in an environment that has nothing else, and no compiler.
SMOKE := build/smoke

wheel: $(HAVE_PACKERS)
	@echo "wheel: for $(MACHINE), and the sources"
	@$(BIN)/python wheels/build.py $(MACHINE)
	@$(BIN)/python wheels/build.py sdist
	@rm -rf $(SMOKE)
	@$(PYTHON) -m venv $(SMOKE)
	@$(SMOKE)/bin/python -m pip -qq --disable-pip-version-check install "torch==$(TORCH)" dist/fasti3d-$(VERSION)-*$(MACHINE).whl
	@cd $(SMOKE) && PATH=/nonexistent CXX=/nonexistent bin/python -I ../../wheels/smoke.py

wheel-aarch64: $(HAVE_PACKERS)
	@$(BIN)/python wheels/build.py aarch64

wheel-cuda: $(HAVE_PACKERS)
	@$(BIN)/python wheels/build.py cuda13

lock: $(HAVE_TORCH)
	@$(PIP) install uv
	@$(BIN)/python requirements/lock.py $(ARGS)

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
