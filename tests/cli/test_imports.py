"""Help and refusals come at once: torch takes seconds to import, and they do not need it."""

import sys

import pytest

from support.checkout import run

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
