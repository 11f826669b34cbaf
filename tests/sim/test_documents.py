"""Examples in README.md and docs/ run: Python as it stands, files as they are read, commands as far as their options.

A block of Python that cannot run alone is marked ``python fragment``.
"""

import re
import shlex
import struct
from pathlib import Path

import pytest
import typer
from copy_dut import write_copy_dut

from rowmesh.sim.run import SimJob, run_test
from rowmesh.sw.cli import main as cli
from rowmesh.sw.inputs import arch as spec
from rowmesh.sw.mapping.dataflow import load_dataflows
from rowmesh.sw.mapping.file import read_mappings
from rowmesh.sw.model.energy import load_energy
from rowmesh.sw.program.assemble import cannot_run
from rowmesh.sw.workload.layer import load_workload

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(*kinds):
    """Yield the blocks of some kinds, as parameters of a test."""
    for path in DOCUMENTS:
        text = path.read_text()
        for found in _BLOCK.finditer(text):
            if found[1] in kinds:
                line = text.count("\n", 0, found.start()) + 1
                yield pytest.param(found[2], id=f"{path.name}:{line}")


def test_every_block_is_of_a_kind_that_is_checked():
    kinds = {found[1] for path in DOCUMENTS for found in _BLOCK.finditer(path.read_text())}
    assert kinds <= {"", "mermaid", "python", "python fragment", "sh", "yaml"}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """What the examples of docs/simulation.md are of: a design, its program, data, and what it shall leave behind."""
    data = bytes(range(256)) * 16
    program = struct.pack("<QQQ", 0x1000, 0x8000, 128)  # beats
    folder = write_copy_dut(tmp_path_factory.mktemp("copy"))
    return {"folder": folder, "program": program, "data": data, "expected": data[:1024].ljust(4096, b"\0")}


@pytest.mark.parametrize("text", [*blocks("python")])
def test_python_runs(text, job, tmp_path, monkeypatch):
    if "@cocotb.test" not in text:
        exec(compile(text, "example", "exec"), dict(job))
        return
    (tmp_path / "my_checks.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)  # the simulation's process gets this one's path
    contents = {"image": [(0x100, job["program"]), (0x1000, job["data"])], "dumps": [(0x8000, 1024)]}
    (dump,) = run_test(
        SimJob(verilog_dir=job["folder"], memory_size=1 << 20, program_address=0x100, **contents), "my_checks"
    )
    assert dump == bytes(8) + job["data"][8:1024]  # between its two runs the example clears the first word


_READERS = {
    "architecture": lambda path: spec.load_arch(path),
    "workload": lambda path: load_workload(path),
    "dataflow": lambda path: load_dataflows(path),
    "energy": lambda path: load_energy(path),
    "mapping": lambda path: read_mappings(
        path,
        spec.load_arch("eyeriss"),
        [layer for layer in load_workload("alexnet").layers if layer.name == "CONV3"],
        cannot_run,
    ),
}


@pytest.mark.parametrize("text", [*blocks("yaml")])
def test_files_are_read(text, tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text(text)
    assert _READERS[text.split(":")[0]](str(path))


def commands():
    """Yield every command line that a block without Python in it shows."""
    for block in blocks("", "sh"):
        for line in block.values[0].splitlines():
            words = shlex.split(line, comments=True) if re.match("(rowmesh|make|pytest|python) [^=|]*", line) else []
            if words:
                yield pytest.param(words, id=f"{block.id} {' '.join(words)}")


@pytest.mark.parametrize("words", [*commands()])
def test_commands_exist_with_their_options(words):
    program, *arguments = words
    if program == "rowmesh":
        group = typer.main.get_command(cli.app)
        with typer.main.get_command(cli.app).make_context("rowmesh", [*arguments]) as context:
            name, command, rest = group.resolve_command(context, arguments)
            command.make_context(name, rest, parent=context).close()
        return
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    known = targets if program == "make" else [path for path in arguments if (ROOT / path).exists()]
    assert [word for word in arguments if word in known]


def test_there_are_examples_of_all_kinds():
    assert min(len(list(blocks(kind))) for kind in ("python", "yaml")) >= 3
    assert len(list(commands())) >= 20
