# Every target does its own set-up on a fresh Debian 12, as root. Start with `make demo`.
SHELL := /bin/bash
PYTHON ?= /usr/bin/python3
VENV := .venv/bin
NATIVE := $(wildcard $(addprefix native/,src/*.[ch] tools/*.[ch] tools/cdef/*.txt ringd/*.[ch] checker/*.[ch] sectors/*.[ch] faultfs/*.[ch])) native/obd.cdef.txt native/obd.csrc.c \
          native/obd_build.py native/tools_build.py native/Makefile setup.py

help:
	@echo "make demo     a redis container on an overlaybd device whose backstore is killed again and again"
	@echo "make test     the whole test suite         make check   linters, types, sanitizers, short fuzz"
	@echo "make kernel   the tests in the QEMU guest  make chaos   campaigns of faults under verified load"
	@echo "make power    power cuts                   make planted planted bugs      make bench   figures"
	@echo "make setup    what all of them need: Debian packages, the venv in .venv, the native build"

.setup/host.stamp: packaging/setup-host.sh
	@packaging/setup-host.sh
	@mkdir -p .setup && touch $@

.setup/venv.stamp: pyproject.toml .setup/host.stamp
	@echo "setup: Python environment in .venv"
	@[ -x $(VENV)/python ] || $(PYTHON) -m venv .venv
	@packaging/quietly.sh .setup/pip.log $(VENV)/pip install -q --upgrade 'pip>=25.1,<27' 'setuptools>=77,<90'
	@packaging/quietly.sh .setup/pip.log $(VENV)/pip install -q -e . --group dev
	@touch $@

.setup/native.stamp: .setup/venv.stamp $(NATIVE)
	@echo "setup: native build"
	@packaging/quietly.sh .setup/native.log $(VENV)/python setup.py -q build_ext --inplace
	@touch $@

setup: .setup/native.stamp

demo: setup
	@$(VENV)/python -m chaos.demo

test: setup
	@$(VENV)/python -m guest prepare
	@$(VENV)/python -m pytest

check: setup
	@$(VENV)/ruff format --check . && $(VENV)/ruff check . && $(VENV)/mypy
	@$(MAKE) -s -C native format-check
	@$(MAKE) -s -C native test SAN=asan
	@$(MAKE) -s -C native test SAN=tsan
	@$(MAKE) -s -C native fuzz
	@$(VENV)/python native/fuzz/make_seeds.py build/fuzz-seeds
	@for target in $(patsubst native/fuzz/fuzz_%.c,%,$(wildcard native/fuzz/fuzz_*.c)); do \
	  mkdir -p build/fuzz-corpus/$$target build/fuzz-seeds/$$target && \
	  packaging/quietly.sh .setup/fuzz-$$target.log native/build/fuzz/fuzz_$$target \
	    -max_total_time=$${FUZZ_SECONDS:-15} -artifact_prefix=build/fuzz-corpus/ \
	    build/fuzz-corpus/$$target build/fuzz-seeds/$$target && \
	  echo "fuzz $$target: $$(grep -o 'Done .*' .setup/fuzz-$$target.log)" || exit 1; \
	done
	@$(VENV)/python -m pytest -q tests/model

kernel: setup
	@$(VENV)/python -m guest prepare
	@$(VENV)/python -m pytest -m kernel

bench: setup
	@$(MAKE) -s -C native bench
	@native/build/release/read
	@native/build/release/index
	@native/build/release/sidecar
	@native/build/release/tools_commit
	@$(VENV)/python -m chaos.stall

# Campaigns under ringd's load, under containers on the host, and in the guest; LONG=1: 10,000 kills.
chaos: setup
	@$(VENV)/python -m guest prepare
	@$(VENV)/python -m chaos.campaign all $(if $(LONG),--long) $(if $(SEED),--seed $(SEED))

# What a power cut leaves of layers and state: recorded in the guest, judged here.
power: setup
	@$(VENV)/python -m guest prepare
	@$(VENV)/python -m chaos.power

# Bugs planted in real workers must be caught; the same surroundings without one must be clean.
planted: setup
	@$(VENV)/python -m chaos.planted
	@$(VENV)/python -m chaos.planted --none --json out/planted-none.json

.PHONY: help setup demo test check kernel bench chaos power planted
