"""What is predicted of a run and what is counted: cycles by part, and access counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rowmesh.hw.parts import PARTS

__all__ = ["ACCESSES", "PARTS", "Measurement", "Prediction"]

#: What is counted, in data words of the type's width.
ACCESSES = (
    "dram.iact.read",
    "dram.weight.read",
    "dram.param.read",
    "dram.ofmap.write",
    "glb.iact.write",
    "glb.iact.read",
    "glb.weight.write",
    "glb.weight.read",
    "glb.psum.write",
    "glb.psum.read",
    "glb.psum.drain",
    "noc.iact.injected",
    "noc.iact.delivered",
    "noc.weight.injected",
    "noc.weight.delivered",
    "noc.psum.delivered",
    "noc.iact.hops",
    "noc.weight.hops",
    "noc.psum.hops",
    "spad.iact.read",
    "spad.weight.read",
    "spad.psum.read",
    "spad.psum.write",
    "pe.mac",
)


@dataclass(frozen=True, kw_only=True)
class _Performance:
    """Cycles, where they went, and words moved.

    Parameters
    ----------
    cycles : int
        From the start write to the interrupt.
    parts : Mapping
        Cycles by cause; the keys are exactly :data:`PARTS`.
    accesses : Mapping
        Words; the keys are exactly :data:`ACCESSES`.
    pe_macs : sequence of sequences of int
        Multiply-accumulates of each PE, row after row, where the hardware counts them (``pe_counters``).

    Raises
    ------
    ValueError
        For missing or unknown keys.
    """

    cycles: int
    parts: Mapping[str, int]
    accesses: Mapping[str, int]
    pe_macs: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        for kind, names in (("parts", PARTS), ("accesses", ACCESSES)):
            given = getattr(self, kind)
            if set(given) != set(names):
                wrong = ", ".join(sorted(set(given) ^ set(names)))
                raise ValueError(f"{type(self).__name__}.{kind} must have exactly its named keys; wrong: {wrong}")
            # one order everywhere, and no alias of the caller's dictionary
            object.__setattr__(self, kind, {name: int(given[name]) for name in names})

    def words(self, level: str) -> int:
        """Return the words of all counters of a level (``dram``, ``glb``, ``noc``, ``spad``, ``pe``)."""
        return sum(count for name, count in self.accesses.items() if name.startswith(f"{level}."))

    def to_json(self) -> dict[str, Any]:
        """Return cycles, parts and accesses as plain values."""
        counted = {"pe_macs": [list(row) for row in self.pe_macs]} if self.pe_macs else {}
        return {"cycles": self.cycles, "parts": dict(self.parts), "accesses": dict(self.accesses), **counted}


@dataclass(frozen=True, kw_only=True)
class Prediction(_Performance):
    """What the model says."""


@dataclass(frozen=True, kw_only=True)
class Measurement(_Performance):
    """What the RTL's counters say."""
