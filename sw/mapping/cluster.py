"""Mappings: how a layer's loops are split over DRAM tiles, the array's axes and a PE's spads.

The loops of a mapping, outermost first::

    n, g, pt, qt, mt         tiles of the output (DRAM level)
      ct, rd, sd             channel tiles, slices of filter rows and columns: whose iacts are loaded at a time
        rt, st               passes over what is loaded: filter rows and columns in time
        nj, pj               images and output rows of the tile, one after another
          mi, pi, qi (columns)   filter groups, output rows and output columns across the array
          k (rows)           independent psum chains of a column: output rows, filters or groups
            ci, r            channel groups and filter rows along a chain

and within a PE the loops of an order (:mod:`rowmesh.sw.mapping.orders`): s, r, c0, q and m0, in blocks of q1 output
columns and c1 channel groups or in m1 sets of filters where the order has loops over these.

Psums of several passes are summed in their banks, unless the order keeps them in a PE. Filter tiles can be outermost
(``m_outer``: g, mt, n, pt, qt), so that weights stay in the PEs over all images, row tiles and column tiles.

Everything else (offsets, tags, bounds, capacities) follows from the factors. Names are those of the field: N M C H W
R S P Q, U stride, D dilation, G groups; M and C are per group here.
"""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.mapping.latencies import ROUND_TRIP
from rowmesh.sw.mapping.orders import TILE_ORDERS, WEIGHT, Order
from rowmesh.sw.mapping.rules import RULES
from rowmesh.sw.workload.layer import Layer
from rowmesh.sw.workload.limits import ofmap_bits
from rowmesh.sw.workload.tensors import TensorLayout

__all__ = [
    "ClusterMapping",
    "IllegalMappingError",
    "ceil_div",
    "chunk_beats",
    "weight_beats",
]


class IllegalMappingError(ValueError):
    """A mapping that this hardware cannot run; the message is the rule that it breaks."""


