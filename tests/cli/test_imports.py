"""What is imported, and when: help and refusals do without torch, which takes seconds; missing packages."""

import importlib
import os
import subprocess
import sys

import pytest

from support.checkout import ROOT, run

CODE = """
import sys
sys.argv = ["stfan", *{arguments!r}]
from stfan.__main__ import main
try:
    main()
except SystemExit:
    pass
print("torch" in sys.modules)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["deblur", "--tile", "3", "in.mp4"]], ids=" ".join)
def test_torch_is_not_imported(arguments):
    assert run(sys.executable, "-c", CODE.format(arguments=arguments)).splitlines().count("False") == 1


@pytest.mark.parametrize(
    ("module", "line", "arguments", "words"),
    [
        (
            "accelerate",
            None,
            ["train", "run"],
            "stfan train needs accelerate; run: pip install 'fac-ext[train]'",
        ),
        (
            "accelerate",
            "raise ModuleNotFoundError('no such thing')",
            ["train", "run"],
            "stfan train cannot be loaded: no such thing; run: pip install 'fac-ext[train]'",
        ),
        (
            "accelerate",
            "raise ImportError('too old')",
            ["train", "run"],
            "stfan train cannot be loaded: too old; run: pip install 'fac-ext[train]'",
        ),
        ("av", None, ["deblur", "in.mp4"], "the command line needs av; run: pip install 'fac-ext[video]'"),
        (
            "typer",
            "raise ModuleNotFoundError('no such thing')",
            ["info"],
            "the command line cannot be loaded: no such thing; run: pip install 'fac-ext[video]'",
        ),
    ],
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, capsys, module, line, arguments, words):
    """By a stand-in that raises what the import of it would, and the package imported anew."""
    line = line or f"raise ModuleNotFoundError('No module named {module}', name={module!r})"
    (tmp_path / f"{module}.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stfan", *arguments])

    def imported():
        return {name: one for name, one in sys.modules.items() if name.split(".")[0] in ("stfan", module)}

    before = imported()
    for name in before:
        del sys.modules[name]
    try:
        with pytest.raises(SystemExit) as end:
            importlib.import_module("stfan.__main__").main()
    finally:
        for name in imported():
            del sys.modules[name]
        sys.modules.update(before)
    out, err = capsys.readouterr()
    if end.value.code != 1:  # Python prints words, and exits with 1
        err += f"{end.value.code}\n"
    assert (out, err) == ("", f"stfan: {words}\n")


def test_a_process_that_lacks_a_package(tmp_path):
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError('No module named typer', name='typer')")
    done = subprocess.run(
        [sys.executable, "-m", "stfan", "info"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )
    words = "stfan: the command line needs typer; run: pip install 'fac-ext[video]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", words)
