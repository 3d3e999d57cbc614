# make test: builds everything and runs all tests but the nightly ones; a table of times at the end.
# make demo: the main job on the default model.
# make nightly: what takes too long for every push, beside make test and make demo.
# Needs Python 3.10+, a C++20 compiler and pip; everything goes into .venv and .build.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Modules compile when they are first imported, most of them never.
PIP := pip install -q --disable-pip-version-check --no-compile
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
TREE := .build/main
# Python tests run in so many processes of one thread each; 0: in one process with all threads.
WORKERS ?= 2
SITE = $(shell $(BIN)/python -c "import sysconfig; print(sysconfig.get_path('platlib'))")
SOURCES := $(shell git ls-files CMakeLists.txt cmake include src python tests/cpp pyproject.toml 2>/dev/null)

export PATH := $(CURDIR)/$(BIN):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)
export HF_HUB_OFFLINE ?= 1
# Compiled modules are kept, whatever the shell says: `import cna` takes 2.6 s with them, 5.8 s without.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help test nightly companions models venv build headers demo demo-check docs lint format cpp-tests python-tests \
  python-nightly python-threads newest oldest other-libraries sanitize fuzz fuzz-circuit fuzz-gguf fuzz-nightly \
  bench bench-check stubs notebooks plots clean

help:
	@grep -E '^# make' Makefile | sed 's/^# //'

