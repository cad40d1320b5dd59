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
            for size in (*range(kernel * dilation, kernel * dilation + 8), 61):
                axes.append([*axis_numbers(size, size, kernel, 1, dilation, kernel // 2 * dilation), INSIDE])
                wanted.append(oracle.windows(size, kernel, dilation))
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
    floats = floats[: len(floats) // 8 * 8]
    header = np.array([TYPES.index(dtype), len(floats)], np.int64).tobytes()
    mine = np.frombuffer(program("narrow", header + floats.numpy().tobytes()), np.int16)
    mine, right = torch.from_numpy(mine.copy()).view(dtype), floats.to(dtype)
    assert torch.equal(mine.isnan(), right.isnan())
    assert torch.equal(mine[~mine.isnan()].view(torch.int16), right[~right.isnan()].view(torch.int16))


def calls(seed, count):
    """Random calls: (input, filters, grad, kernel_size, keywords, channels_last); every tenth is one of several bands."""
    random = np.random.default_rng(seed)

    def any_of(*values):
        return values[random.integers(len(values))]

    while count:
        large = count % 10 == 0
        n, groups, shared = any_of(1, 2, 3), any_of(1, 2, 3), any_of(1, 1, 2, 5)
        size = (int(random.integers(1, 14)), int(random.integers(1, 24)))
        kernel = (any_of(1, 2, 3, 5), any_of(1, 2, 3, 5, 7, 9))
        stride, dilation = (any_of(1, 2, 3), any_of(1, 1, 3)), (any_of(1, 2), any_of(1, 1, 3))
        padding = (int(random.integers(0, 5)), int(random.integers(0, 5)))
        mode = any_of(*PADDING_MODES, "inside")
        if large:
            n, (groups, shared), size = 1, any_of((1, 1), (1, 20), (4, 5), (20, 1)), (100, 50)
        if mode == "inside":
            kernel, stride = (any_of(1, 3, 5), any_of(1, 3, 7)), (1, 1)
            padding = (kernel[0] // 2 * dilation[0], kernel[1] // 2 * dilation[1])
        keywords = {"stride": stride, "dilation": dilation, "padding": padding, "padding_mode": mode}
        output = oracle.output_size(*size, kernel, **keywords)
        most = {"reflect": -1, "circular": 0}.get(mode, 99)
        if min(output) < 1 or any(padding[i] > size[i] + most for i in range(2)):
            continue
        if mode == "inside" and any(size[i] < kernel[i] * dilation[i] for i in range(2)):
            continue
        count -= 1
        dtype = any_of(*TYPES)
        shapes = (
            (n, groups * shared, *size),
            (n, groups * kernel[0] * kernel[1], *output),
            (n, groups * shared, *output),
        )
        yield *(torch.randn(shape).to(dtype) for shape in shapes), kernel, keywords, any_of(False, True)


def in_memory(tensor, channels_last):
    tensor = tensor.permute(0, 2, 3, 1) if channels_last else tensor
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def from_memory(data, like, channels_last):
    shape = [like.shape[i] for i in ((0, 2, 3, 1) if channels_last else range(4))]
    got = torch.frombuffer(bytearray(data), dtype=like.dtype).view(shape)
    return got.permute(0, 3, 1, 2) if channels_last else got


def run_all(program, cuda, cases):
    """[output, gradient of the input, gradient of the filters] of each case."""
    data = []
    for input, filters, grad, kernel, keywords, channels_last in cases:
        inside = keywords["padding_mode"] == "inside"
        g = resolve(input, filters, kernel, **keywords | ({"padding_mode": "zeros"} if inside else {}))
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
        (n, c), mode = input.shape[:2], INSIDE if inside else g.padding_mode
        shape = [n, c, c // g.channels_per_filter, *axes[0], *axes[1], mode, channels_last]
        for which, pair in enumerate(((input, filters), (filters, grad), (input, grad))):
            header = [cuda, TYPES.index(input.dtype), which, *shape]
            data += [
                np.array(header, np.int64).tobytes(),
                *(in_memory(tensor, channels_last) for tensor in pair),
            ]
    results, at, made = program("run", b"".join(data)), 0, []
    for input, filters, grad, *_, channels_last in cases:
        made.append([])
        for like in (grad, input, filters):
            size = like.numel() * like.element_size()
            made[-1].append(from_memory(results[at : at + size], like, channels_last))
            at += size
    assert at == len(results)
    return made


@pytest.mark.parametrize("cuda", [False, True])
def test_kernels_are_right_and_stay_in_bounds(program, cuda):
    cases = list(calls(seed=1, count=300))
    for case, results in zip(cases, run_all(program, cuda, cases), strict=True):
        input, filters, grad, kernel, keywords, _ = case
        for got, *bound in zip(
            results, *oracle.bounds(input, filters, grad, kernel, **keywords), strict=True
        ):
            oracle.check(got, *bound)


@pytest.mark.parametrize("cuda", [False, True])
def test_not_a_number_passes_through_the_kernels(program, cuda):
    """Under a zero of the padding too: zero times NaN is NaN, zero times infinity as well."""
    keywords = {"stride": (1, 1), "dilation": (1, 1), "padding": (1, 1), "padding_mode": "zeros"}
    for channels_last in (False, True):
        for groups in (10, 2):
            input, filters, grad = (
                torch.randn(1, 10, 5, 6),
                torch.randn(1, groups * 9, 5, 6),
                torch.randn(1, 10, 5, 6),
            )
            filters[0, 0, 0, 0], grad[0, 9, 4, 5] = torch.nan, torch.inf
            (results,) = run_all(program, cuda, [(input, filters, grad, (3, 3), keywords, channels_last)])
            wanted = oracle.all_three(oracle.output, input, filters, grad, (3, 3), **keywords)
            assert results[0].isnan().any() and results[2].isnan().any()
            for got, right in zip(results, wanted, strict=True):
                torch.testing.assert_close(got.double(), right, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
def test_more_planes_than_a_grid_holds(program, channels_last):
    """A kernel of one tap on one row of two pixels: each operator is a product."""
    n = 70000
    a, b = torch.randn(n, 1, 1, 2), torch.randn(n, 1, 1, 2)
    axes = [1, 1, 1, 1, 1, 0, 0], [2, 2, 1, 1, 1, 0, 0]
    for which in (0, 1, 2):
        header = np.array([1, 1, which, n, 1, 1, *axes[0], *axes[1], 0, channels_last], np.int64).tobytes()
        got = np.frombuffer(program("run", header + a.numpy().tobytes() + b.numpy().tobytes()), np.float32)
        assert (got == (a * b).flatten().numpy()).all()
