"""Pictures and cut-outs for synthetic clips."""

import pytest

from support.discs import discs


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return discs(tmp_path_factory.mktemp("synth") / "pictures", 12)


@pytest.fixture(scope="module")
def cutouts(tmp_path_factory):
    return discs(tmp_path_factory.mktemp("synth") / "cutouts", 3, 40, alpha=True)
