"""Checkpoints: the last good one survives, and what is damaged, hostile or of another run is refused."""

import errno
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("accelerate")

from stfan.training import checkpoint
from stfan.training.checkpoint import checkpoints, latest
from stfan.training.trainer import Trainer
from support.hostile import Hostile
from support.runs import small


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("[enforce fail at inline_container.cc]")],
)
def test_a_full_disk_keeps_the_last_good_checkpoint(clips, tmp_path, monkeypatch, error):
    """Also when PyTorch reports it in words of its own."""
    trainer = Trainer(small(clips), tmp_path, cpu=True)
    save = torch.save

    def full(content, path):
        if content["iteration"] == 8:
            raise error
        save(content, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"00000008: cannot be written: .*last good checkpoint is .*00000004"):
        trainer.train()
    assert [place.name for place in (tmp_path / "checkpoints").iterdir()] == ["00000004"]
    again = Trainer(small(clips), tmp_path, cpu=True)
    again.load(latest(tmp_path))
    assert again.iteration == 4


def test_a_damaged_checkpoint_is_named_and_the_one_before_it(clips, tmp_path):
    trainer = Trainer(small(clips), tmp_path, cpu=True)
    trainer.train()
    (tmp_path / "checkpoints" / "1notes.txt").write_text("mine")
    (latest(tmp_path) / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"00000008: is damaged: .*remove it to go on from .*00000004"):
        trainer.load(latest(tmp_path))
    shutil.rmtree(latest(tmp_path))
    other = Trainer(small(clips, kernel_size=3), tmp_path, cpu=True)
    with pytest.raises(ValueError, match="00000004: is of another network"):
        other.load(latest(tmp_path))


@pytest.mark.parametrize("old", [True, False])
def test_a_checkpoint_with_code_in_it_is_refused_and_runs_nothing(tmp_path, old):
    place, mark = tmp_path / "checkpoints" / "00000008", tmp_path / "mark"
    place.mkdir(parents=True)
    save_file({"a": torch.ones(3)}, place / "model.safetensors")
    state = {"iteration": Hostile(mark)}
    torch.save(state, place / "state.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError) as caught:
        checkpoint.read(place, ["model"])
    words = f"{place}/state.pt: refused: to load it would call posix.system; there is no other"
    assert str(caught.value) == words and not mark.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: [1, 2], "state.pt: must hold batches, curve, iteration, optimiser, processes"),
        (
            lambda state: {"iteration": 4},
            "state.pt: must hold batches, curve, iteration, optimiser, processes",
        ),
        (lambda state: state | {"optimiser": 3}, "00000004: is of another network: "),
        (lambda state: state | {"optimiser": {"state": {}}}, "00000004: is of another network: "),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(clips, tmp_path, change, words):
    trainer = Trainer(small(clips, iterations=4), tmp_path, cpu=True)
    trainer.iteration = 4
    trainer.save()
    path = latest(tmp_path) / "state.pt"
    torch.save(change(torch.load(path)), path)
    with pytest.raises(ValueError, match=words):
        trainer.load(latest(tmp_path))


def test_files_of_a_run_may_be_read_by_whom_the_umask_says(clips, tmp_path):
    before = os.umask(0o022)
    try:
        Trainer(small(clips, iterations=4), tmp_path, cpu=True).save()
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"weights.safetensors", "model.safetensors", "state.pt"} <= {path.name for path in files}
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {path.name: 0o644 for path in files}


def test_another_number_of_processes_is_another_run(clips, tmp_path):
    trainer = Trainer(small(clips, iterations=4), tmp_path, cpu=True)
    trainer.processes = 2
    trainer.save()
    with pytest.raises(ValueError, match="of a run with 2 processes, this one has 1"):
        Trainer(small(clips), tmp_path, cpu=True).load(latest(tmp_path))


def test_old_checkpoints_go(clips, tmp_path):
    Trainer(small(clips, iterations=16), tmp_path, cpu=True).train()
    assert [place.name for place in checkpoints(tmp_path)] == ["00000012", "00000016"]
