"""What the tests of training share."""

import pytest


@pytest.fixture(autouse=True)
def fresh():
    """Reset accelerate, which holds the first Accelerator's settings for all that follow in a process."""
    yield
    try:
        from accelerate.state import AcceleratorState
    except ImportError:
        return
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def clips(moving_clips):
    return moving_clips