$(VENV)/.ready: $(wildcard requirements/*.txt)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP) -r requirements/dev.txt
	$(BIN)/$(PIP) -c requirements/dev.txt -r requirements/evaluation.txt
	$(BIN)/$(PIP) --no-deps -r requirements/no-deps.txt
	$(BIN)/$(PIP) --no-deps --ignore-requires-python comma-deps-catch2==2.13.10.post96
	touch $@

# One build tree serves the Python package and the C++ tests.
$(VENV)/.installed: $(VENV)/.ready $(SOURCES)
	$(BIN)/pip uninstall -q -y cna 2>/dev/null  # the distribution's name before cna-neurons
	$(BIN)/$(PIP) --no-build-isolation --no-deps . \
	  -Cbuild-dir=$(TREE) -Ccmake.define.CNA_WERROR=ON -Ccmake.define.CNA_TESTS=ON
	touch $@

test:
	@MAKE="$(MAKE)" scripts/stages.sh venv lint+build sanitize+cpp-tests+docs python-tests fuzz

nightly:
	@MAKE="$(MAKE)" scripts/stages.sh -k venv build headers python-nightly python-threads models \
	  fuzz-nightly

# make companions: the Python tests beside the newest releases and transformers 5.0, and other libraries
companions:
	@MAKE="$(MAKE)" scripts/stages.sh -k newest oldest other-libraries

# make other-libraries: circuits in TransformerLens and nnsight, in an environment over this one
$(VENV)-other/.ready: requirements/other-libraries.txt $(VENV)/.ready
	$(PYTHON) -m venv $(VENV)-other
	echo $(SITE) > $$($(VENV)-other/bin/python -c "import sysconfig; print(sysconfig.get_path('platlib'))")/dev.pth
	$(VENV)-other/bin/$(PIP) --no-deps -r $<
	touch $@

other-libraries: $(VENV)/.installed $(VENV)-other/.ready
	cd tests/other && PYTHONPATH=../python $(CURDIR)/$(VENV)-other/bin/python -m pytest -q \
	  -p no:cacheprovider -W ignore -c /dev/null --rootdir . test_hooks.py

# make models: what cna does with every model type of transformers: the table that `cna models` prints, and
# docs/models.md; fails where a type is wrong or ends in a raw error
models: $(VENV)/.installed
	cd tests/python && $(CURDIR)/$(BIN)/python -m models --jobs $(WORKERS) --into $(CURDIR)/.build/models

venv: $(VENV)/.ready $(VENV)-docs/.ready

build: $(VENV)/.installed

cpp-tests: $(VENV)/.installed
	ctest --test-dir $(TREE) --output-on-failure

python-tests: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) --durations=25 --durations-min=4

python-nightly: $(VENV)/.installed
	$(BIN)/python -m pytest -n $(WORKERS) -m nightly --durations=10 tests/python tests/demo

# With all threads in one process: sums of several threads give the numbers of the oracles too.
python-threads: $(VENV)/.installed
	$(BIN)/python -m pytest -n 0 tests/python/circuits tests/python/analysis tests/python/hosts/test_hosts.py

# Each in an environment of its own (see scripts/companions.sh).
newest oldest:
	PYTHON="$(PYTHON)" WORKERS=$(WORKERS) scripts/companions.sh $@

lint: $(VENV)/.ready
	$(BIN)/ruff check python tests benchmarks fuzz
	$(BIN)/ruff format --check python tests benchmarks fuzz
	$(BIN)/mypy
	PYTHONPATH=python $(BIN)/lint-imports
	git ls-files '*.hpp' '*.cpp' | xargs $(BIN)/clang-format --dry-run --Werror
	! grep -lE '#include *<(torch|ATen|c10)/' include/cna/*.hpp  # the core knows no torch

format: $(VENV)/.ready
	$(BIN)/ruff check --fix python tests benchmarks fuzz
	$(BIN)/ruff format python tests benchmarks fuzz
	git ls-files '*.hpp' '*.cpp' | xargs $(BIN)/clang-format -i

demo: $(VENV)/.installed
	$(BIN)/cna demo --out demo-out

demo-out/report.html:
	$(MAKE) demo

# make demo-check: the demo's numbers counted again from its own files, and the default model's tests
demo-check: demo-out/report.html
	$(BIN)/python -m pytest -n $(WORKERS) -m "smollm2 and not nightly" \
	  tests/demo tests/python/docs/test_notebooks.py tests/python/ship/test_convert.py

# make headers: every header alone, once with torch and once where no torch is looked for, and every source
# without the neighbours that it is compiled with otherwise
headers: $(VENV)/.ready
	cmake -S . -B .build/headers -G Ninja -DCMAKE_PREFIX_PATH=$(SITE) -DCNA_TESTS=ON \
	  -DCNA_HEADER_TESTS=ON -DCNA_WERROR=ON -DCNA_UNITY=OFF
	cmake --build .build/headers -j$(JOBS) --target cna_headers_alone cna_torch
	cmake -S . -B .build/headers-core -G Ninja -DCMAKE_PREFIX_PATH=$(SITE) -DCNA_TORCH=OFF \
	  -DCNA_TESTS=ON -DCNA_HEADER_TESTS=ON -DCNA_WERROR=ON
	cmake --build .build/headers-core -j$(JOBS) --target cna_headers_alone

# make sanitize: the C++ tests under AddressSanitizer and UBSan; the first report is an error
SANITIZE := .build/sanitize
sanitize: $(VENV)/.installed
	cmake -S . -B $(SANITIZE) -G Ninja -DCMAKE_PREFIX_PATH=$(SITE) -DCNA_TESTS=ON \
	  -DCNA_INSTALL=OFF -DCNA_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=Debug \
	  -DCMAKE_CXX_FLAGS_DEBUG="-O0 -g1 -D_GLIBCXX_ASSERTIONS"
	cmake --build $(SANITIZE) -j$(JOBS) --target cna_core_tests cna_torch_tests
	ctest --test-dir $(SANITIZE) --output-on-failure

# make docs: the documentation site in .build/site, warnings are errors
$(VENV)-docs/.ready: docs/requirements.txt
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/$(PIP) -r docs/requirements.txt
	touch $@

docs: $(VENV)-docs/.ready
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build -q --strict -d .build/site

# make fuzz: the circuit reader and the GGUF patcher side by side, as many seconds each
SECONDS ?= 20
fuzz: $(VENV)/.installed
	$(MAKE) -j2 --output-sync=target fuzz-circuit fuzz-gguf

fuzz-circuit fuzz-gguf: fuzz-%:
	fuzz/run.sh $(SECONDS) $*

fuzz-nightly:
	$(MAKE) fuzz SECONDS=600

# make plots: the figures of docs/plots.md, after make demo
plots: $(VENV)/.installed
	$(BIN)/python scripts/plots.py

# make notebooks: runs the examples at full size and keeps their outputs (some minutes)
notebooks: $(VENV)/.installed
	$(BIN)/python scripts/notebooks.py

# make stubs: the types of what C++ binds
stubs: $(VENV)/.installed
	$(BIN)/python scripts/stubs.py

# make bench: the table of docs/benchmarks.md (peers in their own environment, see benchmarks/)
bench: $(VENV)/.installed
	$(BIN)/python benchmarks/run.py --docs docs/benchmarks.md

# make bench-check: the ratios to tuned hooks measured again, against those of docs/benchmarks.md
bench-check: $(VENV)/.installed
	$(BIN)/python benchmarks/check.py

clean:
	rm -rf $(VENV) $(VENV)-newest $(VENV)-oldest $(VENV)-other .build demo-out
