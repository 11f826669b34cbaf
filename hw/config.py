"""What sizes the hardware: one frozen, validated record, the input of every generator function.

What changes from layer to layer is a descriptor field (see :mod:`rowmesh.hw.descriptor`), never a parameter.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

__all__ = ["MOST_CLUSTERS", "MOST_COUNTED", "MOST_MODELLED", "MOST_PORTS", "ArchConfig", "ConfigError"]

MOST_PORTS = 4
"""Ports of an operand."""

MOST_CLUSTERS = 32
"""Clusters of a mesh in hardware: bits of the word that selects those that are configured."""

MOST_COUNTED = 400
"""PEs that can have a performance counter each: as many as have a register beside the other counters."""

MOST_MODELLED = 4096
"""Clusters of a mesh that mapper and model take."""


class ConfigError(ValueError):
    """A parameter outside its rule; the message names the field, the value, the rule and the nearest legal value."""


def _nearest(value: int, low: int, high: int) -> int:
    return min(max(value, low), high)


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
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is not field.type:
                kind = field.type.__name__ if isinstance(field.type, type) else field.type
                advice = " (nearest legal value: true)" if field.type is bool else ""
                raise TypeError(f"ArchConfig.{field.name} must be of type {kind}, not {value!r}{advice}")
        self._check_in("data_width", (8, 16))
        self._check_in("axi_data_width", (64, 128, 256, 512))
        self._check_in("acc_width", (24, 32))
        for name, low, high in (
            ("rows", 1, 64),
            ("cols", 1, 64),
            ("mesh_rows", 1, MOST_MODELLED),
            ("mesh_cols", 1, MOST_MODELLED // max(1, min(self.mesh_rows, MOST_MODELLED))),
            ("iact_spad", 2, 1024),
            ("weight_spad", 2, 4096),
            ("psum_spad", 1, 1024),
            ("iact_ports", 1, MOST_PORTS),
            ("weight_ports", 1, MOST_PORTS),
            ("glb_iact_flits", 16, 1 << 16),
            ("glb_weight_flits", 16, 1 << 16),
            ("psum_bank_words", 16, 1 << 16),
            ("param_words", 8, 4096),
            ("drain_lanes", 0, self.clusters * self.cols),
            ("axi_addr_width", 32, 64),
            ("burst_beats", 1, 256),
            ("read_bursts", 2, 64),
            ("tag_width", 4, 8),
            ("edge_flags", 1, 8),
            ("uop_fifo", 2, 64),
            ("chain_fifo", 2, 64),
            ("nest_levels", 6, 16),
            ("link_segment", 1, 16),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(
                    f"ArchConfig.{name} must be from {low} to {high}, not {value} "
                    f"(nearest legal value: {_nearest(value, low, high)})"
                )
        for name in ("iact_ports", "weight_ports"):
            value = getattr(self, name)
            if self.rows % value or value not in (1, self.ports):
                rule = "must divide the rows" if self.rows % value else "must be 1 or as many as the other operand's"
                near = max(d for d in range(1, value) if self.rows % d == 0 and d in (1, self.ports))
                raise ConfigError(
                    f"ArchConfig.{name} {rule} ({self.rows if self.rows % value else self.ports}), not {value} "
                    f"(nearest legal value: {near})"
                )
        if self.pe_counters and self.pes > MOST_COUNTED:
            raise ConfigError(
                f"ArchConfig.pe_counters must be false with more than {MOST_COUNTED} PEs, not true with {self.pes} "
                "(nearest legal value: false)"
            )
        if self.drain_lanes > self.cols and self.all_lanes != self.drain_lanes:
            raise ConfigError(
                f"ArchConfig.drain_lanes beyond a cluster's columns ({self.cols}) must be those of clusters that "
                f"divide a row of the mesh, or of rows that divide its rows, not {self.drain_lanes} "
                f"(nearest legal value: {self.all_lanes})"
            )
        if self.burst_beats & (self.burst_beats - 1):
            near = 1 << (self.burst_beats.bit_length() - 1)
            raise ConfigError(
                f"ArchConfig.burst_beats must be a power of two, not {self.burst_beats} (nearest legal value: {near})"
            )
        for name in ("glb_iact_flits", "glb_weight_flits"):
            if getattr(self, name) < 2 * self.burst_beats:
                raise ConfigError(
                    f"ArchConfig.{name} must be at least two bursts ({2 * self.burst_beats} flits), "
                    f"not {getattr(self, name)} (nearest legal value: {2 * self.burst_beats})"
                )

    def _check_in(self, name: str, legal: tuple[int, ...]) -> None:
        value = getattr(self, name)
        if value not in legal:
            near = min(legal, key=lambda option: abs(option - value))
            raise ConfigError(
                f"ArchConfig.{name} must be one of {', '.join(map(str, legal))}, not {value} "
                f"(nearest legal value: {near})"
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
            raise ConfigError(
                f"ArchConfig.mesh_{name} must be at most {near} to be generated or run, {MOST_CLUSTERS} clusters "
                f"in all, not {getattr(self, f'mesh_{name}')}: beyond there is only the model "
                f"(nearest legal value: {near})"
            )

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
