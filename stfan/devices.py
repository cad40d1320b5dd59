"""The devices that torch can compute on. Its import takes seconds, so that only what asks torch imports it."""

from typing import Any

# The kinds of devices, in the order in which "auto" prefers them.
KINDS = ("cuda", "xpu", "mps", "cpu")


class NoSuchDeviceError(ValueError):
    """A device was asked for that torch does not know, or that this machine lacks.

    Attributes:
        device: what was asked for.
        available: the devices that there are, such as "cuda:0".
    """

    def __init__(self, device: str, available: list[str]):
        super().__init__(f"device {device!r}: there is none; this machine has {', '.join(available)}")
        self.device, self.available = device, available


def count_devices() -> dict[str, int]:
    """Count the devices of each kind that torch sees: {kind: number}, in the order of KINDS; ROCm's are "cuda"."""
    import torch

    mps = torch.backends.mps.is_available()
    return {"cuda": torch.cuda.device_count(), "xpu": torch.xpu.device_count(), "mps": int(mps), "cpu": 1}


def devices() -> dict[str, str]:
    """Describe the devices of this machine: {device: what it is, and whether it has kernels of fac_ext}."""
    import torch

    from fac_ext.devices import why_no_kernels

    threads = torch.get_num_threads()
    found = {"cpu": f"{threads} thread{'s' * (threads != 1)}, {torch.backends.cpu.get_cpu_capability()}"}
    counts = count_devices()
    for i in range(counts["cuda"]):
        gpu = torch.cuda.get_device_properties(i)
        found[f"cuda:{i}"] = f"{gpu.name}, {_memory(gpu)}, compute {gpu.major}.{gpu.minor}"
    for i in range(counts["xpu"]):
        found[f"xpu:{i}"] = f"{torch.xpu.get_device_name(i)}, {_memory(torch.xpu.get_device_properties(i))}"
    if counts["mps"]:
        found["mps"] = "Apple's GPU"
    for device in found:
        reason = why_no_kernels(device.split(":")[0])
        if reason:
            found[device] += f"; without kernels: {reason}"
    if len(found) == 1:
        built = torch.version.cuda
        found["cuda"] = f"none that torch sees, for CUDA {built}" if built else "torch is built without it"
    return found


def _memory(gpu: Any) -> str:
    return f"{gpu.total_memory / 2**30:.0f} GiB"


def resolve_device(device: str) -> str:
    """Return the device of a name; of "auto", the first of KINDS that there is.

    Raises:
        NoSuchDeviceError: torch knows no such device, or this machine has none.
    """
    import torch

    counts = count_devices()
    if device == "auto":
        return next(kind for kind in KINDS if counts[kind])
    try:
        asked = torch.device(device)
    except RuntimeError:
        asked = None
    if asked is None or (asked.index or 0) >= counts.get(asked.type, 0):
        many = (f"{kind}:{i}" for kind in ("cuda", "xpu") for i in range(counts[kind]))
        raise NoSuchDeviceError(device, [*many, *(kind for kind in ("mps", "cpu") if counts[kind])])
    return device


def fast_bfloat16(device: str) -> bool:
    """Whether a device multiplies matrices of bfloat16 at least as fast as those of float32.

    A CPU does with AVX512-BF16 or AMX; without them bfloat16 is emulated, and ten times slower than float32. Of XPU and
    MPS it is not known.

    Args:
        device: of :func:`resolve_device`.
    """
    import torch

    kind = torch.device(device).type
    if kind != "cpu":
        return kind == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
    features: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
