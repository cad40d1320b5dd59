"""The layers of stfan: what is imported never goes up, and never round in a circle."""

import ast

import pytest

from support.checkout import ROOT

# From the lowest to the highest. Units of one layer do not import each other, and a unit imports only from layers
# below.
LAYERS = (
    ("files", "devices", "internal_errors", "rng", "scene_cuts"),
    ("images",),
    ("data", "evaluation", "model", "video"),
    ("synthesis",),
    ("training",),
    ("cli",),
)
LEVELS = {unit: level for level, units in enumerate(LAYERS) for unit in units}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "stfan").rglob("*.py"))}


def imports(path):
    """The modules of stfan that a file imports anywhere, inside functions and for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports are not used"
            # Either a name of a module, or a module of a package.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        found.update(name for name in names if name in MODULES)
    return found


def unit_of(module):
    """The folder of stfan that a module is in, or the module itself; None for stfan and stfan.__main__."""
    parts = module.split(".")
    return None if parts[1:] in ([], ["__main__"]) else parts[1]


GRAPH = {module: imports(path) for module, path in MODULES.items()}


def test_every_unit_is_in_a_layer():
    assert {unit_of(module) for module in MODULES} - {None} == set(LEVELS)


@pytest.mark.parametrize("module", [module for module in GRAPH if unit_of(module)])
def test_imports_go_down(module):
    unit = unit_of(module)
    for other in GRAPH[module]:
        target = unit_of(other)
        if target not in (None, unit):
            assert LEVELS[target] < LEVELS[unit], f"{module} imports {other}, which is not in a lower layer"


def test_no_circles():
    finished = set()

    def visit(module, way):
        assert module not in way, f"a circle: {' -> '.join([*way[way.index(module) :], module])}"
        if module not in finished:
            for other in sorted(GRAPH[module]):
                visit(other, [*way, module])
            finished.add(module)

    for module in GRAPH:
        visit(module, [])
