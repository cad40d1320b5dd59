"""The kernels without torch and without a GPU: geometry, conversions, and both devices' sources under AddressSanitizer
and UndefinedBehaviorSanitizer, the CUDA source run on the CPU thread after thread (tests/kernels)."""

import concurrent.futures
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import oracle
from conftest import ROOT, run
from fac_ext.geometry import INSIDE, PADDING_MODES, resolve

ARCHITECTURES = ("75", "80", "90", "100", "120")
SOURCES = [
    ROOT / "tests/kernels/program.cpp",
    ROOT / "csrc/fac_cpu.cpp",
    ROOT / "csrc/fac_cpu_channels_last.cpp",
]
TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]  # in program.cpp's order


@pytest.mark.parametrize("source", SOURCES[1:], ids=lambda path: path.stem)
def test_cpu_kernels_compile_without_torch_and_warnings(source, tmp_path):
    run("g++", "-std=c++20", "-Wall", "-Wextra", "-Werror", "-c", source, "-o", tmp_path / "cpu.o")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")
def test_cuda_kernels_compile_without_torch_and_spill_nothing(tmp_path):
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    source, out = ROOT / "csrc/fac_cuda.cu", tmp_path / "cuda.o"
    said = run("nvcc", "-O3", "-std=c++20", "-Xptxas", "-v", "--threads=0", *targets, "-c", source, "-o", out)
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    # three operators; widths 3, 5, 7 and any for three types, any alone for double
    assert len(spills) == len(ARCHITECTURES) * 3 * (3 * 4 + 1)
    assert set(spills) == {("0", "0", "0")}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """program(command, bytes) -> bytes, compiled with sanitizers: any fault ends it with a report."""
    folder = tmp_path_factory.mktemp("kernels")
    flags = ("-std=c++20", "-O1", "-g", "-Wall", "-Wno-unknown-pragmas", "-Werror")
    flags += ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", f"-I{ROOT / 'tests/kernels'}")
    objects = [folder / f"{source.stem}.o" for source in SOURCES]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        compiled = [
            pool.submit(run, "g++", *flags, "-c", source, "-o", out)
            for source, out in zip(SOURCES, objects, strict=True)
        ]
        for one in compiled:
            one.result()
    run("g++", *flags, *objects, "-o", folder / "program")

    def call(command, data):
        done = subprocess.run([folder / "program", command], input=data, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        return done.stdout

    return call


def axis_numbers(size, output, kernel, stride, dilation, before):
    after = (output - 1) * stride + (kernel - 1) * dilation + 1 - size - before
    return [size, output, kernel, stride, dilation, before, after]


def test_taps_look_where_torch_pads_and_back(program):
    """position, source, image_at, viewers of csrc/geometry.h, on every small axis."""
    axes, wanted = [], []
    for mode, name in enumerate(PADDING_MODES):
        for size in (1, 2, 3, 5, 8):
            shown = torch.arange(1.0, size + 1)[None, None]
            for before in range(5):
                if (name == "reflect" and before >= size) or (name == "circular" and before > size):
                    continue
                padded = (
                    F.pad(shown, (before, before), "constant" if name == "zeros" else name)[0, 0].long() - 1
                )
                for kernel in (1, 2, 3, 4):
                    for stride in (1, 2, 3):
                        for dilation in (1, 2, 3):
                            room = len(padded) - (kernel - 1) * dilation - 1
                            if room < 0:
                                continue
                            output = room // stride + 1
                            axes.append([*axis_numbers(size, output, kernel, stride, dilation, before), mode])
                            wanted.append(
                                padded.unfold(0, (kernel - 1) * dilation + 1, stride)[:, ::dilation]
                            )
    for kernel in (1, 3, 5, 7):
        for dilation in (1, 2, 3):
            for size in range(kernel * dilation, kernel * dilation + 8):
                axes.append([*axis_numbers(size, size, kernel, 1, dilation, kernel // 2 * dilation), INSIDE])
                windows = torch.empty(size, kernel, dtype=torch.long)
                for o in range(size):
                    mine = torch.arange(o % dilation, size, dilation)  # the pixels that o's window may show
                    first = min(max(o // dilation - kernel // 2, 0), len(mine) - kernel)
                    windows[o] = mine[first : first + kernel]
                wanted.append(windows)
    got = np.frombuffer(program("axis", np.array(axes, np.int64).tobytes()), np.int64)
    at = 0
    for axis, right in zip(axes, wanted, strict=True):
        sources, found = got[at : at + right.numel()], got[at + right.numel() : at + 2 * right.numel()]
        at += 2 * right.numel()
        assert (sources == right.flatten().numpy()).all(), axis
        assert (found == (sources >= 0)).all(), axis
    assert at == len(got) and len(axes) > 1500


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_conversions_are_torchs(program, dtype):
    header = np.array([TYPES.index(dtype), 65536], np.int64).tobytes()
    every = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
    wide = np.frombuffer(program("widen", header + every.view(torch.int16).numpy().tobytes()), np.float32)
    assert np.array_equal(wide, every.float().numpy(), equal_nan=True)
    # every value, the midpoint to the next one, and the floats beside both; then random bits
    values = every.float()
    middles = (values.double() + values.roll(-1).double()).div(2).float()
    floats = torch.cat([values, middles])
    floats = torch.cat([floats, *(floats.nextafter(torch.tensor(end)) for end in (torch.inf, -torch.inf))])
    floats = torch.cat(
        [floats, torch.randint(-(2**31), 2**31, (200000,)).to(torch.int32).view(torch.float32)]
    )
    header = np.array([TYPES.index(dtype), len(floats)], np.int64).tobytes()
    mine = np.frombuffer(program("narrow", header + floats.numpy().tobytes()), np.int16)
    mine, right = torch.from_numpy(mine.copy()).view(dtype), floats.to(dtype)
    assert torch.equal(mine.isnan(), right.isnan())
    assert torch.equal(mine[~mine.isnan()].view(torch.int16), right[~right.isnan()].view(torch.int16))


def calls(seed, count):
    """Random calls: (input, filters, grad, kernel_size, keywords, channels_last)."""
    random = np.random.default_rng(seed)

    def any_of(*values):
        return values[random.integers(len(values))]

    while count:
        n, groups, shared = any_of(1, 2, 3), any_of(1, 2, 3), any_of(1, 1, 2, 5)
        size = (int(random.integers(1, 14)), int(random.integers(1, 24)))
        kernel = (any_of(1, 2, 3, 5), any_of(1, 2, 3, 5, 7, 9))
        stride, dilation = (any_of(1, 2, 3), any_of(1, 1, 3)), (any_of(1, 2), any_of(1, 1, 3))
        padding = (int(random.integers(0, 5)), int(random.integers(0, 5)))
        keywords = {
            "stride": stride,
            "dilation": dilation,
            "padding": padding,
            "padding_mode": any_of(*PADDING_MODES),
        }
        output = [
            (size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)
        ]
        most = {"reflect": -1, "circular": 0}.get(keywords["padding_mode"], 99)
        if min(output) < 1 or any(padding[i] > size[i] + most for i in range(2)):
            continue
        count -= 1
        dtype = any_of(*TYPES)
        shapes = (
            (n, groups * shared, *size),
            (n, groups * kernel[0] * kernel[1], *output),
            (n, groups * shared, *output),
        )
        yield *(torch.randn(shape).to(dtype) for shape in shapes), kernel, keywords, any_of(False, True)


@pytest.mark.parametrize("cuda", [False, True])
def test_kernels_are_right_and_stay_in_bounds(program, cuda):
    cases = list(calls(seed=1, count=250))
    data = []
    for input, filters, grad, kernel, keywords, channels_last in cases:
        g = resolve(input, filters, kernel, **keywords)
        axes = [
            [
                input.shape[2 + i],
                grad.shape[2 + i],
                kernel[i],
                g.stride[i],
                g.dilation[i],
                *g.padding[2 * i :][:2],
            ]
            for i in range(2)
        ]
        n, c = input.shape[:2]
        shape = [n, c, c // g.channels_per_filter, *axes[0], *axes[1], g.padding_mode, channels_last]
        for which, pair in enumerate(((input, filters), (filters, grad), (input, grad))):
            header = [cuda, TYPES.index(input.dtype), which, *shape]
            data.append(np.array(header, np.int64).tobytes())
            for tensor in pair:
                tensor = tensor.permute(0, 2, 3, 1) if channels_last else tensor
                data.append(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    results, at = program("run", b"".join(data)), 0
    for input, filters, grad, kernel, keywords, channels_last in cases:
        exact, magnitude, terms = oracle.bounds(input, filters, grad, kernel, **keywords)
        for right, size, count in zip(exact, magnitude, terms, strict=True):
            shape = [right.shape[i] for i in ((0, 2, 3, 1) if channels_last else range(4))]
            raw = bytearray(results[at : at + right.numel() * input.element_size()])
            at += len(raw)
            got = torch.frombuffer(raw, dtype=input.dtype).view(shape)
            oracle.check(got.permute(0, 3, 1, 2) if channels_last else got, right, size, count)
    assert at == len(results)


def test_more_planes_than_a_grid_holds(program):
    n = 70000
    a, b = torch.randn(n, 1, 1, 2), torch.randn(n, 1, 1, 2)
    axes = [1, 1, 1, 1, 1, 0, 0], [2, 2, 1, 1, 1, 0, 0]
    header = np.array([1, 1, 0, n, 1, 1, *axes[0], *axes[1], 0, 0], np.int64).tobytes()
    got = np.frombuffer(program("run", header + a.numpy().tobytes() + b.numpy().tobytes()), np.float32)
    assert (got == (a * b).flatten().numpy()).all()
