# Every target sets up what it needs by itself; `make` alone says what there is.

venv := .venv
ready := $(venv)/.ready
bin := $(venv)/bin
scripts := tests/setup.sh tests/fresh.sh .ci/run

.PHONY: help demo test lint lock bench production soak fuzz scale torture regress mutants versions coverage image fresh clean setup

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(ready)  ## back up, lose and restore a database on a throw-away server
	@$(bin)/pgkeep demo

test: lint setup  ## lint, then run the tests; PYTEST_ARGS="-k name" is passed on
	$(bin)/pytest -n $$(($$(nproc) + 1)) --dist=worksteal $(PYTEST_ARGS)

lint: $(ready)  ## check style, types, the direction of imports, shell scripts
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports
	@if command -v shellcheck >/dev/null; then set -x; shellcheck $(scripts); fi

lock: $(ready)  ## write the exact versions of the image, with hashes; LOCK_ARGS="--upgrade"
	$(bin)/pip install --quiet --disable-pip-version-check 'uv>=0.5'
	$(bin)/uv pip compile pyproject.toml --quiet $(LOCK_ARGS) --python-version 3.11 \
		--python-platform linux --extra age --extra drill --extra metrics --extra s3 --extra serve \
		--generate-hashes --no-annotate --custom-compile-command "make lock" \
		--output-file 'template/{{cookiecutter.project_slug}}/scripts/requirements.lock'

bench: $(ready) setup  ## measure against pg_dump and pg_restore, fail if slower than recorded (30 minutes); BENCH_ARGS="--help"
	$(bin)/python -m bench $(BENCH_ARGS)

production: $(ready) setup  ## measure what pgkeep does to an application at work (25 minutes); PRODUCTION_ARGS="--help"
	$(bin)/python -m bench.production $(PRODUCTION_ARGS)

soak: $(ready) setup  ## receive WAL for two hours beside faults, restore random seconds; SOAK_ARGS="--help"
	$(bin)/python -m bench.soak $(SOAK_ARGS)

scale: $(ready) setup  ## measure how time and memory grow with tables, backups, WAL ...; SCALE_ARGS="--help"
	$(bin)/python -m bench.scale $(SCALE_ARGS)

torture: $(ready) setup  ## run random operations beside random faults (30 minutes), check everything; TORTURE_ARGS="--help"
	@tests/setup.sh torture
	$(bin)/python -m bench.torture $(TORTURE_ARGS)

fuzz: $(ready)  ## give changed bytes to everything that reads files (90 minutes); FUZZ_ARGS="--help"
	$(bin)/pip install --quiet --disable-pip-version-check 'atheris>=3,<4'
	$(bin)/python -m tests.fuzz $(FUZZ_ARGS)

regress: $(ready) setup  ## back up and restore PostgreSQL's own regression database in every way
	@tests/setup.sh regress
	$(bin)/python -m tests.regression $(REGRESS_ARGS)

mutants: $(ready) setup  ## plant bugs one at a time, see which test notices each; MUTANTS_ARGS="--help"
	$(bin)/python -m tests.mutants $(MUTANTS_ARGS)

coverage: $(ready) setup  ## run all tests and measure the branches that they execute (40 minutes); COVERAGE_ARGS="--help"
	$(bin)/python -m tests.branch_coverage $(COVERAGE_ARGS)

versions: $(ready) setup  ## back up and restore every supported version of PostgreSQL (15 minutes); VERSIONS_ARGS="--help"
	$(bin)/python -m tests.versions $(VERSIONS_ARGS)

image: $(ready) setup  ## build the template's image and use it: backup, verify, drill, restore (3 minutes)
	@tests/setup.sh image
	$(bin)/python -m tests.image

fresh:  ## run README's commands in a bare Debian 12 and 13 (an hour); FRESH_ARGS="--help"
	@tests/fresh.sh $(FRESH_ARGS)

clean:  ## remove everything that was made here
	rm -rf $(venv) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .mutants_cache
	find . -name __pycache__ -type d -exec rm -rf {} +

setup: $(ready)
	@tests/setup.sh

$(ready): pyproject.toml
	@tests/setup.sh python
	@touch $@
