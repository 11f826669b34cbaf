"""Packages import what is below them, and nothing else: no cycle, types included."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LAYERS = [
    "hw",
    "sim.cache sim.machine sim.tools",
    "sim",
    "sw.inputs",
    "sw.jit",
    "sw.workload",
    "sw.mapping",
    "sw.program",
    "sw.model",
    "sw.search",
    "sw.results",
    "sw.run",
    "sw.report",
    "sw.cli",
]
"""From below: a package imports itself and those above it in this list, but `sim` and `hw` nothing of each other."""

BELOW_RUN = {"sim"}
"""What of the simulation only runs need; its cache and lists of tools are for all."""


def imports(path):
    """Modules of rowmesh that a module imports, those for types alone too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rowmesh."):
            for alias in node.names:
                name = f"{node.module}.{alias.name}".removeprefix("rowmesh.")
                known = (ROOT / name.replace(".", "/")).is_dir() or (ROOT / f"{name.replace('.', '/')}.py").exists()
                yield name if known else node.module.removeprefix("rowmesh.")
        elif isinstance(node, ast.Import):
            yield from (one.name.removeprefix("rowmesh.") for one in node.names if one.name.startswith("rowmesh."))


def modules(top):
    for path in sorted((ROOT / top).rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), path


def level(module):
    """Place of a module's package in the list: of the longest name that fits."""
    fits = [
        (len(name), number)
        for number, names in enumerate(LAYERS)
        for name in names.split()
        if module == name or module.startswith(f"{name}.")
    ]
    return max(fits)[1]


ALL = {name: set(imports(path)) for top in ("hw", "sim", "sw") for name, path in modules(top)}


def test_packages_import_what_is_below_them():
    wrong = []
    for name, found in ALL.items():
        for other in found - {"sw", "sim", "hw"}:
            own, below = level(name) if name not in ("sw", "sim", "hw") else 0, level(other)
            apart = name.startswith(("hw", "sim")) and other.split(".")[0] != name.split(".")[0]
            simulation = LAYERS[below] in BELOW_RUN and name.startswith("sw.") and own < LAYERS.index("sw.run")
            if below > own or apart or simulation:
                wrong.append(f"{name} imports {other}")
    assert wrong == []


def test_no_module_is_imported_in_a_circle():
    done, active = set(), []

    def visit(name):
        assert name not in active, " imports ".join([*active[active.index(name) :], name])
        if name in done or name not in ALL:
            return
        active.append(name)
        for other in sorted(ALL[name]):
            visit(other)
        done.add(active.pop())

    for name in ALL:
        visit(name)


def test_no_folder_has_more_than_16_modules():
    for folder in {path.parent for _, path in modules("sw")}:
        assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 16, folder


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("rowmesh.sw.search.mapper", "cocotb"),
        ("rowmesh.sw.cli.main", "numba"),
        ("rowmesh.sw.cli.main", "amaranth"),
        ("rowmesh.sw.cli.main", "numpy"),
        ("rowmesh.sw.cli.main", "matplotlib"),
    ],
)
def test_what_is_not_needed_is_not_imported(module, without):
    program = f"import sys, {module}; sys.exit({without!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
