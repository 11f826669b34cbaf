"""Verilog emission: every distinct block once, instantiated by name."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from amaranth.back import rtlil  # type: ignore[attr-defined]

from rowmesh.hw.block import Block, Emission
from rowmesh.hw.verilog import tidy

__all__ = ["emit"]

_SCRIPT = (
    "read_rtlil {source}",
    "delete w:* s:0 %i",  # ports and wires without bits, for which Verilog has no notation
    "proc -nomux -norom",
    "memory_collect",
    "attrmap {attributes}",
    "attrmap -modattr {attributes}",
    "write_verilog -norename {target}",
)
_ATTRIBUTES = "generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding"


def emit(top: Block, name: str) -> tuple[str, list[str], list[str]]:
    """Return the Verilog-2005 text of a design, the names of its modules, and of those the shared ones.

    Parameters
    ----------
    top : Block
    name : str
        Module name of the top; its ports are the signature's paths joined by two underscores.
    """
    emission = Emission(top, name)
    texts = []
    while (entry := emission.take()) is not None:
        module, block = entry
        texts.append(rtlil.convert(block, name=module, platform=emission, emit_src=False))
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "design.il"), Path(folder, "design.v")
        try:
            source.write_text("\n".join(texts))
        except OSError as error:  # the system does not say which file has no room
            raise OSError(error.errno, error.strerror, str(source)) from error
        attributes = " ".join(f"-remove {name}" for name in _ATTRIBUTES)
        script = [line.format(source=source, target=target, attributes=attributes) for line in _SCRIPT]
        code = f"from pyosys import libyosys as ys; d = ys.Design(); [d.run_pass(p) for p in {script!r}]"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        verilog = tidy(target.read_text())
    return verilog, re.findall(r"^module \\?(\S+?)\s*\(", verilog, flags=re.MULTILINE), emission.shared
