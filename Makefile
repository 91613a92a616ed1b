# Front door only: every line calls a script or a CMake preset. `make help` lists the targets.
MODEL ?= tiny-mod
ARGS ?=
PYTHON ?= python3
SLUICE := build/release/sluice

.DEFAULT_GOAL := help
.PHONY: serve build test bench models-report format lint clean help

serve: build  ## Serve models/$(MODEL) on 127.0.0.1:8080 (MODEL=..., ARGS="--port 8000 ...")
	$(SLUICE) serve --model models/$(MODEL) $(ARGS)

build:  ## Install what is missing and build build/release/sluice
	tools/setup.sh build
	tools/build.sh

test:  ## Build and run everything: unit, golden, black-box, deployment, 10 s of each fuzz target
	tools/setup.sh build test
	tools/test.sh

bench: build  ## Measure the machine, the shipped models beside dense ones, and the server; ARGS: one `sluice bench` instead
	tools/bench.sh $(ARGS)

models-report: build  ## Measure every model of models/ with the server: ARGS="--valid valid.npy [--eval FOLDER]" (tools/train)
	$(PYTHON) tools/train/report.py $(ARGS)

format:  ## Rewrite the C++ sources with clang-format
	tools/setup.sh lint
	tools/lint.sh --fix

lint:  ## Check format, scripts, include rule, and clang-tidy on changed files (BASE=origin/main, ALL=1)
	tools/setup.sh build test lint
	tools/lint.sh

clean:  ## Remove build/
	rm -rf build

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2> /dev/null \
	  || sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1  \2/p' $(MAKEFILE_LIST)
