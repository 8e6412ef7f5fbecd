# make demo: from nothing to a filled table.  make test: the tests.  See README.md.
#
# PYTHON=/path/to/python  uses that interpreter, which has everything, and installs nothing
# WHEELHOUSE=dir          installs from the wheels in dir, without the package index;
#                         `make wheelhouse WHEELHOUSE=dir` fills it where there is one

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
VENV := .venv

ifdef PYTHON
PY := $(PYTHON)
READY :=
else
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
endif

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
ifdef WHEELHOUSE
SOURCE := --no-index --find-links $(abspath $(WHEELHOUSE))
endif

DEMO := runs/demo
SMOKE := runs/smoke

# Python files only: its wheel names another Python because of a compiled part that is not used.
DETECTRON2 := --require-hashes --no-deps --only-binary=:all: --python-version 3.10 \
	--implementation cp --abi none --platform any -r requirements-detectron2.txt

.PHONY: install wheelhouse demo demo-all test test-slow smoke scenes-replicate lint format \
	gpu-check

install: $(READY)

# lvis is installed without its dependencies: they would bring an OpenCV that needs libGL.
# Detectron2's wheel also has a stray top-level `tools`.
$(VENV)/.installed: requirements.txt constraints.txt requirements-detectron2.txt
	python3 -m venv $(VENV)
	$(PIP) install $(SOURCE) -r requirements.txt -c constraints.txt
	$(PIP) install $(SOURCE) --no-deps -c constraints.txt lvis
	site=$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	rm -rf "$$site/detectron2" "$$site"/sal_detectron2-*; \
	$(PIP) install $(SOURCE) $(DETECTRON2) --target "$$site"; \
	rm -rf "$$site"/detectron2/_C*.so "$$site/tools"
	touch $@

wheelhouse:
	python3 -m pip wheel -r requirements.txt -c constraints.txt -w "$(WHEELHOUSE)"
	python3 -m pip wheel --no-deps -c constraints.txt -w "$(WHEELHOUSE)" lvis
	python3 -m pip download $(DETECTRON2) -d "$(WHEELHOUSE)"

demo: $(READY)
	$(PY) -m benchmarks.scenes $(DEMO)/scenes --easy --images 2000 --train 400 --val 200 --size 256
	$(PY) -m pretrain --config-file configs/pretrain/demo.yaml --resume
	$(PY) -m benchmarks run --config-file configs/benchmarks/demo.yaml --output $(DEMO)/results
	$(PY) -m pretrain.visualize $(DEMO)/pretrain $(DEMO)/scenes/coco/val2017/000001000001.jpg \
		--output $(DEMO)/results/clove/pictures
	$(PY) -m benchmarks collect $(DEMO)/results
	$(PY) -m benchmarks report $(DEMO)/results

demo-all: demo
	$(PY) -m benchmarks run --config-file configs/benchmarks/demo-all.yaml --output $(DEMO)/results
	$(PY) -m benchmarks collect $(DEMO)/results
	$(PY) -m benchmarks report $(DEMO)/results

# Two files at a time, each on one core
test: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m pytest -m "not slow" -n 2 --dist loadfile

# In two halves at a time, each on one core; that of transfer is printed last
test-slow: $(READY)
	export OMP_NUM_THREADS=1; log=$$(mktemp); \
	$(PY) -m pytest -m slow tests/transfer > $$log 2>&1 & transfer=$$!; \
	$(PY) -m pytest -m "slow or fault" --ignore=tests/transfer || failed=1; \
	wait $$transfer || failed=1; cat $$log; rm $$log; exit $${failed:-0}

smoke: $(READY)
	$(PY) -m benchmarks.scenes $(SMOKE)/scenes --images 8 --train 24 --val 10 --size 96
	$(PY) -m benchmarks run --config-file configs/benchmarks/smoke.yaml --output $(SMOKE)/results
	$(PY) -m benchmarks collect $(SMOKE)/results
	$(PY) -m benchmarks report $(SMOKE)/results

# One replicate of the scenes benchmark: hours; the same command goes on where it was interrupted
scenes-replicate: $(READY)
	$(if $(SEED),,$(error SEED is missing: make scenes-replicate SEED=100; below 100 is for tuning))
	$(PY) -m benchmarks.evidence replicate --seed $(SEED)

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(READY)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

gpu-check: $(READY)
	$(PY) -m benchmarks.speed.gpu_check
