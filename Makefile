# Each target builds the virtual environment it needs, once; VENV names another place for it.
PYTHON ?= python3
VENV ?= .venv
STAMP := $(VENV)/.installed

.PHONY: demo test lint bench fuzz

demo: $(STAMP)
	$(VENV)/bin/flyweight compress resnet20 -o resnet20.fly --recipe quick

test: $(STAMP)
	$(VENV)/bin/python -m pytest

lint: $(STAMP)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

fuzz: $(STAMP)
	$(VENV)/bin/python tests/hostile/fuzz.py --cases 200000

bench: $(STAMP)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt --group bench
	taskset -c 0 $(VENV)/bin/python -m benchmarks.coders
	$(VENV)/bin/python -m benchmarks.training

# pip learned --group in 25.1; what comes with Python may be older.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt "pip>=25.1"
	$(VENV)/bin/python -m pip install --quiet -c constraints.txt -e . --group dev
	touch $@
