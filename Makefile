# `make help` lists the targets. Everything is set up on first use, in .venv.
PYTHON ?= python3
PRESET ?= quick
DATA ?=
ENV := .venv/bin
# The newest torch and torchvision that are known to work together here.
TORCH := -P torch==2.14.1 -P torchvision==0.29.1
SOURCES := $(wildcard hw2lib/*.* hw2lib/*/*.*) $(wildcard notebooks/*.ipynb notebooks/presets/*/*.yaml)
# A variable's value as one word of the shell, whatever is in it.
quoted = '$(subst ','\'',$($(1)))'
# One stamp for each choice of preset and data: the same report is not built twice.
STAMP := build/.done-$(shell printf '%s\n' $(call quoted,PRESET) $(call quoted,DATA) | cksum | tr ' ' -)

.PHONY: help report test lint publish site restore benchmark jupyter constraints clean
help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 14

report: $(STAMP)  ## run the notebooks, build the report [PRESET=quick|smoke|cpu|full DATA=folder]
	@echo "build/report.md  build/report.html  build/report.pdf"

test: .venv/done  ## all tests, the fast ones first, in two processes
	$(ENV)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: .venv/done  ## style
	$(ENV)/ruff check .
	$(ENV)/ruff format --check .

publish: $(STAMP)  ## make the built report the published one: report.md, figures/, results/, weights/
	$(ENV)/python -m hw2lib publish

site: $(STAMP)  ## build/site for a static host: the published report, and the notebooks as they ran here [PRESET, DATA]
	$(ENV)/python -m hw2lib site

restore: .venv/done  ## take the published runs as if they had been trained here: the report is then built in minutes
	$(ENV)/python -m hw2lib restore

benchmark: .venv/done  ## speed, memory and growth in one table, beside the plain implementations: minutes
	$(ENV)/python benchmarks/table.py

jupyter: .venv/done  ## open the notebooks
	$(ENV)/jupyter lab notebooks

constraints: .venv/done  ## pin all packages anew in constraints.txt
	$(ENV)/python -m pip install -q -e .[lock]
	$(ENV)/pip-compile -q --all-extras --strip-extras --no-header --no-annotate --no-emit-index-url \
		--no-emit-trusted-host --no-emit-find-links --no-emit-options --upgrade $(TORCH) -o constraints.txt pyproject.toml

clean:  ## remove what was built (not the runs, not the data)
	rm -rf build .venv

$(STAMP): .venv/done $(SOURCES)
	$(ENV)/python -m hw2lib report --preset $(call quoted,PRESET) $(if $(DATA),--data $(call quoted,DATA))
	@rm -f build/.done-* && touch "$@"

.venv/done: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@$(PYTHON) -m venv .venv || (echo "the venv module is needed: apt-get install python3-venv"; exit 1)
	@echo "Installing torch and some 180 other packages in .venv, about 7 GB: two minutes, or as long as the download takes."
	@$(ENV)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[report,test,eval]'
	@touch $@
