"""The command stfan info: devices, the operator's build, versions, the weights; or what would become of a video."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from stfan.cli import options
from stfan.cli.console import LogHandler, stderr_console, stdout_console
from stfan.devices import devices

PACKAGES = ("numpy", "av", "pillow", "safetensors", "rich", "typer")


# What is printed without --all, beside the devices, the operator's build and the scores.
BRIEF_VERSIONS = ("python", "torch")
BRIEF_WEIGHTS = ("file", "preset", "filters", "parameters", "card")


def info(
    video: Annotated[
        Path | None,
        typer.Argument(metavar="[VIDEO]", help="Print instead what stfan deblur would keep of it."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="With VIDEO: the file that would be written.")
    ] = None,
    weights: options.Weights = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Print all versions and the whole card of the weights.")
    ] = False,
) -> None:
    """Print the devices, the operator's build, and the weights with their scores; or what becomes of a video."""
    if video is not None:
        print("\n".join(plan_lines(video, out)))
        return
    if out is not None:
        raise typer.BadParameter("-o is for a VIDEO")
    stdout_console().print(table(weights, everything))


def plan_lines(video: Path, out: Path | None) -> list[str]:
    """Say what stfan deblur would keep, convert and leave out of a video, and why; nothing is written.

    Raises:
        ValueError, OSError: it cannot be read, or no such file can be written.
    """
    from stfan.cli.job import default_output
    from stfan.video.encoder import Encoding
    from stfan.video.reader import VideoReader
    from stfan.video.writer import VideoWriter

    out = out or default_output(video)
    with VideoReader(video) as reader, LogHandler(stderr_console, quiet=True).attached() as handler:
        # A name alone: the folder of the file need not be there yet.
        writer = VideoWriter(Path(out.name), reader, Encoding())
    plan = [str(line) for line in writer.plan.lines]
    others = [said for said in handler.warnings if said not in plan]
    return [f"{video} to {out}, {writer.segments}:", *(f"  {line}" for line in plan + others)]


def table(path: Path | None = None, everything: bool = True) -> Table:
    """Make a table without lines of the facts, all or the main ones, of a weight file, the bundled one if None."""
    from stfan.model.weights import locate

    weight_facts, scores = weight_file(locate(path))
    sections: dict[str, dict[str, Any]] = {
        "Devices": devices(),
        "Operator": operator(),
        "Versions": versions() if everything else _choose(versions(), BRIEF_VERSIONS),
        "Weights": (weight_facts if everything else _choose(weight_facts, BRIEF_WEIGHTS)) | scores,
    }
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    grid.add_column(overflow="fold")
    for title, facts in sections.items():
        for i, (name, value) in enumerate(facts.items()):
            grid.add_row("" if i else title, *map(Text, (name, str(value))))  # Text: brackets mean nothing
    return grid


def _choose(facts: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the facts of these names."""
    return {name: facts[name] for name in names if name in facts}


def operator() -> dict[str, str]:
    """Say how each part of the compiled operator was built: {part: build}."""
    import fac_ext

    build = fac_ext.build_info()
    cuda = f"{build['cuda']}, for {build['cuda_architectures']}" if build["cuda"] else "not built in"
    return {"fac_ext": build["version"], "CPU kernels": build["cpu_simd"], "CUDA kernels": cuda}


def versions() -> dict[str, str]:
    """List the versions of packages: {package: version}."""
    import torch

    # torch.__version__ names the build too, "+cu130", which the metadata of a wheel may lack.
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def weight_file(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Describe a weight file by what is in it and by its card, the .json of the same name beside it.

    Returns:
        {fact: value}, and the scores, {measure, side and protocol: value}.

    Raises:
        FileNotFoundError: there is no such weight file.
        ValueError: it holds no weights of this network, or its card is none.
    """
    from stfan.model.weights import count, load

    model = load(path)
    facts = {
        "file": path,
        "size": f"{path.stat().st_size / 2**20:.1f} MiB",
        "preset": model.preset,
        "filters": f"{model.kernel_size} x {model.kernel_size}",
        "parameters": f"{count(model):,}",
    }
    card = path.with_suffix(".json")
    if not card.exists():
        return facts | {"card": "none beside it"}, {}
    try:
        content = json.loads(card.read_text())
        left_out = (*facts, "scores", "buckets")
        rest = {name: _summary(value) for name, value in content.items() if name not in left_out}
        scores = _scores(content.get("scores", {"protocol": None, "overall": {}}))
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{card}: not the card of a weight file: {error}") from error
    return facts | {"card": card} | rest, scores


def _scores(scores: dict[str, Any]) -> dict[str, str]:
    """List the overall scores of a card: {measure, side and protocol: value}."""
    overall, protocol = scores["overall"], scores["protocol"]
    return {
        f"{key.upper()} of {side} ({protocol})": f"{overall[side][key]:.{digits}f}"
        for key, digits in (("psnr", 2), ("ssim", 4))
        for side in ("input", "output")
        if side in overall
    }


def _summary(value: Any) -> Any:
    """Put a card's value into one line; of what is more than one level deep only the number is given."""
    if not isinstance(value, dict):
        return value
    return ", ".join(
        f"{len(part)} {name}" if isinstance(part, dict | list) else f"{name} {part}"
        for name, part in value.items()
    )