def ceil_div(a: int, b: int) -> int:
    """Ceiling of a / b."""
    return -(-a // b)


@dataclass(frozen=True)
class ClusterMapping:
    """Factors of one mapping of a layer onto an array.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    dataflow : str
        Name of the constraint set that it was made under.
    r_s, r0 : int
        Filter rows along a chain and within a PE: R or 1 each; both 1: filter rows in time.
    c_s, c0 : int
        Channel groups along a chain, channels of a PE.
    p_x, q_x, m_x : int
        Output rows, parts of the tile's output columns, and filter groups across the columns.
    p_y, m_y, g_y : int
        Output rows, filters and groups along the rows, a chain for each; one of them at most exceeds 1.
    p0, q0, m0 : int
        Output rows in time, output columns of a tile (of all q_x parts), and filters of a PE.
    g0 : int
        Groups of a PE (depthwise layers only).
    m1 : int
        Filter groups of a PE, one after another, for the same iacts (orders that begin with M).
    n0 : int
        Images of a tile, one after another, for the same weights.
    s_t : int
        Filter columns in time: passes, each with an equal part of a filter row.
    r_d, s_d : int
        Slices of filter rows and columns, whose iacts are loaded one after another: the global buffer holds one.
    c1, q1 : int
        Channel groups of a PE, one after another, and output columns of a block, whose psums stay meanwhile (orders
        that begin with QC; both 1 in all others).
    order : Order
        The order of loops within a PE.
    ports : int
        Groups of rows with ports of their own (1: the first port of each operand feeds all rows). Channels, filters or
        groups along the rows are split over them.
    resident : bool
        The iacts of all channel tiles stay in the global buffer while the filter tiles pass.
    m_outer : bool
        Filter tiles are outside of images, row tiles and column tiles, over which their weights stay in the PEs.
    within : Layer, optional
        The layer that this one is a share of: its tensors are those in memory.

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
    r0: int = 1
    q_x: int = 1
    p_y: int = 1
    m_y: int = 1
    g_y: int = 1
    g0: int = 1
    m1: int = 1
    n0: int = 1
    c1: int = 1
    q1: int = 1
    s_t: int = 1
    r_d: int = 1
    s_d: int = 1
    m_outer: bool = False
    ports: int = 1
    order: Order = WEIGHT
    within: Layer | None = None

    def __post_init__(self) -> None:
        for rule in RULES:
            if not rule.holds(self):
                raise IllegalMappingError(rule.text(self))

    @classmethod
    def bare(cls, config: ArchConfig, layer: Layer, **factors: Any) -> "ClusterMapping":
        """Return a mapping that is not checked; for the parameters see :meth:`broken_rules`."""
        bare = object.__new__(cls)
        for name, value in {"config": config, "layer": layer, **factors}.items():
            object.__setattr__(bare, name, value)
        return bare

    @classmethod
    def broken_rules(cls, config: ArchConfig, layer: Layer, **factors: Any) -> list[str]:
        """Return every rule that some factors break, not only the first; nothing if they are a legal mapping.

        Parameters
        ----------
        config : ArchConfig
        layer : Layer
        **factors
            The other parameters, all of them.
        """
        bare, broken = cls.bare(config, layer, **factors), []
        try:
            for rule in RULES:
                if not rule.holds(bare):
                    broken.append(rule.text(bare))
        except (ArithmeticError, ValueError):  # a rule whose terms mean nothing once an earlier one is broken
            if not broken:
                raise
        return broken

    # sizes of the layer, per group

    @cached_property
    def m(self) -> int:
        """Filters of a group."""
        return self.layer.m // self.layer.groups

    @cached_property
    def c(self) -> int:
        """Channels of a group."""
        return self.layer.c // self.layer.groups

    @cached_property
    def iact_layout(self) -> TensorLayout:
        """Iacts in memory."""
        x = self.within or self.layer
        return TensorLayout(x.n, x.c, x.h, x.w, self.config.data_width, self.config.beat_bytes)

    @cached_property
    def ofmap_layout(self) -> TensorLayout:
        """Ofmap in memory: accumulators or requantised words."""
        x = self.within or self.layer
        return TensorLayout(x.n, x.m, x.p, x.q, ofmap_bits(self.config, x), self.config.beat_bytes)

    @cached_property
    def stride(self) -> tuple[int, int]:
        """Stride U along y and x, as the array sees it: columns that no filter touches are not sent."""
        uy, ux = self.layer.stride
        return uy, ux if self.planar else min(ux, self.window)

    @cached_property
    def planar(self) -> bool:
        """The iacts are in the packed form: neighbouring columns in a beat, not neighbouring channels."""
        return self.iact_layout.planar

    @cached_property
    def s0(self) -> int:
        """Filter columns of a PE."""
        return self.layer.s // (self.s_d * self.s_t)

    @cached_property
    def window(self) -> int:
        """Columns from the first to the last tap of a PE in a filter row: (s0 - 1) D + 1."""
        return (self.s0 - 1) * self.layer.dilation[1] + 1

    @cached_property
    def width(self) -> int:
        """Columns from the first to the last tap of a filter row: (S - 1) D + 1."""
        return (self.layer.s - 1) * self.layer.dilation[1] + 1

    @cached_property
    def height(self) -> int:
        """Rows from the first to the last tap of a filter column: (R - 1) D + 1."""
        return (self.layer.r - 1) * self.layer.dilation[0] + 1

    # tiles

    @cached_property
    def n_t(self) -> int:
        """Tiles of images."""
        return self.layer.n // self.n0

    @cached_property
    def r_t(self) -> int:
        """Filter rows in time, of a slice."""
        return self.layer.r // (self.r_d * self.r_s * self.r0)

    @cached_property
    def slices(self) -> int:
        """Parts of a tile's iacts that are loaded one after another."""
        return self.ct * self.r_d * self.s_d

    @cached_property
    def passes(self) -> int:
        """Passes over a tile."""
        return self.slices * self.r_t * self.s_t

    @cached_property
    def g_t(self) -> int:
        """Tiles of groups."""
        return self.layer.groups // self.g_n

    @cached_property
    def g_n(self) -> int:
        """Groups of a tile."""
        return self.g_y * self.g0

    @cached_property
    def pe_filters(self) -> int:
        """Psums of a PE at one position: filters, or groups of one filter each."""
        return self.m0 * self.g0

    @cached_property
    def pe_words(self) -> int:
        """Iacts of a PE at one position of a row: channels of all its groups."""
        return self.c0 * self.g0

    @cached_property
    def p_n(self) -> int:
        """Output rows of a row step."""
        return self.p_x * self.p_y

    @cached_property
    def m_n(self) -> int:
        """Filters of a filter group across the columns."""
        return self.m1 * self.m0 * self.m_y

    @cached_property
    def held(self) -> bool:
        """Psums stay in the PE until they are complete."""
        return self.order.held

    @cached_property
    def patched(self) -> bool:
        """Iacts come in patches that stay for a pass, not through a sliding window."""
        return not self.order.slides

    @cached_property
    def blocked(self) -> bool:
        """Psums of a block of output columns stay in the PE while its channel groups pass."""
        return self.order.blocks

    @cached_property
    def column_filters(self) -> int:
        """Ofmap channels of a column in a tile."""
        return self.m1 * self.set_filters

    @cached_property
    def set_filters(self) -> int:
        """Ofmap channels that a column's PEs work on at the same time."""
        return self.pe_filters * self.m_y * self.g_y

    @cached_property
    def merged(self) -> int:
        """Columns that fill a beat of the ofmap together, one of each group of drain lanes; 1: columns fill their own.

        Theirs are neighbouring filters, whose words the drain takes in turn. The beats of a filter tile use all lanes.
        """
        own, beat, lanes = self.set_filters, self.out_lanes, self.config.lanes
        if self.ofmap_layout.planar or beat % own != 0 or self.m1 * self.inner > 1:
            return 1
        whole = lanes * (beat // own)
        return beat // own if self.m_x % whole == 0 and self.m_x_rest % whole == 0 else 1

    @cached_property
    def inner(self) -> int:
        """Columns of one filter group."""
        return self.p_x * self.q_x

    @cached_property
    def q_pe(self) -> int:
        """Output columns of a PE in a pass."""
        return min(self.q0, self.layer.q) // self.q_x

    @cached_property
    def q_pe_rest(self) -> int:
        """Output columns of a PE in the last column tile."""
        return self.q_pe if self.q_x > 1 else self.q_rest

    @cached_property
    def q_x_rest(self) -> int:
        """Parts of the output columns across the array in the last column tile."""
        return self.q_rest // self.q_pe if self.q_x > 1 else 1

    @cached_property
    def mt(self) -> int:
        """Filter tiles."""
        return ceil_div(self.m, self.m_x * self.m_n)

    @cached_property
    def ct(self) -> int:
        """Channel tiles."""
        return ceil_div(self.c, self.pass_channels)

    @cached_property
    def pass_channels(self) -> int:
        """Channels of a channel tile."""
        return self.c1 * self.c_s * self.c0

    @cached_property
    def row_steps(self) -> int:
        """Sets of p_n output rows."""
        return ceil_div(self.layer.p, self.p_n)

    @cached_property
    def pt(self) -> int:
        """Row tiles."""
        return ceil_div(self.row_steps, self.p0)

    @cached_property
    def qt(self) -> int:
        """Column tiles."""
        return ceil_div(self.layer.q, self.q0)

    @property
    def tiles(self) -> dict[str, int]:
        """Tiles of the output at DRAM's level by loop, outermost first."""
        bounds = {"n": self.n_t, "g": self.g_t, "pt": self.pt, "qt": self.qt, "mt": self.mt}
        return {name: bounds[name] for name in TILE_ORDERS[self.m_outer]}

    # what is left for the last tile of each dimension

    @cached_property
    def m_rest(self) -> int:
        """Filters of the last filter tile."""
        return self.m - (self.mt - 1) * self.m_x * self.m_n

    @cached_property
    def c_rest(self) -> int:
        """Channels of the last channel tile."""
        return self.c - (self.ct - 1) * self.pass_channels

    @cached_property
    def q_rest(self) -> int:
        """Output columns of the last column tile."""
        return self.layer.q - (self.qt - 1) * self.q0

    @cached_property
    def p0_rest(self) -> int:
        """Row steps of the last row tile."""
        return self.row_steps - (self.pt - 1) * self.p0

    @cached_property
    def p_rest(self) -> int:
        """Output rows of the last row step."""
        return self.layer.p - (self.row_steps - 1) * self.p_n

    @cached_property
    def m_x_rest(self) -> int:
        """Filter groups across the columns in the last filter tile."""
        return ceil_div(self.m_rest, self.m_n)

    @cached_property
    def c_s_rest(self) -> int:
        """Channel groups along the chain in the last channel tile."""
        return self.c_s if self.c1 > 1 else ceil_div(self.c_rest, self.c0)

    # the array

    @cached_property
    def chain(self) -> int:
        """PEs of a psum chain."""
        return self.c_s * self.r_s

    @cached_property
    def chains(self) -> int:
        """Psum chains of a column."""
        return self.p_y * self.m_y * self.g_y

    @cached_property
    def columns(self) -> int:
        """Columns used."""
        return self.m_x * self.inner

    @cached_property
    def iact_ports(self) -> int:
        """Ports that iacts come through: one if all rows take the same, or if there is no other."""
        return 1 if self.m_y > 1 else min(self.ports, self.config.iact_ports)

    @cached_property
    def weight_ports(self) -> int:
        """Ports that weights come through."""
        return min(self.ports, self.config.weight_ports)

    @property
    def rows(self) -> list[int | None]:
        """For each row of the array its place among the rows in use, chain after chain, or None."""
        used, a = self.chains * self.chain // self.ports, self.config
        height = a.rows // self.ports
        return [row // height * used + row % height if row % height < used else None for row in range(a.rows)]

    # iacts

    @property
    def lanes(self) -> int:
        """Words of an iact flit."""
        return self.config.flit_words

    @cached_property
    def blocks(self) -> int:
        """Channel blocks of a channel tile in a bank of the global buffer (channels, in the packed form)."""
        channels = self.g_n * self.c if self.g_n > 1 else min(self.c, self.pass_channels)
        return (channels if self.planar else ceil_div(channels, self.lanes)) // self.iact_ports

    @property
    def blocks_rest(self) -> int:
        """Channel blocks of the last channel tile."""
        if self.g_n > 1 or self.iact_ports > 1:
            return self.blocks
        return self.c_rest if self.planar else ceil_div(self.c_rest, self.lanes)

    @cached_property
    def blocks_at_once(self) -> int:
        """Channel blocks that are sent together: those of a channel group of every PE."""
        return self.blocks // self.c1

    @property
    def group_blocks(self) -> int:
        """Channel blocks of a tile of groups in memory (channels, in the packed form)."""
        return self.c if self.planar else ceil_div(self.g_n * self.c, self.lanes)

    @cached_property
    def tile_rows(self) -> int:
        """Iact rows of a slice of a tile, halo included."""
        taps = self.layer.r // self.r_d
        rows = min(self.p0, self.row_steps) * self.p_n
        return (rows - 1) * self.layer.stride[0] + (taps - 1) * self.layer.dilation[0] + 1

    @cached_property
    def tile_columns(self) -> int:
        """Iact columns of a slice of a tile, halo included."""
        taps = self.layer.s // self.s_d
        return (min(self.q0, self.layer.q) - 1) * self.layer.stride[1] + (taps - 1) * self.layer.dilation[1] + 1

    @cached_property
    def x_offset(self) -> int:
        """Lane of a tile's first column (packed form)."""
        return -self.layer.padding[1] % self.lanes if self.planar else 0

    @cached_property
    def tile_beats(self) -> int:
        """Flits of a row of a tile in the global buffer."""
        return self.row_flits(self.tile_columns)

    @cached_property
    def slice_flits(self) -> int:
        """Flits of a slice of an image in the global buffer, slots of padding included."""
        return self.blocks * self.tile_rows * self.tile_beats

    @cached_property
    def images_kept(self) -> int:
        """Images whose slices are in the global buffer together, because each of them is read more than once."""
        return self.n0 if self.resident or self.r_t * self.s_t > 1 else 1

    @cached_property
    def diagonal(self) -> bool:
        """Several rows of the array share an iact row (filter rows in space that overlap)."""
        return self.height > self.layer.stride[0] and self.r_s > 1

    @property
    def phases(self) -> int:
        """Kinds of iact rows that different PE rows subscribe to."""
        if self.p_y > 1:
            return self.row_span(self.p_y)
        return self.layer.stride[0] if self.diagonal else self.r_s

    def row_span(self, rows: int) -> int:
        """Iact rows that are sent for a number of output rows in one pass, unless they are ``diagonal``."""
        return (rows - 1) * self.layer.stride[0] + self.height if self.r0 > 1 else rows

    def row_flits(self, columns: int) -> int:
        """Flits of neighbouring columns of an iact row, from a tile's or a block's first one on."""
        return ceil_div(self.x_offset + columns, self.lanes) if self.planar else columns

    def patch_columns(self, q: int) -> int:
        """Columns that are sent for a number of neighbouring output columns."""
        return (q - 1) * self.stride[1] + self.window

    # blocks of output columns

    @cached_property
    def q_block(self) -> int:
        """Output columns of a PE in a block; of orders without blocks, those in a pass."""
        return min(self.q1, self.q_pe) if self.blocked else self.q_pe

    @cached_property
    def q_blocks(self) -> int:
        """Blocks of a pass."""
        return ceil_div(self.q_pe, self.q_block)

    @cached_property
    def q_blocks_rest(self) -> int:
        """Blocks of a pass in the last column tile."""
        return ceil_div(self.q_pe_rest, self.q_block) if self.blocked else 1

    @cached_property
    def q_block_rest(self) -> int:
        """Output columns of a PE in the last block of the last column tile."""
        return self.q_pe_rest - (self.q_blocks_rest - 1) * self.q_block

    @cached_property
    def sent_columns(self) -> int:
        """Output columns of the tile whose iacts are sent together: of a block, or of the tile."""
        return self.q_block if self.blocked else min(self.q0, self.layer.q)

    @cached_property
    def sent_columns_rest(self) -> int:
        """Output columns of the last column tile's last block, or of the last column tile."""
        return self.q_block_rest if self.blocked else self.q_rest

    @cached_property
    def part(self) -> int:
        """Output columns of a block that are loaded together, for all channel blocks of a group; 0: the whole tile is.

        A 1 x 1 layer whose weights are loaded once, in tiles of one row and one block, begins with the weights of its
        first channel group while those of the others come. The loads of weights and iacts take turns, so bursts of
        iacts are as short as keeps the memory busy: the smallest part of a block that does.
        """
        alone = self.blocked and self.weights_stay and self.mt * self.g_t * self.weight_rounds == 1
        if not alone or self.planar or self.q1 != self.q0 or self.tile_rows * self.window * self.layer.stride[1] > 1:
            return 0
        part = min(self.q1, ceil_div(ROUND_TRIP, self.config.read_bursts))
        while self.q1 % part != 0:
            part += 1
        return part

    # weights and psums

    @cached_property
    def taps(self) -> int:
        """Multiply-accumulates of a PE for each of its psums in a pass."""
        return self.s0 * self.r0 * self.c1 * self.c0

    @cached_property
    def weights(self) -> int:
        """Weights of a PE in a pass (of one of m1 filter groups)."""
        return self.pe_filters * self.taps

    @cached_property
    def kept_weights(self) -> int:
        """Weights of a PE that stay for a pass: of all sets of filters, but of one set if nothing uses them again."""
        return self.weights * (self.m1 if self.n0 * self.p0 > 1 else 1)

    @cached_property
    def weights_stay(self) -> bool:
        """Weights stay in the PEs over all row and column tiles: of a group, or of a filter tile if it is outermost.

        A pass needs all of them, and no PE that has some is absent from the last tiles.
        """
        whole = (self.m_outer or self.mt == 1) and self.passes * self.m1 == 1
        return whole and (self.pt == 1 or self.p_rest == self.p_n) and (self.qt == 1 or self.q_x_rest == self.q_x)

    @cached_property
    def params_stay(self) -> bool:
        """The parameters of a group (or filter tile) stay in the drain over all tiles of rows and columns."""
        return self.m_outer or self.mt == 1

    @cached_property
    def stay_over_images(self) -> bool:
        """What stays over row and column tiles stays over all images too."""
        return self.m_outer or self.g_t == 1

    @property
    def _rounds(self) -> int:
        """Times that what stays is loaded for each group."""
        return 1 if self.stay_over_images else self.n_t

    @cached_property
    def weight_rounds(self) -> int:
        """Times that the weights of each group are loaded."""
        return self._rounds if self.weights_stay else self.n_t * self.pt * self.qt

    @cached_property
    def param_rounds(self) -> int:
        """Times that the parameters of each group are loaded."""
        return self._rounds if self.params_stay else self.n_t * self.pt * self.qt

    @cached_property
    def bank_words(self) -> int:
        """Psums of a column in a tile."""
        return self.n0 * min(self.p0, self.row_steps) * self.q_pe * self.column_filters * self.p_y

    @cached_property
    def out_lanes(self) -> int:
        """Output words of a beat."""
        return self.ofmap_layout.words_per_beat

    @cached_property
    def iact_slots(self) -> int:
        """Words of a PE's iact spad that the static order of flits needs."""
        ux, step = self.stride[1], self.lanes if self.planar else 1
        if self.patched or self.q_x > 1:  # all PEs step together, and those of the last columns get theirs last
            return self.patch_columns(self.q_pe) * self.r0 * self.pe_words
        if not self.planar:
            return self.window * self.r0 * self.pe_words
        need, columns = 0, self.patch_columns(self.sent_columns)
        for q in range(min(self.sent_columns, self.lanes) + 1):
            arrived = ceil_div(self.x_offset + q * ux + self.window, step) * step - self.x_offset
            need = max(need, min(arrived, columns) - q * ux)
        return need

    def to_json(self) -> dict[str, object]:
        """Return the factors."""
        factors = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("config", "layer", "within")}
        return factors | {"order": str(self.order)}


def chunk_beats(m: ClusterMapping) -> int:
    """Beats of a store segment: neighbouring positions of one row, within a burst."""
    beats = m.q_pe
    if m.ofmap_layout.planar:
        beats = ceil_div(beats, m.out_lanes)
    elif m.part:
        return m.part
    limit = m.config.burst_beats
    if m.qt == 1:
        return min(beats, limit)
    return max(d for d in range(1, min(beats, limit) + 1) if beats % d == 0)


def weight_beats(m: ClusterMapping) -> int:
    """Beats of the packed weights of one tile of groups (every PE's weights padded to whole flits)."""
    flits = ceil_div(m.weights, m.lanes)
    taps = m.layer.r // m.r0 * (m.layer.s // m.s0)  # passes of filter rows, along a chain or in time, and columns
    return m.g_y * (m.m // m.m0) * (m.c // (m.c0 * m.c1)) * taps * flits
