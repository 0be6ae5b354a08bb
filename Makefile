# The front door. `make` alone prints what there is.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PINS   := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.SILENT:
.PHONY: help check list hint reveal reset watch stop notebook debug train course matrix doctor new stubs lessons test test-course bench clean

help: ## print these lines
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

# A stamp for each set of packages; a second call finds it and costs nothing.
$(PY):
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed; name one with PYTHON=") if sys.version_info < (3, 10) else 0'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: $(PINS) | $(PY)
	echo "Setting up $(VENV), once; PyTorch is large ..."
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.ready-train: $(PINS) $(VENV)/.ready
	echo "Adding what draws curves ..."
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train]'
	touch $@

$(VENV)/.ready-notebook: $(PINS) $(VENV)/.ready
	echo "Adding JupyterLab and nbgrader ..."
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[notebook]'
	touch $@

$(VENV)/.ready-dev: $(PINS) $(VENV)/.ready
	echo "Adding the developers' tools ..."
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

check: $(VENV)/.ready ## grade your answer: TOPIC=attention [FILE=] [NOTEBOOK=1] [SEED=] [ALL=1] [JSON=1]; without TOPIC all you have started
	$(PY) -m kata check $(TOPIC) $(if $(FILE),--file '$(FILE)') $(if $(NOTEBOOK),--notebook) $(if $(SEED),--seed $(SEED)) $(if $(ALL),--all) $(if $(JSON),--json)

list: $(VENV)/.ready ## the journey, with what is done
	$(PY) -m kata list

hint: $(VENV)/.ready ## one more hint each time: TOPIC=
	$(PY) -m kata hint $(TOPIC)

reveal: $(VENV)/.ready ## the solution, after an attempt of your own: TOPIC= [FORCE=1]
	$(PY) -m kata reveal $(TOPIC) $(if $(FORCE),--force)

reset: $(VENV)/.ready ## bring the stub back, keeping a copy of your work: TOPIC= [YES=1]
	$(PY) -m kata reset $(TOPIC) $(if $(YES),--yes)

watch: $(VENV)/.ready ## grade at every save: [TOPIC=]
	$(PY) -m kata watch $(TOPIC)

stop: $(VENV)/.ready ## end the process that keeps PyTorch warm between checks
	$(PY) -m kata stop

notebook: $(VENV)/.ready-notebook ## open a lesson in JupyterLab: TOPIC=
	$(PY) -m kata notebook $(TOPIC)

debug: $(VENV)/.ready ## run one check where breakpoints work: TOPIC= CHECK=
	$(PY) -m kata debug $(TOPIC) $(CHECK)

train: $(VENV)/.ready-train ## your answer on real data: TOPIC=transformer, gpt, vit or rag [FILE=]
	$(PY) -m kata train $(TOPIC) $(if $(FILE),--file '$(FILE)')

course: $(VENV)/.ready-notebook ## write an nbgrader course to course/, release included: [TOPIC=]
	$(PY) -m kata course $(TOPIC)

matrix: $(VENV)/.ready ## which check catches which mistake: TOPIC= (for developers)
	$(PY) -m kata matrix $(TOPIC)

doctor: $(VENV)/.ready ## say which protections are active on this machine
	$(PY) -m kata doctor

new: $(VENV)/.ready ## lay out the files of a new topic: TOPIC=2_blocks/swiglu
	$(PY) -m kata new $(TOPIC)

stubs: $(VENV)/.ready ## write what is generated: stubs and the table of topics (for developers)
	$(PY) -m kata stubs

lessons: $(VENV)/.ready-notebook ## build and run the notebooks: [TOPIC=] (for developers)
	$(PY) -m kata lessons $(TOPIC)

test: $(VENV)/.ready-dev ## lint, types, and the tests of graders and tool
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -n 2 --dist loadgroup --ignore tests/course

test-course: $(VENV)/.ready-dev $(VENV)/.ready-notebook ## run every notebook, and a course from release to grades, with nbgrader
	$(PY) -m pytest -n 2 --dist loadgroup tests/course

bench: $(VENV)/.ready-dev ## measure how long feedback takes
	$(PY) -m tests.bench

clean: ## remove .venv; your work stays
	rm -rf $(VENV)
