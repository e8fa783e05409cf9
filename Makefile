# Everything runs in a virtual environment that the first command makes.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed
SWEEPS := .venv/.sweeps
RECIPES := .venv/.recipes
TFLITE := .venv-tflite

.PHONY: help example test lint types unit test-light test-sweeps test-recipes test-tflite soak bench schema version clean

help:
	@echo "make example      train CartPole, write best_model.onnx, play it"
	@echo "make test         lint, check types, run the tests"
	@echo "make test-light   install numpy, onnxruntime and msgspec alone, from PyPI, and run a policy"
	@echo "make test-sweeps  run the examples of sweeps with Ray, Optuna and an S3 server"
	@echo "make test-recipes run the recipes of docs/recipes.md with ExecuTorch, OpenVINO and coremltools"
	@echo "make test-tflite  convert policies to TFLite in an environment of its own, and play them"
	@echo "make soak         run the long tests: drawn spaces, killed trainings, damaged files"
	@echo "make bench        what it costs, beside Stable-Baselines3 itself"
	@echo "make schema       write the JSON Schemas in docs/ anew"
	@echo "make version      write a file of this version of the record, for the tests of later ones"
	@echo "make clean        remove what these made"

# torch comes first and pinned: left to itself, pip would take whatever is newest.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[contrib]' --group dev
	@touch $@

example: $(INSTALLED)
	$(BIN)/python examples/train_cartpole.py

test: lint types unit

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/vermin --quiet --no-tips --violations --target=3.10- sb3_clanker examples

types: $(INSTALLED)
	$(BIN)/mypy

unit: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

test-light: $(INSTALLED)
	$(BIN)/python -m pytest -m light

$(SWEEPS): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group sweeps
	@touch $@

test-sweeps: $(SWEEPS)
	$(BIN)/python -m pytest -m sweeps tests/sweeps

$(RECIPES): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group recipes
	@touch $@

test-recipes: $(RECIPES)
	$(BIN)/python -m pytest -m recipes tests/test_recipes.py

# An environment of its own: what converts to TFLite pins much, and is larger than all the rest.
$(TFLITE)/.installed: pyproject.toml constraints.txt examples/tflite/requirements.txt
	$(PYTHON) -m venv $(TFLITE)
	$(TFLITE)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(TFLITE)/bin/python -m pip install --quiet --constraint constraints.txt --editable .
	$(TFLITE)/bin/python -m pip install --quiet --constraint constraints.txt --requirement examples/tflite/requirements.txt
	@touch $@

test-tflite: $(TFLITE)/.installed
	$(TFLITE)/bin/python examples/tflite/compare.py

soak: $(INSTALLED)
	$(BIN)/python -m pytest -m slow --numprocesses auto --dist loadfile

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

schema: $(INSTALLED)
	$(BIN)/sb3-clanker schema record > docs/policy-record.schema.json
	$(BIN)/sb3-clanker schema vectors > docs/test-vectors.schema.json

version: $(INSTALLED)
	$(BIN)/python -m tests.policy_file.version_file

clean:
	rm -rf .venv $(TFLITE) runs .mypy_cache .pytest_cache .ruff_cache .import_linter_cache *.egg-info
