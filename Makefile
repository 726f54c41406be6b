# make demo: the whole pipeline on real data; make test: the test suite. Both make .venv first.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: install demo test slow lint sanitize neon clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt setup.py $(wildcard snnconv/engines/cpp/*)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(VENV)/bin/snnconv demo

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(VENV)/bin/python -m pytest -n 2 -q

slow: $(INSTALLED)
	$(VENV)/bin/python -m pytest -q -m slow

# The compiled kernels with the address and undefined-behaviour sanitizers, under their tests.
CXX ?= g++
SANITIZED := build/kernels-sanitized.so
sanitize: $(INSTALLED)
	mkdir -p build
	$(CXX) -std=c++17 -O1 -g -fPIC -shared -fsanitize=address,undefined -fno-sanitize-recover=all \
		snnconv/engines/cpp/*.cpp -o $(SANITIZED)
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 SNNCONV_KERNELS=$(abspath $(SANITIZED)) \
		$(VENV)/bin/python -m pytest -q tests/test_kernels.py tests/test_engines.py

# The kernels for 64-bit ARM, emulated.
ARM ?= aarch64-linux-gnu-g++
neon:
	mkdir -p build
	$(ARM) -std=c++17 -O2 -Wall -Wextra -static tests/kernels_check.cpp snnconv/engines/cpp/*.cpp -o build/kernels-arm
	qemu-aarch64 build/kernels-arm

clean:
	rm -rf $(VENV) build *.egg-info
