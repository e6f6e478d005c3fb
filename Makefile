# Needs only python3 (3.11 or newer) and make; everything else goes into .venv and build.
PYTHON = python3
PORT = 8000
VENV = .venv/bin
# What is generated is checked as a user gets it, by the tests.
SOURCES = answer_checks.py hooks kubernetes/hooks core tests benchmarks scripts

.PHONY: help demo example test test-all stop-table bench screenshots docs check format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s%s\n", $$1, $$2 }' Makefile

demo: .venv/installed  ## generate the default project into build/ and serve it
	rm -rf build/my_site
	mkdir -p build
	PATH="$(CURDIR)/$(VENV):$$PATH" $(VENV)/cookiecutter --no-input --output-dir build .
	cd build/my_site && ../../$(VENV)/uv run manage.py migrate
	cd build/my_site && ../../$(VENV)/uv run uvicorn my_site.asgi:application --port $(PORT)

example: .venv/installed  ## write the default project into example/, where visitors read it
	rm -rf example/my_site
	$(VENV)/cookiecutter --no-input --output-dir example . >/dev/null
	rm -f example/my_site/.env example/my_site/uv.lock

test: .venv/installed check  ## the tests: each pair of answers; UV_PYTHON=3.12 tests projects on that Python
	$(VENV)/pytest --numprocesses auto --dist worksteal

test-all: .venv/installed check  ## every combination of answers, too
	$(VENV)/pytest --numprocesses auto --dist worksteal -m ""

stop-table: .venv/installed  ## measure how each server stops, for docs/explanation/servers.md
	WRITE_STOP_TABLE=1 $(VENV)/pytest tests/test_stops.py

bench: .venv/installed  ## measure side by side with stock Django and WSGI; needs wrk, takes half an hour
	PATH="$(CURDIR)/$(VENV):$$PATH" $(VENV)/python benchmarks/run.py
	$(VENV)/python benchmarks/chart.py

screenshots: .venv/installed  ## take the README's pictures; needs Chromium
	PATH="$(CURDIR)/$(VENV):$$PATH" $(VENV)/python scripts/screenshots.py

docs: .venv/installed  ## write the reference from the code, and build the site from docs/ into site/
	$(VENV)/python scripts/reference.py
	$(VENV)/zensical build --clean --strict

check: .venv/installed  ## what CI checks besides the tests
	$(VENV)/ruff check $(SOURCES)
	$(VENV)/ruff format --check $(SOURCES)
	$(VENV)/mypy
	$(VENV)/codespell
	$(VENV)/python scripts/prose.py

format: .venv/installed  ## apply ruff's fixes
	$(VENV)/ruff check --fix $(SOURCES)
	$(VENV)/ruff format $(SOURCES)

clean:  ## delete .venv/, build/ and site/
	rm -rf .venv build site

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(VENV)/python -m pip install --quiet uv
	VIRTUAL_ENV="$(CURDIR)/.venv" $(VENV)/uv pip install --quiet --requirements pyproject.toml --group test
	touch $@
