"""Where things are, and commands that must succeed."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SHARED = ROOT.parent / "shared" / "data"  # pictures and clips that a clone need not have


def run(*command, **options):
    """What a command says; its end is the message where it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr
