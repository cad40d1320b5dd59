"""Test the kernels without torch and without a GPU: geometry, conversions, and both devices' sources.

They run under AddressSanitizer and UndefinedBehaviorSanitizer, the CUDA source on the CPU, thread after thread; of the
CPU kernels' versions, the one that fac_ext runs here (tests/operator/test_versions.py runs the others, without
sanitizers). What is compiled is kept in build/tests, by a digest of sources, flags and compiler.
"""

import importlib
import itertools
import math
import os
import re
import secrets
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fac_ext import build_info
from fac_ext.arguments import INSIDE, PADDING_MODES, check_window, resolve
from support import oracle
from support.checkout import ROOT, run
from support.kernel_program import build_program

sys.path.insert(0, str(ROOT / "benchmarks/gpu"))

ARCHITECTURES = ("75", "80", "90", "100", "120")
TYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]  # in program.cpp's order


def long_but(quick, *values):
    """All combinations of values, as parameters of a test that is long for all but the quick ones."""
    cases = itertools.product(*values)
    return [pytest.param(*case, marks=() if case in quick else pytest.mark.long) for case in cases]


@pytest.fixture(scope="module")
def cuda_object(tmp_path_factory):
    """Compile the CUDA kernels for every architecture; return the object, and what ptxas reports of each kernel."""
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc on this machine")
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    source, out = ROOT / "csrc/cuda/fac_cuda.cu", tmp_path_factory.mktemp("cuda") / "cuda.o"
    flags = ("-O3", "-std=c++20", "-Werror", "all-warnings", "-Xptxas", "-v", "--threads=0")
    return out, run("nvcc", *flags, *targets, "-c", source, "-o", out)


@pytest.mark.long
def test_cuda_kernels_compile_without_torch_and_spill_nothing(cuda_object):
    _, said = cuda_object
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert len(spills) == len(ARCHITECTURES) * KERNELS
    assert set(spills) == {("0", "0", "0")}


@pytest.mark.long
def test_the_list_of_kernels_is_the_compilers(cuda_object):
    """Compare benchmarks/gpu/every_kernel.py with what nvcc compiled; test_every_kernel_is_called_once needs no nvcc."""
    mangled = re.findall(r"Compiling entry function '(\w+)' for 'sm_90'", cuda_object[1])
    said = run("c++filt", *mangled).replace("fac::Half", "half").replace("fac::BFloat16", "bfloat16")
    made = re.findall(r"::(\w+<[^>]*>)\(fac::Shape", said)
    assert len(made) == KERNELS and set(made) == set(importlib.import_module("every_kernel").calls())


# three operators; widths 3, 5, 7 and any for three types, any alone for double and for indices of 64 bits
GENERAL = 3 * (3 * 4 + 1 + 4)
# row-major: three widths in pieces of 16, 8 and 4 bytes, any width in 16, but not for the gradient of the input;
# channels_last: the three widths
KERNELS = GENERAL + 3 * (3 * 3 * 3 + 2) + 3 * 3 * 3
# what moves the filters or their gradient in each fast kernel, sixteen bytes at a time
WIDE = {
    "row_major_forward": "LDG.E.EF.128",
    "row_major_grad_input": "LDG.E.EF.128",
    "row_major_grad_filters": "STG.E.EF.128",
    "channels_last_forward": "LDGSTS.E.BYPASS.128",
    "channels_last_grad_input": "LDGSTS.E.BYPASS.128",
    "channels_last_grad_filters": "STG.E.EF.128",
}


