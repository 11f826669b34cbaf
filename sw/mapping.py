"""Mappings: how a layer's loops are split over DRAM tiles, the array's axes and a PE's spads.

The loops of a mapping, outermost first::

    n, g, pt, qt, mt         tiles of the output (DRAM level)
      ct, rt                 passes over a tile: channel tiles, filter rows in time; psums stay in their banks
        pj                   output rows of the tile, one after another
          mi, pi (columns)   filter groups and output rows across the array
          ci, r (rows)       channel groups and filter rows along a psum chain
            q                output columns: the iact window slides
              s, c0, m0      filter columns, channels and filters within a PE

Everything else (offsets, tags, bounds, capacities) follows from the factors. Names are those of the field: N M C H W
R S P Q, U stride, D dilation, G groups; M and C are per group here.
"""

from dataclasses import dataclass
from functools import cached_property

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.tensors import TensorLayout, storage_bits
from rowmesh.sw.workload import Layer

__all__ = ["IllegalMappingError", "Mapping", "ceil_div", "chunk_beats"]


class IllegalMappingError(ValueError):
    """A mapping that this hardware cannot run; the message is the rule that it breaks."""


def ceil_div(a: int, b: int) -> int:
    """Ceiling of a / b."""
    return -(-a // b)


@dataclass(frozen=True)
class Mapping:
    """Factors of one mapping of a layer onto an array.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    dataflow : str
        Name of the constraint set that it was made under.
    r_s : int
        Filter rows along a chain: R (all of them in space) or 1 (in time).
    c_s, c0 : int
        Channel groups along a chain, channels of a PE.
    p_x, m_x : int
        Output rows and filter groups across the columns.
    p0, q0, m0 : int
        Output rows in time, output columns and filters of a pass.
    resident : bool
        The iacts of all channel tiles stay in the global buffer while the filter tiles pass.

    Raises
    ------
    IllegalMappingError
        On construction, if the hardware cannot run it.
    """

    config: ArchConfig
    layer: Layer
    dataflow: str
    r_s: int
    c_s: int
    c0: int
    p_x: int
    m_x: int
    p0: int
    q0: int
    m0: int
    resident: bool

    def __post_init__(self) -> None:
        self._check()

    # sizes of the layer, per group

    @property
    def m(self) -> int:
        """Filters of a group."""
        return self.layer.m // self.layer.groups

    @property
    def c(self) -> int:
        """Channels of a group."""
        return self.layer.c // self.layer.groups

    @cached_property
    def iact_layout(self) -> TensorLayout:
        """Iacts in memory."""
        x = self.layer
        return TensorLayout(x.n, x.c, x.h, x.w, self.config.data_width, self.config.beat_bytes)

    @cached_property
    def ofmap_layout(self) -> TensorLayout:
        """Ofmap in memory: accumulators or requantised words."""
        x = self.layer
        bits = self.config.data_width if x.output == "requant" else storage_bits(self.config.acc_width)
        return TensorLayout(x.n, x.m, x.p, x.q, bits, self.config.beat_bytes)

    @property
    def stride(self) -> tuple[int, int]:
        """Stride U along y and x, as the array sees it: columns that no filter touches are not sent."""
        uy, ux = self.layer.stride
        return uy, ux if self.planar else min(ux, self.window)

    @property
    def planar(self) -> bool:
        """The iacts are in the packed form: neighbouring columns in a beat, not neighbouring channels."""
        return self.iact_layout.planar

    @property
    def window(self) -> int:
        """Columns from the first to the last tap of a filter row: (S - 1) D + 1."""
        return (self.layer.s - 1) * self.layer.dilation[1] + 1

    @property
    def height(self) -> int:
        """Rows from the first to the last tap of a filter column: (R - 1) D + 1."""
        return (self.layer.r - 1) * self.layer.dilation[0] + 1

    # tiles

    @property
    def r_t(self) -> int:
        """Filter rows in time."""
        return self.layer.r // self.r_s

    @property
    def mt(self) -> int:
        """Filter tiles."""
        return ceil_div(self.m, self.m_x * self.m0)

    @property
    def ct(self) -> int:
        """Channel tiles."""
        return ceil_div(self.c, self.c_s * self.c0)

    @property
    def row_steps(self) -> int:
        """Sets of p_x output rows."""
        return ceil_div(self.layer.p, self.p_x)

    @property
    def pt(self) -> int:
        """Row tiles."""
        return ceil_div(self.row_steps, self.p0)

    @property
    def qt(self) -> int:
        """Column tiles."""
        return ceil_div(self.layer.q, self.q0)

    # what is left for the last tile of each dimension

    @property
    def m_rest(self) -> int:
        """Filters of the last filter tile."""
        return self.m - (self.mt - 1) * self.m_x * self.m0

    @property
    def c_rest(self) -> int:
        """Channels of the last channel tile."""
        return self.c - (self.ct - 1) * self.c_s * self.c0

    @property
    def q_rest(self) -> int:
        """Output columns of the last column tile."""
        return self.layer.q - (self.qt - 1) * self.q0

    @property
    def p0_rest(self) -> int:
        """Row steps of the last row tile."""
        return self.row_steps - (self.pt - 1) * self.p0

    @property
    def p_rest(self) -> int:
        """Output rows of the last row step."""
        return self.layer.p - (self.row_steps - 1) * self.p_x

    @property
    def m_x_rest(self) -> int:
        """Filter groups across the columns in the last filter tile."""
        return ceil_div(self.m_rest, self.m0)

    @property
    def c_s_rest(self) -> int:
        """Channel groups along the chain in the last channel tile."""
        return ceil_div(self.c_rest, self.c0)

    # the array

    @property
    def chain(self) -> int:
        """PEs of a psum chain."""
        return self.c_s * self.r_s

    @property
    def columns(self) -> int:
        """Columns used."""
        return self.m_x * self.p_x

    @property
    def active_pes(self) -> int:
        """PEs used."""
        return self.chain * self.columns

    # iacts

    @property
    def lanes(self) -> int:
        """Words of an iact flit."""
        return self.config.flit_words

    @property
    def share(self) -> int:
        """Channel groups that share an iact flit, each taking its own lanes."""
        return 1 if self.planar else max(1, self.lanes // self.c0)

    @property
    def blocks(self) -> int:
        """Channel blocks of a channel tile in the global buffer (channels, in the packed form)."""
        channels = min(self.c, self.c_s * self.c0)
        return channels if self.planar else ceil_div(channels, self.lanes)

    @property
    def blocks_rest(self) -> int:
        """Channel blocks of the last channel tile."""
        return self.c_rest if self.planar else ceil_div(self.c_rest, self.lanes)

    @property
    def tile_rows(self) -> int:
        """Iact rows of a tile, halo included."""
        return (min(self.p0, self.row_steps) * self.p_x - 1) * self.layer.stride[0] + self.height

    @property
    def tile_columns(self) -> int:
        """Iact columns of a tile, halo included."""
        return (min(self.q0, self.layer.q) - 1) * self.layer.stride[1] + self.window

    @property
    def x_offset(self) -> int:
        """Lane of a tile's first column (packed form)."""
        return -self.layer.padding[1] % self.lanes if self.planar else 0

    @property
    def tile_beats(self) -> int:
        """Flits of a row of a tile in the global buffer."""
        return ceil_div(self.x_offset + self.tile_columns, self.lanes) if self.planar else self.tile_columns

    @property
    def slice_flits(self) -> int:
        """Flits of one channel tile in the global buffer, slots of padding included."""
        return self.blocks * self.tile_rows * self.tile_beats

    @property
    def diagonal(self) -> bool:
        """Several rows of the array share an iact row (filter rows in space that overlap)."""
        return self.height > self.layer.stride[0] and self.r_s > 1

    @property
    def phases(self) -> int:
        """Kinds of iact rows that different PE rows subscribe to."""
        return self.layer.stride[0] if self.diagonal else self.r_s

    # weights and psums

    @property
    def weights(self) -> int:
        """Weights of a PE in a pass."""
        return self.m0 * self.layer.s * self.c0

    @property
    def bank_words(self) -> int:
        """Psums of a column in a tile."""
        return min(self.p0, self.row_steps) * min(self.q0, self.layer.q) * min(self.m0, self.m)

    @property
    def out_lanes(self) -> int:
        """Output words of a beat."""
        return self.ofmap_layout.words_per_beat

    @property
    def iact_slots(self) -> int:
        """Words of a PE's iact spad that the static order of flits needs."""
        ux, step = self.stride[1], self.lanes if self.planar else 1
        if not self.planar:
            return self.window * self.c0
        need = 0
        for q in range(min(self.q0, self.layer.q, self.lanes) + 1):
            arrived = ceil_div(self.x_offset + q * ux + self.window, step) * step - self.x_offset
            need = max(need, min(arrived, self.tile_columns) - q * ux)
        return need

    def _check(self) -> None:
        x, a = self.layer, self.config

        def rule(holds: bool, text: str) -> None:
            if not holds:
                raise IllegalMappingError(text)

        rule(self.r_s in (1, x.r), f"r_s must be 1 or R ({x.r}), not {self.r_s}")
        rule(self.chain <= a.rows, f"a chain of {self.chain} PEs exceeds the {a.rows} rows")
        rule(self.columns <= a.cols, f"{self.columns} columns exceed the array's {a.cols}")
        rule(self.iact_slots <= a.iact_spad, f"{self.iact_slots} iacts exceed the spad of {a.iact_spad}")
        rule(self.weights <= a.weight_spad, f"{self.weights} weights exceed the spad of {a.weight_spad}")
        rule(self.m0 <= a.psum_spad, f"{self.m0} psums of a PE exceed the spad of {a.psum_spad}")
        rule(
            self.bank_words <= a.psum_bank_words,
            f"{self.bank_words} psums exceed the bank of {a.psum_bank_words}",
        )
        stored = self.slice_flits * (self.ct if self.resident else 1)
        rule(
            stored <= a.glb_iact_flits,
            f"{stored} iact flits exceed the global buffer's {a.glb_iact_flits}",
        )
        if x.output == "requant":
            filters = min(self.m_x * self.m0, self.m)
            rule(filters <= a.param_words, f"parameters of {filters} filters exceed {a.param_words}")
        # edges in space must be whole PEs
        rule(
            self.m % self.m0 == 0,
            f"filters of a PE ({self.m0}) must divide the filters of a group ({self.m})",
        )
        rule(
            self.c % self.c0 == 0,
            f"channels of a PE ({self.c0}) must divide the channels of a group ({self.c})",
        )
        ragged = self.p_rest != self.p_x
        rule(not ragged or self.p0 == 1, "rows that do not fill the columns need one row step a tile")
        rule(not ragged or self.m_x == 1, "rows that do not fill the columns exclude filters across columns")
        rule(
            self.m_x == 1 or self.p_x == 1 or self.p_x % a.lanes == 0,
            f"rows beside filters across columns must be a multiple of the {a.lanes} drain lanes",
        )
        # iact words in flits
        if self.planar:
            rule(self.c0 == 1, "the packed form holds one channel a flit")
            rule(x.stride[1] <= self.window, "a stride beyond the filter needs the blocked form")
            rule(x.groups == 1, f"groups of {self.c} channels share a packed tensor")
            rule(
                self.qt == 1 or (self.q0 * x.stride[1]) % self.lanes == 0,
                "column tiles of a packed tensor must be whole flits",
            )
        else:
            rule(
                self.c0 % self.lanes == 0 or self.lanes % self.c0 == 0,
                f"{self.c0} channels of a PE do not fit flits of {self.lanes}",
            )
            rule(
                self.ct == 1 or (self.c_s * self.c0) % self.lanes == 0,
                f"channel tiles of {self.c_s * self.c0} are no whole flits",
            )
            rule(
                x.groups == 1 or self.c % self.lanes == 0,
                f"groups of {self.c} channels share flits of {self.lanes}",
            )
        phases = self.blocks * self.phases
        index = max(self.p_x + (self.height - 1) // x.stride[0], self.m_x)
        rule(index <= 1 << a.tag_width, f"{index} tag indices exceed {a.tag_width} bits")
        rule(phases <= 1 << a.tag_width, f"{phases} tag phases exceed {a.tag_width} bits")
        # output beats
        k = self.out_lanes
        if self.ofmap_layout.planar:
            rule(self.qt == 1 or self.q0 % k == 0, f"column tiles of {self.q0} are no whole beats of {k}")
            rule(x.groups == 1 and self.m_x * self.m0 >= self.m, "a packed ofmap needs all filters in one tile")
            rule(self.m_x == 1, "a packed ofmap excludes filters across columns")
        else:
            whole = self.m0 % k == 0
            rule(
                whole or self.m_x == 1,
                f"filters of a PE ({self.m0}) across columns must be whole beats of {k}",
            )
            rule(whole or self.mt == 1, f"filter tiles of {self.m0} are no whole beats of {k}")
            rule(x.groups == 1 or self.m % k == 0, f"groups of {self.m} filters share beats of {k}")

    def loop_nest(self) -> str:
        """Return the mapping as a loop nest by level, for people."""
        x = self.layer
        lines: list[str] = []
        depth = 0

        def level(title: str) -> None:
            lines.append(f"{title}")

        def loop(name: str, bound: int, note: str = "") -> None:
            nonlocal depth
            if bound > 1:
                tail = f"    # {note}" if note else ""
                lines.append(f"{'  ' * depth}  {name} in [0, {bound}){tail}")
                depth += 1

        def rest(tile: int, last: int) -> str:
            return "" if tile == last else f"last one {last} instead of {tile}"

        level("DRAM")
        loop("for n", x.n)
        loop("for g", x.groups)
        loop(
            "for p2",
            self.pt,
            rest(self.p0 * self.p_x, x.p - (self.pt - 1) * self.p0 * self.p_x) + " rows"
            if self.pt > 1 and x.p % (self.p0 * self.p_x)
            else "",
        )
        loop("for q2", self.qt, rest(self.q0, self.q_rest))
        loop("for m2", self.mt, rest(self.m_x * self.m0, self.m_rest))
        level("GLB")
        loop("for c2", self.ct, rest(self.c_s * self.c0, self.c_rest))
        loop("for r1", self.r_t)
        loop("for p1", self.p0)
        level("spatial, columns")
        loop("parallel-for m1", self.m_x)
        loop("parallel-for p", self.p_x)
        level("spatial, rows (psum chain)")
        loop("parallel-for c1", self.c_s)
        loop("parallel-for r", self.r_s)
        level("spad")
        loop("for q", min(self.q0, x.q))
        loop("for s", x.s)
        loop("for c", self.c0)
        loop("for m", self.m0)
        lines.append(f"{'  ' * depth}  ofmap[n,g,m,p,q] += iact[n,g,c,U p + D r,U q + D s] * weight[g,m,c,r,s]")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """Return the factors."""
        names = ("dataflow", "r_s", "c_s", "c0", "p_x", "m_x", "p0", "q0", "m0", "resident")
        return {name: getattr(self, name) for name in names}


def chunk_beats(m: Mapping) -> int:
    """Beats of a store segment: neighbouring positions of one row, within a burst."""
    beats = min(m.q0, m.layer.q)
    if m.ofmap_layout.planar:
        beats = ceil_div(beats, m.out_lanes)
    limit = m.config.burst_beats
    if m.qt == 1:
        return min(beats, limit)
    return max(d for d in range(1, min(beats, limit) + 1) if beats % d == 0)
