"""`make gpu-pack`: put what `make gpu` and `make gpu-train` need into .gpu/, and say what travels and how large it is.

python pack.py --data DATA [--python PYTHON] [--most 64]

.gpu/photos has a crop of each picture of DATA/photos, .gpu/cutouts the cut-outs. --python is an interpreter of the
other machine's version with its torch (no GPU is needed): with nvcc here, an extension is built for it, which saves
that machine the time.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import machine
from PIL import Image

SIDE, QUALITY = 600, 92  # pixels and JPEG's quality of a crop: 0.1 MB each
ARCHITECTURES = "9.0"


def crop_pictures(source: Path, folder: Path) -> int:
    """Write a crop of each picture of a folder; return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for path in sorted(source.iterdir()):
        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
        except OSError:
            continue
        place = random.Random(path.name)
        left, top = (place.randint(0, max(full - SIDE, 0)) for full in picture.size)
        box = left, top, min(left + SIDE, picture.width), min(top + SIDE, picture.height)
        picture.crop(box).save(folder / f"{path.stem}.jpg", quality=QUALITY)
        count += 1
    return count


def build_extension(python: str, folder: Path) -> Path | None:
    """Build the extension for another Python in a copy of the tree; return its file, or None and say why."""
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work) / "tree"
        machine.copy_tree(tree)
        environment = os.environ | {"FAC_EXT_CUDA": "1", "TORCH_CUDA_ARCH_LIST": ARCHITECTURES}
        command = [python, "setup.py", "--quiet", "build_ext", "--inplace"]
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
        made = list((tree / "fac_ext").glob("_C*.so"))
        if done.returncode or not made:
            lines = done.stderr.strip().splitlines()
            print(
                f"no extension for {python}: {lines[-1] if lines else 'nothing was built'}", file=sys.stderr
            )
            return None
        return Path(shutil.copy(made[0], folder))


def megabytes(paths) -> float:
    """Return the size of files together."""
    return sum(path.stat().st_size for path in paths if path.is_file()) / 2**20


def tracked() -> list[Path]:
    """Return the files that git has, or all where there is no git."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=machine.ROOT, capture_output=True, text=True)
    names = done.stdout.split("\0")[:-1] if done.returncode == 0 else []
    return [machine.ROOT / name for name in names] or list(machine.ROOT.rglob("*"))


def main() -> None:
    """Fill the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path("data"), help="folder of photos/ and cutouts/ [%(default)s]")
    add("--to", type=Path, default=Path(".gpu"), help="[%(default)s]")
    add("--python", help="interpreter for which an extension is built")
    add("--most", type=float, default=64, help="MiB that may travel [%(default)s]")
    options = parser.parse_args()
    for part in ("photos", "cutouts"):
        if not (options.data / part).is_dir():
            sys.exit(f"make gpu-pack: there is no folder {options.data / part}")
    shutil.rmtree(options.to, ignore_errors=True)
    count = crop_pictures(options.data / "photos", options.to / "photos")
    shutil.copytree(options.data / "cutouts", options.to / "cutouts")
    ready = build_extension(options.python, options.to) if options.python else None
    packed, tree = megabytes(options.to.rglob("*")), megabytes(tracked())
    cutouts = len(list((options.to / "cutouts").iterdir()))
    print(
        f"{options.to}: {count} pictures, {cutouts} cut-outs, {ready.name if ready else 'no extension'}: {packed:.1f} MiB"
    )
    print(f"with the tree's {tree:.1f} MiB: {packed + tree:.1f} of {options.most:.0f} MiB")
    sys.exit(packed + tree > options.most)


if __name__ == "__main__":
    main()
