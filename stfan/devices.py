"""What there is to compute on."""

import torch


def devices():
    """{device: what it is}"""
    found = {"cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"}
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        found[f"cuda:{i}"] = (
            f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, compute {gpu.major}.{gpu.minor}"
        )
    if len(found) == 1:
        reason = (
            f"none that torch sees, for CUDA {torch.version.cuda}"
            if torch.version.cuda
            else "torch is without it"
        )
        found["cuda"] = reason
    return found


def check_device(device):
    """The device that is meant; one that is not here is refused, in words."""
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


def fast_bfloat16(device):
    """Whether a device multiplies matrices of bfloat16 at least as fast as those of float32.

    A CPU does with AVX512-BF16 or AMX; without them bfloat16 is emulated, and ten times slower than float32.

    Args:
        device: of :func:`check_device`.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    features = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))
