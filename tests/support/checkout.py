"""Where things are, and commands that must succeed."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared" / "data"  # pictures and clips that a clone need not have


def run(*command, **options):
    """What a command says; its end is the message where it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def copy_sources(target, root=ROOT):
    """Copy a tree to a folder, without what was built from it."""
    ignore = shutil.ignore_patterns(".git", ".venv", "build", "*.so", "*.egg-info", "demo", "__pycache__")
    return shutil.copytree(root, target, ignore=ignore)


def replace_section(page, name, text):
    """Replace what stands between two comments <!-- name --> of a page."""
    mark = f"<!-- {name} -->"
    before, _, after = (ROOT / page).read_text().split(mark)
    (ROOT / page).write_text(f"{before}{mark}\n{text.strip()}\n{mark}{after}")
