"""The PEP 517 backend: setuptools' own, told where the installed torch is.

pip builds in an isolated environment that hides site-packages, so a package that needs torch to build would
download gigabytes of it, and perhaps another version than the one it will run with. Only the path is hidden,
not the place: if torch is installed where this Python keeps its packages, that folder is put at the end of
sys.path and torch is not asked for.
"""

import site
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

from setuptools.build_meta import *  # noqa: F403

_venv = Path(sys.prefix, "pyvenv.cfg")
_places = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
if not _venv.exists() or "include-system-site-packages = true" in _venv.read_text():
    base = {"base": sys.base_prefix, "platbase": sys.base_prefix}
    _places += [sysconfig.get_path("purelib", vars=base), site.getusersitepackages()]
_found = PathFinder.find_spec("torch", [*sys.path, *_places]) is not None
if _found:
    sys.path += [place for place in _places if place not in sys.path]


def _requirements(config_settings=None):
    return [] if _found else ["torch>=2.10"]


get_requires_for_build_wheel = get_requires_for_build_editable = get_requires_for_build_sdist = _requirements
