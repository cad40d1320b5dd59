"""The devices that torch can compute on. Its import takes seconds, so that only what asks torch imports it."""


def devices() -> dict[str, str]:
    """Describe the devices of this machine: {device: what it is}."""
    import torch

    threads = torch.get_num_threads()
    found = {"cpu": f"{threads} thread{'s' * (threads != 1)}, {torch.backends.cpu.get_cpu_capability()}"}
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        memory = f"{gpu.total_memory / 2**30:.0f} GiB"
        found[f"cuda:{i}"] = f"{gpu.name}, {memory}, compute {gpu.major}.{gpu.minor}"
    if len(found) == 1:
        built = torch.version.cuda
        found["cuda"] = f"none that torch sees, for CUDA {built}" if built else "torch is built without it"
    return found


def resolve_device(device: str) -> str:
    """Return the device that --device names; "auto" is CUDA if there is a GPU, else the CPU.

    Raises:
        ValueError: torch knows no such device, or this machine has none.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = None
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"--device must be auto, cpu, cuda or cuda:N, got {device!r}")
    if kind == "cuda" and (torch.device(device).index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {device}: torch sees {torch.cuda.device_count()} CUDA devices")
    return device


def fast_bfloat16(device: str) -> bool:
    """Whether a device multiplies matrices of bfloat16 at least as fast as those of float32.

    A CPU does with AVX512-BF16 or AMX; without them bfloat16 is emulated, and ten times slower than float32.

    Args:
        device: of :func:`resolve_device`.
    """
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    features: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
