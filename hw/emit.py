"""Verilog emission: every distinct block once, instantiated by name."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from amaranth.back import rtlil  # type: ignore[attr-defined]

from rowmesh.hw.block import Block, Emission
from rowmesh.hw.names import names_from_source
from rowmesh.hw.verilog import tidy

__all__ = ["convert", "emit"]

_ATTRIBUTES = "generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding"


def _script(source: Path, target: Path, initial_values: bool) -> list[str]:
    """Return what yosys has to do."""
    attributes = " ".join(f"-remove {name}" for name in _ATTRIBUTES)
    without = ["setattr -unset init w:*", "delete t:$meminit*"]  # of registers, of memories
    return [
        f"read_rtlil {source}",
        "delete w:* s:0 %i",  # ports and wires without bits, for which Verilog has no notation
        "proc -nomux -norom",
        *([] if initial_values else without),
        "memory_collect",
        f"attrmap {attributes}",
        f"attrmap -modattr {attributes}",
        f"write_verilog -norename {target}",
    ]


def convert(emission: Emission) -> str:
    """Return the RTLIL of all modules; it depends on the sources alone, not on the interpreter that runs them."""
    texts = []
    with names_from_source():
        while (entry := emission.take()) is not None:
            module, block = entry
            texts.append(rtlil.convert(block, name=module, platform=emission, emit_src=False))
    return "\n".join(texts)


def emit(top: Block, name: str, *, prefix: str = "", initial_values: bool = True) -> tuple[str, list[str], list[str]]:
    """Return the Verilog-2005 text of a design, the names of its modules, and of those the shared ones.

    Parameters
    ----------
    top : Block
    name : str
        Module name of the top; its ports are the signature's paths joined by two underscores.
    prefix : str
        What the names of all other modules begin with.
    initial_values : bool
        Registers and memories begin with their reset value, as in an FPGA; otherwise with nothing, as in an ASIC.
    """
    emission = Emission(top, name, prefix)
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "design.il"), Path(folder, "design.v")
        try:
            source.write_text(convert(emission), encoding="utf-8")
        except OSError as error:  # the system does not say which file has no room
            raise OSError(error.errno, error.strerror, str(source)) from error
        script = _script(source, target, initial_values)
        code = f"from pyosys import libyosys as ys; d = ys.Design(); [d.run_pass(p) for p in {script!r}]"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        verilog = tidy(target.read_text(encoding="utf-8"))
    return verilog, re.findall(r"^module \\?(\S+?)\s*\(", verilog, flags=re.MULTILINE), emission.shared
