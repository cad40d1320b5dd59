"""What the tests of training share."""

import pytest


@pytest.fixture
def clips(moving_clips):
    return moving_clips
