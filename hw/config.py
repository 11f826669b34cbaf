"""What sizes the hardware: one frozen, validated record, the input of every generator function.

What changes from layer to layer is a descriptor field (see :mod:`rowmesh.hw.descriptor`), never a parameter.
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "CHOICES",
    "COORDINATE_WIDTH",
    "MOST_CLUSTERS",
    "MOST_COUNTED",
    "MOST_MODELLED",
    "MOST_PORTS",
    "RANGES",
    "REGION_WIDTH",
    "ArchConfig",
    "ConfigError",
    "ConfigTypeError",
]

MOST_PORTS = 4
"""Ports of an operand."""

MOST_CLUSTERS = 32
"""Clusters of a mesh in hardware: bits of the word that selects those that are configured."""

MOST_COUNTED = 400
"""PEs that can have a performance counter each: as many as have a register beside the other counters."""

MOST_MODELLED = 4096
"""Clusters of a mesh that mapper and model take."""


COORDINATE_WIDTH = 16
"""Bits of a row, a column or a channel block of a tensor, signed: outside it lies padding."""

REGION_WIDTH = 32
"""Bits of an address that the loop nests count in, at most."""

RANGES: Mapping[str, tuple[int, int]] = {
    "rows": (1, 64),
    "cols": (1, 64),
    "mesh_rows": (1, MOST_MODELLED),
    "mesh_cols": (1, MOST_MODELLED),
    "iact_spad": (2, 1024),
    "weight_spad": (2, 4096),
    "psum_spad": (1, 1024),
    "iact_ports": (1, MOST_PORTS),
    "weight_ports": (1, MOST_PORTS),
    "glb_iact_flits": (16, 1 << 16),
    "glb_weight_flits": (16, 1 << 16),
    "psum_bank_words": (16, 1 << 16),
    "param_words": (8, 4096),
    "drain_lanes": (0, 64 * MOST_MODELLED),
    "axi_addr_width": (32, 64),
    "burst_beats": (1, 256),
    "read_bursts": (2, 64),
    "tag_width": (4, 8),
    "edge_flags": (1, 8),
    "uop_fifo": (2, 64),
    "chain_fifo": (2, 64),
    "nest_levels": (6, 16),
    "link_segment": (1, 16),
}
"""Smallest and largest value of each number, whatever the others are."""

CHOICES: Mapping[str, tuple[int, ...]] = {
    "data_width": (8, 16),
    "axi_data_width": (64, 128, 256, 512),
    "acc_width": (24, 32),
}
"""Values of the numbers that are one of a few."""


class ConfigError(ValueError):
    """Parameters outside their rules; the message names of each field, value, rule and the nearest legal value.

    Parameters
    ----------
    message : str
    complaints : sequence of (str, str)
        Field and what is wrong with it, if it is about fields of :class:`ArchConfig`.
    """

    def __init__(self, message: str, complaints: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        self.complaints = tuple(complaints)


class ConfigTypeError(ConfigError, TypeError):
    """Some of the parameters are of the wrong type."""


def _nearest(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


def _refused(complaints: Sequence[tuple[str, str]], kind: type[ConfigError] = ConfigError) -> ConfigError:
    return kind("; ".join(f"ArchConfig.{field} {text}" for field, text in complaints), complaints)


@dataclass(frozen=True, kw_only=True)
class ArchConfig:
    """Parameters of one generated accelerator.

    Depths are usable words; a memory may be built deeper where wrapping is cheaper. A *flit* is one AXI beat
    of data words, the unit of every link outside the PE rows.

    Parameters
    ----------
    name : str
        Name of the configuration, copied to the metadata beside the Verilog.
    rows, cols : int
        PEs of a cluster: rows along a psum chain, columns across.
    mesh_rows, mesh_cols : int
        Clusters: rows northwards, the way of the psums, columns eastwards. Each has banks and routers of its own.
        There is no hardware beyond MOST_CLUSTERS, only the model.
    data_width : int
        Bits of an iact and of a weight, 8 or 16, signed.
    acc_width : int
        Bits of a psum; arithmetic wraps at this width.
    iact_spad, weight_spad, psum_spad : int
        Words of a PE's three local buffers.
    iact_ports, weight_ports : int
        Ports of each operand into the array, of a load engine, a global buffer bank and a reader each. A port feeds as
        many rows, or the first one all of them, as the layer's program says.
    glb_iact_flits, glb_weight_flits : int
        Flits of the global buffer bank of each port.
    psum_bank_words : int
        Psums of each column's accumulating bank (part of the global buffer).
    param_words : int
        Output channels whose bias and scale the post-processing unit holds.
    drain_lanes : int
        Columns whose psums are post-processed together, of neighbouring clusters if there are more of them than a
        cluster has; 0: as many as a beat has data words, or as there are.
    axi_data_width, axi_addr_width : int
        Memory port, in bits.
    burst_beats : int
        Longest AXI burst, in beats.
    read_bursts : int
        Read bursts in flight.
    tag_width : int
        Bits of each of the two multicast tag fields.
    edge_flags : int
        Edge flags carried by flits and steps: a PE that is absent at an edge skips what carries its flag.
    uop_fifo, chain_fifo : int
        Entries of a PE's step FIFO and of its psum FIFO.
    nest_levels : int
        Loops of each engine's nest.
    max_pooling : bool
        Whether PEs can keep the largest product of a window.
    pe_counters : bool
        A performance counter of multiply-accumulates for each PE, beside that of all; up to MOST_COUNTED PEs.
    link_segment : int
        Hops between two fully registered links (registered valid and ready); hops between have a registered
        valid only. Smaller is faster in clock and larger in area.

    Raises
    ------
    ConfigError
        For a value outside its rule.
    TypeError
        For a value of the wrong type.
    """

    name: str = "custom"
    rows: int = 4
    cols: int = 4
    mesh_rows: int = 1
    mesh_cols: int = 1
    data_width: int = 8
    acc_width: int = 32
    iact_spad: int = 16
    weight_spad: int = 224
    psum_spad: int = 24
    iact_ports: int = 1
    weight_ports: int = 1
    glb_iact_flits: int = 1024
    glb_weight_flits: int = 256
    psum_bank_words: int = 512
    param_words: int = 256
    drain_lanes: int = 0
    axi_data_width: int = 64
    axi_addr_width: int = 32
    burst_beats: int = 16
    read_bursts: int = 16
    tag_width: int = 8
    edge_flags: int = 4
    uop_fifo: int = 8
    chain_fifo: int = 8
    max_pooling: bool = True
    nest_levels: int = 10
    pe_counters: bool = False
    link_segment: int = 4

    def __post_init__(self) -> None:
        wrong = list(self._wrong_types())
        typed = {field for field, _ in wrong}
        complaints = [*wrong, *self._outside(typed)] or list(self._conflicts())
        if complaints:
            raise _refused(complaints, ConfigTypeError if wrong else ConfigError)

    def _wrong_types(self) -> Iterator[tuple[str, str]]:
        """Yield the fields whose values are of another type."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is not field.type:
                kind = field.type.__name__ if isinstance(field.type, type) else field.type
                advice = " (nearest legal value: true)" if field.type is bool else ""
                yield field.name, f"must be of type {kind}, not {value!r}{advice}"

    def _outside(self, untyped: Collection[str]) -> Iterator[tuple[str, str]]:
        """Yield the numbers that are outside their own ranges, but for those that are no numbers."""
        for name, legal in CHOICES.items():
            value = getattr(self, name)
            if name not in untyped and value not in legal:
                near = min(legal, key=lambda option: abs(option - value))
                options = ", ".join(map(str, legal))
                yield name, f"must be one of {options}, not {value} (nearest legal value: {near})"
        for name, (low, high) in RANGES.items():
            if name not in untyped:
                yield from self._beyond(name, low, high)

    def _beyond(self, name: str, low: int, high: int) -> Iterator[tuple[str, str]]:
        value = getattr(self, name)
        if not low <= value <= high:
            near = _nearest(value, low, high)
            yield name, f"must be from {low} to {high}, not {value} (nearest legal value: {near})"

    def _conflicts(self) -> Iterator[tuple[str, str]]:
        """Yield what is wrong with several fields together, each of which is right by itself."""
        yield from self._beyond("mesh_cols", 1, MOST_MODELLED // self.mesh_rows)
        for name in ("iact_ports", "weight_ports"):
            value = getattr(self, name)
            if self.rows % value or value not in (1, self.ports):
                rule = "must divide the rows" if self.rows % value else "must be 1 or as many as the other operand's"
                near = max(d for d in range(1, value) if self.rows % d == 0 and d in (1, self.ports))
                yield (
                    name,
                    f"{rule} ({self.rows if self.rows % value else self.ports}), not {value} "
                    f"(nearest legal value: {near})",
                )
        if self.pe_counters and self.pes > MOST_COUNTED:
            yield (
                "pe_counters",
                f"must be false with more than {MOST_COUNTED} PEs, not true with {self.pes} "
                "(nearest legal value: false)",
            )
        if self.drain_lanes > self.clusters * self.cols:
            yield from self._beyond("drain_lanes", 0, self.clusters * self.cols)
        elif self.drain_lanes > self.cols and self.all_lanes != self.drain_lanes:
            yield (
                "drain_lanes",
                f"beyond a cluster's columns ({self.cols}) must be those of clusters that divide a row of the mesh, "
                f"or of rows that divide its rows, not {self.drain_lanes} (nearest legal value: {self.all_lanes})",
            )
        burst = self.burst_beats
        if burst & (burst - 1):
            near = 1 << (burst.bit_length() - 1)
            yield "burst_beats", f"must be a power of two, not {burst} (nearest legal value: {near})"
            return
        for name, bursts, unit in (
            ("glb_iact_flits", 2, "flits"),
            ("glb_weight_flits", 2, "flits"),
            ("param_words", 1, "parameters"),
        ):
            if getattr(self, name) < bursts * burst:
                much = "two bursts" if bursts > 1 else "a burst"
                yield (
                    name,
                    f"must be at least {much} ({bursts * burst} {unit} with burst_beats {burst}), "
                    f"not {getattr(self, name)} (nearest legal value: {bursts * burst})",
                )

    def check_buildable(self) -> None:
        """Check that there is hardware of it, and not only the model.

        Raises
        ------
        ConfigError
            If not.
        """
        if self.clusters > MOST_CLUSTERS:
            name, other = ("rows", "cols") if self.mesh_cols <= MOST_CLUSTERS else ("cols", "rows")
            near = max(1, MOST_CLUSTERS // getattr(self, f"mesh_{other}"))
            text = (
                f"must be at most {near} to be generated or run, {MOST_CLUSTERS} clusters "
                f"in all, not {getattr(self, f'mesh_{name}')}: beyond there is only the model "
                f"(nearest legal value: {near})"
            )
            raise _refused([(f"mesh_{name}", text)])

    @property
    def clusters(self) -> int:
        """Clusters of the mesh."""
        return self.mesh_rows * self.mesh_cols

    @property
    def cluster(self) -> "ArchConfig":
        """A cluster alone."""
        if self.clusters == 1:
            return self
        return self.replace(mesh_rows=1, mesh_cols=1, drain_lanes=min(self.drain_lanes, self.cols))

    @property
    def pes(self) -> int:
        """PEs of all clusters."""
        return self.clusters * self.rows * self.cols

    @property
    def ports(self) -> int:
        """Groups of rows that ports of their own can feed."""
        return max(self.iact_ports, self.weight_ports)

    @property
    def port_rows(self) -> int:
        """Rows of each of these groups."""
        return self.rows // self.ports

    @property
    def flit_words(self) -> int:
        """Data words of a flit (one AXI beat)."""
        return self.axi_data_width // self.data_width

    @property
    def beat_bytes(self) -> int:
        """Bytes of an AXI beat."""
        return self.axi_data_width // 8

    @property
    def lanes(self) -> int:
        """Post-processing lanes of a cluster: by default the data words of a beat, no more than there are columns."""
        return min(self.drain_lanes or self.flit_words, self.cols)

    @property
    def drain_shape(self) -> tuple[int, int]:
        """Rows and columns of neighbouring clusters that are drained together; whole rows if there are several."""
        most = (self.drain_lanes or self.flit_words) // self.cols
        across = max(n for n in range(1, self.mesh_cols + 1) if self.mesh_cols % n == 0 and n <= max(1, most))
        if across < self.mesh_cols:
            return 1, across
        rows = max(1, most // across)
        return max(n for n in range(1, self.mesh_rows + 1) if self.mesh_rows % n == 0 and n <= rows), across

    @property
    def drain_clusters(self) -> int:
        """Clusters that are drained together: a *set*."""
        rows, cols = self.drain_shape
        return rows * cols

    @property
    def all_lanes(self) -> int:
        """Post-processing lanes of all clusters of a set."""
        return self.drain_clusters * self.lanes

    @property
    def bank_groups(self) -> int:
        """Groups of ``lanes`` psum banks of a cluster that are drained together."""
        return -(-self.cols // self.lanes)

    @property
    def glb_bytes(self) -> int:
        """Bytes of the whole global buffer: iact and weight banks and the psum banks of all clusters."""
        flits = self.iact_ports * self.glb_iact_flits + self.weight_ports * self.glb_weight_flits
        return self.clusters * (flits * self.beat_bytes + self.cols * self.psum_bank_words * self.acc_width // 8)

    def replace(self, **changes: Any) -> "ArchConfig":
        """Return a copy with some parameters changed.

        Raises
        ------
        ConfigError
            For a value outside its rule.
        """
        return dataclasses.replace(self, **changes)
