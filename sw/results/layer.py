"""What a run found: prediction and RTL side by side, and the verdict.

The JSON of ``rowmesh run`` is a list of :meth:`LayerResult.to_json`; its names are stable.
"""

import itertools
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rowmesh.sw.model.performance import ACCESSES, PARTS, Measurement, Prediction
from rowmesh.sw.results.provenance import RUN_SCHEMA, written_by

__all__ = [
    "LayerResult",
    "Outputs",
    "tolerance",
]

_SHORT_RUN = 50_000
_SHORT_TOLERANCE = 200
_DIVISOR = 50  # 2 %


def tolerance(cycles: int) -> int:
    """Return by how many cycles a prediction may be off.

    Parameters
    ----------
    cycles : int
        The RTL's total; the same tolerance holds for the total and for each part.

    Returns
    -------
    int
        2 % of the total, or 200 cycles below 50 000.
    """
    return cycles // _DIVISOR if cycles >= _SHORT_RUN else _SHORT_TOLERANCE


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The comparison with the golden model.

    Parameters
    ----------
    checked : int
        Output words compared.
    mismatches : int
        Words that differ.
    where : str
        Names of the layers with such words.
    """

    checked: int
    mismatches: int
    where: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the two counts."""
        return {"checked": self.checked, "mismatches": self.mismatches}


@dataclass(frozen=True, kw_only=True)
class LayerResult:
    """One layer's run.

    Parameters
    ----------
    layer, dataflow : str
        Names.
    mapping : Mapping
        The mapping, as values that JSON can hold.
    predicted : Prediction
    rtl : Measurement
    outputs : Outputs
    macs : int
        Useful multiply-accumulates of the layer.
    pes : int
        PEs of the array.
    cycles_per_second : float
        Speed of the simulation.
    zero_macs, gated_macs : int
        Multiply-accumulates with a zero operand, by the data; those for which the RTL kept its multipliers still.
    memory : str
        Memory of the simulation. Cycles are predicted for ``fast`` only; with another one they are reported
        and not judged.
    arch, shape : Mapping
        Parameters of the architecture; the layer's fields, as of a workload file.
    search : Mapping
        How the mapping was found: ``dataflow``, ``objective`` and table of ``energy``, or the file ``mapping``.
    """

    layer: str
    dataflow: str
    mapping: Mapping[str, Any]
    predicted: Prediction
    rtl: Measurement
    outputs: Outputs
    macs: int
    pes: int
    cycles_per_second: float
    zero_macs: int = 0
    gated_macs: int = 0
    memory: str = "fast"
    arch: Mapping[str, Any] = field(default_factory=dict)
    shape: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)

    @property
    def utilization(self) -> float:
        """Useful MACs per PE and cycle of the RTL."""
        slots = self.rtl.cycles * self.pes
        return self.macs / slots if slots else 0.0

    @property
    def judges_cycles(self) -> bool:
        """Whether the memory is the one that the model predicts."""
        return self.memory == "fast"

    @property
    def passed(self) -> bool:
        """Whether every output word matches and every prediction holds."""
        return not self.failures()

    def failures(self) -> list[str]:
        """Return what is wrong, a line each; nothing if the layer passes."""
        reasons = []
        if self.outputs.checked <= 0:
            reasons.append("outputs: none was compared")
        if self.outputs.mismatches:
            where = f" in {self.outputs.where}" if self.outputs.where not in ("", self.layer) else ""
            reasons.append(f"outputs: {self.outputs.mismatches:,} of {self.outputs.checked:,} words differ{where}")
        allowed = tolerance(self.rtl.cycles)
        pairs = [("cycles", self.predicted.cycles, self.rtl.cycles)]
        pairs += [(f"part {name}", self.predicted.parts[name], self.rtl.parts[name]) for name in PARTS]
        for name, predicted, counted in pairs if self.judges_cycles else []:
            if abs(predicted - counted) > allowed:
                reasons.append(
                    f"{name}: predicted {predicted:,}, RTL {counted:,} cycles, "
                    f"off by {abs(predicted - counted):,} (tolerance {allowed:,})"
                )
        for name, performance in (("predicted", self.predicted), ("RTL", self.rtl)):
            total = sum(performance.parts.values())
            if total != performance.cycles:
                reasons.append(f"parts: the {name} parts add up to {total:,}, not to {performance.cycles:,} cycles")
        for name in ACCESSES:
            predicted, counted = self.predicted.accesses[name], self.rtl.accesses[name]
            if predicted != counted:
                reasons.append(f"{name}: predicted {predicted:,}, counted {counted:,} words")
        expected, found = ([*itertools.chain(*each.pe_macs)] for each in (self.predicted, self.rtl))
        if expected != found:
            wrong = sum(map(operator.ne, expected, found)) + abs(len(expected) - len(found))
            reasons.append(f"pe_macs: {wrong:,} of {len(found):,} PEs counted other MACs than predicted")
        if self.zero_macs != self.gated_macs:
            reasons.append(f"gated: {self.zero_macs:,} MACs have a zero operand, {self.gated_macs:,} were gated")
        return reasons

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values, and which rowmesh they are of."""
        return {
            **written_by(RUN_SCHEMA),
            "layer": self.layer,
            "dataflow": self.dataflow,
            "mapping": dict(self.mapping),
            "predicted": self.predicted.to_json(),
            "rtl": self.rtl.to_json(),
            "outputs": self.outputs.to_json(),
            "macs": self.macs,
            "gated": {"zero": self.zero_macs, "counted": self.gated_macs},
            "pes": self.pes,
            "utilization": self.utilization,
            "cycles_per_second": self.cycles_per_second,
            "memory": self.memory,
            "arch": dict(self.arch),
            "shape": dict(self.shape),
            "search": dict(self.search),
        }
