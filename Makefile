# Everything a newcomer needs: `make demo` and `make test`. Nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: demo test lint oldest-ray clean

demo: $(VENV)/.ready
	@$(BIN)/kdsweep run search_spaces/quickstart.yaml
	@$(BIN)/kdsweep fit quickstart
	@echo; echo 'The best student below 20,000 parameters:'
	@$(BIN)/kdsweep query quickstart --max-params 20000

# Three processes for two cores: those with the real Slurm's tests and with Ray's wait most of the time. `pytest` alone is one.
test: $(VENV)/.ready-test
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n 3

# The tests of what is used of Ray beyond its public interface, with the oldest Ray that pyproject.toml allows.
oldest-ray: $(VENV)/.ready-test
	@oldest=$$(sed -n 's/.*"ray\[.*\]>=\([0-9.]*\),.*/\1/p' pyproject.toml); \
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/oldest-ray "ray==$$oldest.0" && \
	PYTHONPATH=$(VENV)/oldest-ray $(BIN)/python -m pytest -p no:cacheprovider tests/orchestrator/run/test_ray_internals.py

lint: $(VENV)/.ready-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# torch first and alone: it fixes which build everything after it sees.
$(VENV)/.ready: pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo 'Creating $(VENV) (once, a few minutes)'; $(PYTHON) -m venv $(VENV); }
	@echo 'Installing the pinned dependencies'
	@$(PIP) torch
	@$(PIP) --editable .
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready
	@echo 'Installing the test extras'
	@$(PIP) --editable '.[test,edge,postgres]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info