@pytest.mark.long
def test_fast_kernels_move_whole_pieces(cuda_object):
    """Look into the machine code for sm_90, where no kernel has local memory either."""
    path = os.pathsep.join([os.environ["PATH"], f"{sysconfig.get_path('platlib')}/nvidia/cu13/bin"])
    if (cuobjdump := shutil.which("cuobjdump", path=path)) is None:
        pytest.skip("no cuobjdump on this machine (pip install nvidia-cuda-cuobjdump)")
    said = run(cuobjdump, "-sass", "-arch", "sm_90", cuda_object[0])
    kernels = dict(part.split("\n", 1) for part in said.split("Function : ")[1:])
    assert len(kernels) == KERNELS and not re.search(r"\b(LDL|STL)\b", said)
    for name, instruction in WIDE.items():
        found = [(mangled, code) for mangled, code in kernels.items() if name in mangled]
        assert len(found) >= 9
        for mangled, code in found:
            of_piece = re.search(r"ILi\dE(\w+?)Li(\d)EEvNS_5ShapeE", mangled)
            size = int(of_piece[2]) * (4 if of_piece[1] == "f" else 2) if of_piece else 16
            assert re.search(rf"{instruction.replace('.128', {16: '.128', 8: '.64', 4: ''}[size])} ", code), (
                mangled
            )


