"""stfan info: what there is to work with: devices, the operator's build, versions, the weights and their card."""

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console
from rich.table import Table
from rich.text import Text

import fac_ext
from stfan.cli.options import Weights
from stfan.devices import devices
from stfan.model import weights

PACKAGES = ("torch", "numpy", "av", "pillow", "safetensors", "rich", "typer")


def info(weights: Weights = None):
    """Devices, the operator's build, versions, the weights and their card."""
    Console(width=None if sys.stdout.isatty() else 120).print(table(weights))


def table(path=None):
    """All of it as a rich Table without lines; path is a weight file, the bundled one if not given."""
    sections = {
        "Devices": devices(),
        "Operator": operator(),
        "Versions": versions(),
        "Weights": weight_file(weights.locate(path)),
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    grid.add_column(overflow="fold")
    for title, facts in sections.items():
        for i, (name, value) in enumerate(facts.items()):
            grid.add_row("" if i else title, *map(Text, (name, str(value))))  # Text: brackets mean nothing
    return grid


def operator():
    """{part of the compiled operator: how it was built}"""
    build = fac_ext.build_info()
    cuda = f"{build['cuda']}, for {build['cuda_architectures']}" if build["cuda"] else "not built in"
    return {"fac_ext": build["version"], "CPU kernels": build["cpu_simd"], "CUDA kernels": cuda}


def versions():
    """{package: version}"""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def weight_file(path):
    """{fact: value} about a weight file and from its card, the .json of the same name beside it.

    Raises:
        FileNotFoundError: no such weight file.
        ValueError: no weight file of this network, or a card that is not one.
    """
    model = weights.load(path)
    found = {
        "file": path,
        "size": f"{path.stat().st_size / 2**20:.1f} MiB",
        "preset": model.preset,
        "filters": f"{model.kernel_size} x {model.kernel_size}",
        "parameters": f"{weights.count(model):,}",
    }
    card = path.with_suffix(".json")
    if not card.exists():
        return found | {"card": "none beside it"}
    try:
        facts = json.loads(card.read_text())
        left_out = (*found, "scores", "curve", "begun_from")
        told = {name: _told(value) for name, value in facts.items() if name not in left_out}
        scores = facts.get("scores", {"protocol": None, "overall": {}})
        judged = {
            f"{key.upper()} of {side} ({scores['protocol']})": f"{scores['overall'][side][key]:.{digits}f}"
            for key, digits in (("psnr", 2), ("ssim", 4))
            for side in ("input", "output")
            if side in scores["overall"]
        }
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{card}: not the card of a weight file: {error}") from error
    return found | {"card": card} | told | judged


def _told(value):
    """A card's value in a line: of what is in it more than one level deep, only the number."""
    if not isinstance(value, dict):
        return value
    return ", ".join(
        f"{len(part)} {name}" if isinstance(part, dict | list) else f"{name} {part}"
        for name, part in value.items()
    )
