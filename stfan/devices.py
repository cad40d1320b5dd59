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