def test_barriers_of_the_stand_in(tmp_path):
    """Let threads meet in the CPU's stand-in for CUDA, which ends a program in which some do not come."""
    flags = ("-std=c++20", "-g1", "-Wall", "-Werror", "-fsanitize=address,undefined")
    run("g++", *flags, ROOT / "tests/kernels/barriers.cpp", "-o", tmp_path / "barriers")

    def call(which):
        return subprocess.run([tmp_path / "barriers", which], capture_output=True, text=True)

    pairs = [t + (t + 1) % 96 for t in range(96)]
    blocks = [pairs[t] + pairs[(t + 1) % 96] for t in range(96)] * 3
    assert [int(value) for value in call("meets").stdout.split()] == blocks
    warps = [t // 32 * 32 + (t + 1) % 32 if t < 64 else 0 for t in range(96)] * 3
    assert [int(value) for value in call("warps_meet").stdout.split()] == warps
    for which in ("some_leave", "part_of_a_warp"):
        done = call(which)
        assert done.returncode != 0 and "a barrier that not all of its threads come to" in done.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """program(command, bytes) -> bytes, compiled without torch, without warnings and with sanitizers.

    Any fault ends it with a report. The versions of the CPU kernels that are never run have no sanitizers.
    """
    version = build_info()["cpu_simd"].lower().replace("-", "")
    place = build_program(version, tmp_path_factory.mktemp("kernels"))
    seed = os.environ.get("FAC_TEST_ORDER") or str(secrets.randbelow(2**32))
    print(f"order of threads: FAC_TEST_ORDER={seed}")  # pytest shows it with a failure
    # kernels, which are functions whose first parameter is a Shape, and their static variables: their shared arrays
    symbols = re.findall(r"^(\w+) (\w+) ([bt]) _Z(Z?N3fac\w+EvNS_5Shape\w+)$", run("nm", "-S", place), re.M)
    kernels = {name: at for at, _, kind, name in symbols if kind == "t" and name[0] == "N"}
    shared = [
        (next(kernels[kernel] for kernel in kernels if name.startswith(f"Z{kernel}E")), at, size)
        for at, size, kind, name in symbols
        if kind == "b" and name[0] == "Z"
    ]
    assert len(shared) > 3 * (3 * 2 + 9 + 3 * 2)
    places = " ".join(str(int(number, 16)) for array in shared for number in array)
    env = os.environ | {"FAC_CPU_CAPABILITY": version.replace("baseline", "default")}

    def call(command, data):
        done = subprocess.run([place, command, f"{seed} {places}"], input=data, capture_output=True, env=env)
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        return done.stdout

    demangled = run("c++filt", *(f"_Z{name}" for name in kernels)).splitlines()
    call.kernels = {
        int(place, 16): re.sub(r".*::(\w+<.*>)\(.*", r"\1", name).replace("fac::", "").lower()
        for place, name in zip(kernels.values(), demangled, strict=True)
    }
    return call


def test_a_launch_that_the_machine_refuses_says_what_to_do(program):
    other, driver, ptx, image = program("refused", b"").decode().splitlines()
    assert other == "invalid configuration"
    assert driver == ptx and "driver is for CUDA 12.4, and fac_ext was compiled by CUDA 13.0" in driver
    assert "no code for this GPU" in image and "TORCH_CUDA_ARCH_LIST" in image


def axis_numbers(size, output, kernel, stride, dilation, before):
    after = (output - 1) * stride + (kernel - 1) * dilation + 1 - size - before
    return [size, output, kernel, stride, dilation, before, after]


def test_taps_look_where_torch_pads_and_back(program):
    """Run position, source, preimage_at and outputs_reading of csrc/geometry.h on every small axis."""
    axes, expected = [], []
    for mode, name in enumerate(PADDING_MODES):
        for size in (1, 2, 3, 5, 8):
            pixels = torch.arange(1.0, size + 1)[None, None]
            for before in range(5):
                if (name == "reflect" and before >= size) or (name == "circular" and before > size):
                    continue
                padded = (
                    F.pad(pixels, (before, before), "constant" if name == "zeros" else name)[0, 0].long() - 1
                )
                for kernel in (1, 2, 3, 4):
                    for stride in (1, 2, 3):
                        for dilation in (1, 2, 3):
                            room = len(padded) - (kernel - 1) * dilation - 1
                            if room < 0:
                                continue
                            output = room // stride + 1
                            axes.append([*axis_numbers(size, output, kernel, stride, dilation, before), mode])
                            expected.append(
                                padded.unfold(0, (kernel - 1) * dilation + 1, stride)[:, ::dilation]
                            )
    for kernel in (1, 3, 5, 7):
        for dilation in (1, 2, 3):
            for size in (*range(kernel * dilation, kernel * dilation + 8), 61):
                axes.append([*axis_numbers(size, size, kernel, 1, dilation, kernel // 2 * dilation), INSIDE])
                expected.append(oracle.windows(size, kernel, dilation))
    got = np.frombuffer(program("axis", np.array(axes, np.int64).tobytes()), np.int64)
    at = 0
    for axis, right in zip(axes, expected, strict=True):
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
    """Yield random (input, filters, grad, kernel_size, keywords, channels_last); every tenth has several bands."""
    random = np.random.default_rng(seed)

    def any_of(*values):
        return values[random.integers(len(values))]

    while count:
        large = count % 10 == 0
        n, groups, shared = any_of(1, 2, 3), any_of(1, 2, 3), any_of(1, 1, 2, 5, 9, 37)
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
    """Return each case's [output, gradient of the input, of the filters], and which of them fast kernels made."""
    data = []
    for input, filters, grad, kernel, keywords, channels_last in cases:
        inside = keywords["padding_mode"] == "inside"
        g = resolve(
            input, filters, check_window(kernel, **keywords | ({"padding_mode": "zeros"} if inside else {}))
        )
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
    results, at, made, fast = program("run", b"".join(data)), 0, [], []
    for input, filters, grad, *_, channels_last in cases:
        made.append([])
        fast.append([])
        for like in (grad, input, filters):
            size = like.numel() * like.element_size()
            fast[-1].append(results[at] == 1)
            made[-1].append(from_memory(results[at + 16 : at + 16 + size], like, channels_last))
            at += 16 + size
    assert at == len(results)
    return made, fast


def test_every_kernel_is_called_once(program):
    """Compare the calls of benchmarks/gpu/every_kernel.py with the kernels compiled, and with those launched."""
    every_kernel = importlib.import_module("every_kernel")
    calls, data, sizes = every_kernel.calls(), [], []
    for call in calls.values():
        (kernel, stride, dilation, padding, mode, _), shapes = call.geometry, call.shapes
        axes = [
            (
                shapes[0][2 + i],
                shapes[2][2 + i],
                kernel[i],
                stride[i],
                dilation[i],
                *padding[2 * i : 2 * i + 2],
            )
            for i in range(2)
        ]
        which = list(every_kernel.OPERATORS).index(call.operator)
        shape = [2, call.channels, call.groups, *axes[0], *axes[1], mode, call.channels_last]
        header = [1, TYPES.index(getattr(torch, every_kernel.TYPES[call.type])), which, *shape]
        operands = [math.prod(one) * every_kernel.BYTES[call.type] for one in shapes]
        result = operands.pop((2, 0, 1)[which])
        data += [np.array(header, np.int64).tobytes(), *map(bytes, operands)]
        sizes.append(16 + result)
    results, at, launched = program("run", b"".join(data)), 0, []
    for size in sizes:
        launched.append(int.from_bytes(results[at + 8 : at + 16], "little"))
        at += size
    assert at == len(results)
    assert [program.kernels[place] for place in launched] == list(calls)
    # for its own questions program.cpp makes three of double's that the object does not have
    made = {name for name in program.kernels.values() if not re.search(r"<[357], double", name)}
    assert made == set(calls) and len(calls) == KERNELS


@pytest.mark.parametrize(("seed", "count"), [(1, 60), pytest.param(2, 300, marks=pytest.mark.long)])
@pytest.mark.parametrize("cuda", [False, True])
def test_kernels_are_right_and_stay_in_bounds(program, cuda, seed, count):
    cases = list(calls(seed, count))
    check_all(cases, run_all(program, cuda, cases)[0])


def check_all(cases, made):
    for (input, filters, grad, kernel, keywords, _), results in zip(cases, made, strict=True):
        for got, *bound in zip(
            results, *oracle.bounds(input, filters, grad, kernel, **keywords), strict=True
        ):
            oracle.check(got, *bound)


def call(dtype, n, channels, size, kernel, channels_last, mode="zeros", padding=None, dilation=(1, 1)):
    """Make a random call with stride 1 and a filter for each channel, as `calls` does; "same" padding by default."""
    padding = padding or tuple(kernel[i] // 2 * dilation[i] for i in range(2))
    keywords = {"stride": (1, 1), "dilation": dilation, "padding": padding, "padding_mode": mode}
    output = oracle.output_size(*size, kernel, **keywords)
    shapes = (n, channels, *size), (n, channels * kernel[0] * kernel[1], *output), (n, channels, *output)
    return *(torch.randn(shape).to(dtype) for shape in shapes), kernel, keywords, channels_last


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_cpu_kernels_of_eight_channels_are_right(program, dtype):
    """Leave four channels and seven, with the two compiled numbers of taps and another; take two blocks."""
    kernels = (3, 3), (5, 5), (3, 5)
    cases = [
        call(dtype, 1, c, (6, 7), k, True, mode) for c in (20, 15) for k in kernels for mode in PADDING_MODES
    ]
    cases.append(call(dtype, 1, 140, (4, 5), (3, 3), True))
    check_all(cases, run_all(program, False, cases)[0])


# one half in each layout: the halves' kernels differ in conversions alone, which are tested above
FEW = [("rows", dtype, "few") for dtype in TYPES[1:3]] + [
    ("channels_last", dtype, "few") for dtype in TYPES[1::2]
]


@pytest.mark.parametrize(
    ("layout", "dtype", "blocks"),
    long_but(FEW, ("rows", "channels_last"), TYPES[1:], ("few", "many")),
    ids=str,
)
def test_fast_kernels_are_right(program, layout, dtype, blocks):
    """Run each width and padding mode over several blocks, and each condition that sends a call elsewhere."""
    v = 16 // torch.empty(0, dtype=dtype).element_size()  # values in 16 bytes
    channels_last, many = layout == "channels_last", blocks == "many"
    some = v if channels_last or many else 2  # channels
    cases, expected = [], []

    def add(fast, *arguments, **keywords):
        cases.append(call(dtype, *arguments, channels_last=channels_last, **keywords))
        expected.append(fast)

    for k in (3, 5, 7):
        for mode in PADDING_MODES:
            # rows: several blocks, the last not full; channels_last: several strips, the last not full, and two
            # walks, then words of two blocks
            if channels_last:
                add([True] * 3, 1, 3 * v, (34, 40) if many else (9, 37), (k, k), mode=mode)
                add([True] * 3, 1, 9 * v, (k, 12), (k, k), mode=mode)
            else:
                add([True] * 3, 2, 3, (37 if many else 13, 64), (k, k), mode=mode)
                add([True] * 3, 1, 2, (k, 8 * v), (k, k), mode=mode)
            # a dilation: channels_last has no fast gradient of the input for it
            for dilation in ((1, 2), (2, 1)):
                size = (9, 16) if channels_last else (9, 128)
                add([True, not channels_last, True], 1, some, size, (k, k), mode=mode, dilation=dilation)
        # two walks share a column, the second with fewer rows
        for mode in PADDING_MODES if channels_last else ():
            add([True] * 3, 1, v, (65, 8), (k, k), mode=mode)
        # a result of another size than the input, larger and smaller
        wide = 64 if many or not channels_last else 20
        add([True, not channels_last, True], 1, some, (12, wide), (k, k), padding=(k - 1, k // 2))
        add([True, not channels_last, True], 1, some, (12, wide), (k, k), padding=(0, k // 2))
        for width, padding in ((wide + k - 1, 0), (wide - k + 1, k - 1)):
            add([True, not channels_last, True], 1, some, (12, width), (k, k), padding=(k // 2, padding))
        # rows in pieces of 8 and 4 bytes, with other dilations and another size of the result; in pieces of 2 bytes
        for piece in () if channels_last else (v // 2, v // 4):
            for mode in PADDING_MODES:
                add([True] * 3, 2, 3, (11, (53 if many else 13) * piece), (k, k), mode=mode)
                add([True] * 3, 1, 2, (k, 9 * piece), (k, k), mode=mode)
            size = (9, (61 if many else 31) * piece)
            add([False, True, False], 1, 2, size, (k, k), dilation=(1, 2))
            add([True] * 3, 1, 2, size, (k, k), dilation=(2, 1), mode="reflect")
            add([True] * 3, 1, some, (12, 33 * piece + k - 1), (k, k), padding=(1, 0))
        add([channels_last or v == 4] * 3, 1, v, (9, 8 * v + 1), (k, k))
        # channels that are no multiple of 16 bytes
        add([not channels_last] * 3, 1, v + 1, (9, 8 * v), (k, k))
    # no width of 3, 5 or 7, a rectangle, a window inside
    add([not channels_last, False, not channels_last], 1, v, (9, 8 * v), (9, 9))
    add([not channels_last] * 3, 1, v, (9, 8 * v), (3, 5))
    add([True, False, True], 1, v, (9, 8 * v), (5, 5), mode="inside")
    if not channels_last:  # one row for a block, and one that is too long for it
        add([True] * 3, 1, 2, (3, 300 * v), (5, 5), mode="reflect")
        add([True, False, True], 1, 1, (3, 513 * v), (3, 3))
        add([True] * 3, 1, 1, (3, 427 * v // 2), (5, 5), mode="replicate")
        add([True, False, True], 1, 1, (3, 513 * v // 4), (3, 3))
    made, fast = run_all(program, 1, cases)
    assert fast == expected
    check_all(cases, made)
    made, fast = run_all(program, 2, cases[:8])  # results one value after a multiple of 16 bytes
    pieces = not channels_last and v == 4  # the third of each mode has a dilation of 2 along a row
    assert fast == [[pieces] * 3, [pieces] * 3, [False, pieces, False], [pieces] * 3] * 2
    check_all(cases[:8], made)


@pytest.mark.parametrize("cuda", [False, True])
def test_not_a_number_passes_through_the_kernels(program, cuda):
    """Put NaN under a zero of the padding too: zero times NaN is NaN, and so is zero times infinity."""
    keywords = {"stride": (1, 1), "dilation": (1, 1), "padding": (1, 1), "padding_mode": "zeros"}
    for channels_last in (False, True):
        for groups in (16, 2):
            input, filters, grad = (
                torch.randn(1, 16, 5, 8),
                torch.randn(1, groups * 9, 5, 8),
                torch.randn(1, 16, 5, 8),
            )
            filters[0, 0, 0, 0], grad[0, 9, 4, 5] = torch.nan, torch.inf
            case = input, filters, grad, (3, 3), keywords, channels_last
            (results,), fast = run_all(program, cuda, [case])
            assert fast == [[cuda and groups == 16] * 3]
            expected = oracle.all_three(oracle.output, input, filters, grad, (3, 3), **keywords)
            assert results[0].isnan().any() and results[2].isnan().any()
            for got, right in zip(results, expected, strict=True):
                # a filter of 9 taps over a pixel, or the 8 channels that share one
                size = right.nan_to_num(0, 0, 0).abs().max()
                allowed = oracle.spread(torch.float32, 9 * 8, 9 * size)
                oracle.assert_within(got.double(), right, allowed, equal_nan=True)


@pytest.mark.parametrize("channels_last", [False, True])
def test_positions_beyond_32_bits(program, channels_last):
    """Lay 2^30 zeros around 8 x 8 pixels: of 3 x 3 windows with that stride, the middle one sees the first pixels."""
    far, n, groups = 1 << 30, 2, 2
    axis = axis_numbers(8, 3, 3, far, 1, far)
    for which, shared in ((0, 1), (1, 1), (2, 1), (0, 3), (1, 3), (2, 3)):
        input = np.random.default_rng(which).standard_normal((n, groups, shared, 8, 8), np.float32)
        filters = np.random.default_rng(7).standard_normal((n, groups, 3, 3, 3, 3), np.float32)
        grad = np.random.default_rng(8).standard_normal((n, groups, shared, 3, 3), np.float32)
        header = np.array([1, 1, which, n, groups * shared, groups, *axis, *axis, 0, channels_last], np.int64)
        seen, taps = input[..., :3, :3], filters[..., 1, 1]
        right = [np.zeros_like(grad), np.zeros_like(input), np.zeros_like(filters)][which]
        if which == 0:
            right[..., 1, 1] = (seen * taps[:, :, None]).sum((-1, -2))
        if which == 1:
            right[..., :3, :3] = taps[:, :, None] * grad[..., 1, 1][..., None, None]
        if which == 2:
            right[..., 1, 1] = (seen * grad[..., 1, 1][..., None, None]).sum(2)

        def flat(array, n=n):
            array = torch.from_numpy(array)
            return array.reshape(n, -1, *array.shape[-2:])

        operands = [flat(array) for array in ((input, filters), (filters, grad), (input, grad))[which]]
        got = program("run", b"".join([header.tobytes(), *(in_memory(t, channels_last) for t in operands)]))
        assert got[0] == 2
        got = from_memory(got[16:], flat(right), channels_last)
        size = shared * math.prod(float(operand.abs().max()) for operand in operands)
        oracle.assert_within(got, flat(right), oracle.spread(torch.float32, shared, size))


# each kernel once, and one for samples instead of planes
ONCE = [(2, False, 0), (2, False, 1), (2, False, 2), (4, False, 0), (4, False, 2), (2, True, 0)]


@pytest.mark.parametrize(
    ("width", "channels_last", "which"), long_but(ONCE, (2, 4), (False, True), (0, 1, 2))
)
def test_more_planes_than_a_grid_holds(program, width, channels_last, which):
    """Use a kernel of one tap on one row: each operator is a product. No planes at all make no grid."""
    for n in (70000, 0):
        a, b = torch.randn(n, 1, 1, width), torch.randn(n, 1, 1, width)
        axes = [1, 1, 1, 1, 1, 0, 0], [width, width, 1, 1, 1, 0, 0]
        header = np.array([1, 1, which, n, 1, 1, *axes[0], *axes[1], 0, channels_last], np.int64)
        got = program("run", b"".join(array.tobytes() for array in (header, a.numpy(), b.numpy())))
        assert got[0] == (n > 0 and width == 4 and not channels_last and which != 1)
        assert (np.frombuffer(got[16:], np.float32) == (a * b).flatten().numpy()).all()
