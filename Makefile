# Each target makes .venv and installs requirements.txt into it on first use.
# With another interpreter: make lab PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
INSTALLED := $(VENV)/requirements.txt
NOTEBOOKS ?= $(sort $(wildcard notebooks/*.ipynb))
# TORCH=cpu installs PyTorch's own build without CUDA.
INDEX := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu)

# Threads that wait must not spin: on busy cores that makes torch 50 times slower.
export OMP_WAIT_POLICY = PASSIVE
export GOMP_SPINCOUNT = 0
# Freed memory stays with the process, which soon needs it again: a tenth off large pictures, on Linux.
export MALLOC_MMAP_THRESHOLD_ = 2147483648
export MALLOC_TRIM_THRESHOLD_ = 4294967296
# The packages of an environment that happens to be active stay out.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME

.PHONY: help lab train test test-slow test-gpu test-browser tour sync bench refresh release badges book

help:
	@echo "make lab      open JupyterLab on the first chapter (TORCH=cpu: a smaller download, without CUDA)"
	@echo "make tour     run the first chapter without a browser, leave it and its first picture in out/"
	@echo "make train    train everything from random weights, to OUT=out/train (PROFILE=gpu, TRAIN=--resume)"
	@echo "make test     run every test and every notebook"
	@echo "make test-slow  run what is slow and rarely breaks, such as the full size of Stable Diffusion v1 (8 GB of memory)"
	@echo "make test-gpu   compare a GPU's pictures with the CPU's, train, run chapters, and time it beside diffusers"
	@echo "make test-browser  open chapters in JupyterLab in a headless Chromium, run them, move a slider"
	@echo "make sync     copy the package's definitions into the notebooks that show them"
	@echo "make bench    time sampling beside diffusers (BENCH=--sd for the size of Stable Diffusion v1, too)"
	@echo "make refresh  run the notebooks and store their outputs (NOTEBOOKS=notebooks/00_tour.ipynb for one)"
	@echo "make release  write the student edition, without solutions and outputs, to out/release"
	@echo "make book     write the chapters as a website with search and folded solutions, to out/book; runs nothing"
	@echo "make badges   write Colab badges and clone commands (REPO=owner/name on GitHub, or REPO=none)"

lab: $(INSTALLED)
	$(VENV)/bin/jupyter lab notebooks/00_tour.ipynb

tour: $(INSTALLED)
	$(VENV)/bin/python -m ldm_edu.course.refresh --out out notebooks/00_tour.ipynb

# Every network from random weights, the model card's tables, the pictures of the README. TRAIN=--resume continues a
# killed run.
PROFILE ?= cpu
OUT ?= out/train
# Training has both cores to itself for hours. There, threads that spin while they wait cut a step's time by a third.
train: export GOMP_SPINCOUNT = 100000
train: $(INSTALLED)
	$(VENV)/bin/python -m ldm_edu.recipes all --profile $(PROFILE) --out $(OUT) $(TRAIN)
	$(VENV)/bin/python -m ldm_edu.course.readme_figures $(OUT)/tiny-worlds --out $(OUT)/samples
	@cat $(OUT)/training/summary.md

# Two workers with one thread each; a file stays with one worker, the long ones first.
test: export OMP_NUM_THREADS = 1
test: $(INSTALLED)
	$(VENV)/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 --nbval --nbval-current-env \
	    --nbval-sanitize-with=tests/nbval_sanitize.cfg --nbval-cell-timeout=300 \
	    notebooks tests/test_pipeline.py tests/doctor tests/recipes tests

# In JupyterLab itself, in a headless Chromium.
test-browser: $(INSTALLED)
	$(VENV)/bin/python -m pip install -q 'playwright>=1.45'
	$(VENV)/bin/pytest -q tests/course/browser.py

# At the full size of Stable Diffusion v1, with random weights; the card on more prompts; more faults for the doctor; the
# studies' commands from end to end.
# Figures stand under PASSES.
test-slow: $(INSTALLED)
	$(VENV)/bin/pytest --slow -m slow -rP tests

# What a GPU must show, under ten minutes; skipped where there is none.
test-gpu: $(INSTALLED)
	$(VENV)/bin/pytest -rPs tests/test_gpu.py
	$(VENV)/bin/python -m ldm_edu.studies bench --sd --pairs 3

sync: $(INSTALLED)
	$(VENV)/bin/python -m ldm_edu.course.sync

bench: $(INSTALLED)
	$(VENV)/bin/python -m ldm_edu.studies bench $(BENCH)

refresh: $(INSTALLED)
	$(VENV)/bin/python -m ldm_edu.course.refresh $(NOTEBOOKS)

release: $(INSTALLED)
	$(VENV)/bin/python -m ldm_edu.course.release --out out/release $(NOTEBOOKS)

badges: $(INSTALLED)
	$(VENV)/bin/python -m ldm_edu.course.badges $(REPO)

# From the stored outputs. A broken link is an error. GitHub Pages takes out/book as it is.
book: $(INSTALLED)
	$(VENV)/bin/python -m pip install -q 'myst-nb>=1.3' 'sphinx-book-theme>=1.1'
	rm -rf out/book out/jupyter_execute
	$(VENV)/bin/sphinx-build -qEW --keep-going -c notebooks/book -d out/book-doctrees . out/book
	cp out/book/README.html out/book/index.html
	@echo "out/book/index.html, $$(du -sh out/book | cut -f1)"

# The copy of requirements.txt says what is installed: a touched file with the same text installs nothing.
$(INSTALLED): requirements.txt
	@cmp -s $< $@ || { set -ex; \
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Needs Python 3.11: make PYTHON=python3.11")'; \
	$(PYTHON) -m venv $(VENV); \
	$(VENV)/bin/python -m pip install $(INDEX) -r requirements.txt; \
	cp $< $@; }
