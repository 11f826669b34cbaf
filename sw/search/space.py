"""The mapspace: every set of factors that a dataflow allows, or those of them that are worth a look.

What is across the array and how wide a tile is are listed one by one (the *bases*); filters and row steps of each base,
and whether iacts stay in the global buffer, are multiplied out by a compiled loop.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.jit.kernels import digest_of, kernel
from rowmesh.sw.mapping.cluster import ceil_div
from rowmesh.sw.mapping.dataflow import Dataflow
from rowmesh.sw.mapping.orders import Order
from rowmesh.sw.search.evaluate import FACTORS, FLAGS, PROPERTIES, Ints, order_number, order_table
from rowmesh.sw.workload.layer import Layer
from rowmesh.sw.workload.tensors import TensorLayout

__all__ = ["WHOLE", "Parts", "Space", "parts_of_filter"]

Factors = dict[str, Any]


def _divisors(value: int, limit: int) -> list[int]:
    return [d for d in range(1, min(value, limit) + 1) if value % d == 0]


def _tiles(size: int, most: int) -> list[int]:
    """Sizes that split a dimension into 1, 2, 3 ... tiles as evenly as possible, the twelve widest of at most ``most``.

    Of a longer dimension (a plane as a row) also smaller ones, each by about a tenth, since filters share a bank with
    them, and those that divide it.
    """
    sizes: list[int] = []
    count = ceil_div(size, most)
    while count <= size and len(sizes) < (12 if size <= most else 32):
        tile = ceil_div(size, count)
        if not sizes or tile < sizes[-1]:
            sizes.append(tile)
        count = max(count + 1, count * 10 // 9 if len(sizes) >= 12 else 0)
    whole = _divisors(size, sizes[0]) if size > most else []
    return sorted({*sizes, *(tile for tile in whole if tile > sizes[-1])}, reverse=True)


def _even(size: int, limit: int) -> list[int]:
    """As many of a dimension as fit an axis, spread evenly, and one."""
    most = min(size, limit)
    return sorted({1, most, ceil_div(size, ceil_div(size, most)), *_divisors(size, limit)[-2:]}, reverse=True)


_NONE = dict.fromkeys(FACTORS, 1) | dict.fromkeys((*FLAGS, "order"), 0)


def _places(names: str) -> tuple[int, ...]:
    """Columns of some factors in an array of them."""
    return tuple(FACTORS.index(name) for name in names.split())


_R_S, _C_S, _P_Y, _M_Y, _G_Y, _P_X, _M_X, _Q_X = _places("r_s c_s p_y m_y g_y p_x m_x q_x")
_R0, _C0, _P0, _Q0, _M0, _G0, _N0 = _places("r0 c0 p0 q0 m0 g0 n0")
_SLIDES, _HELD, _SETS = map(PROPERTIES.index, ("slides", "held", "sets"))
_C1, _M1, _Q1, _RESIDENT, _OUTER, _ORDER = _places("c1 m1 q1 resident m_outer order")

_NARROW = 64
"""Bytes of a channel block in the narrowest tile: a line of a cache, or what a DRAM gives at once."""

_ROW_TILES = 8
"""Row tiles of even size, at most, that are worth a look."""


def _product(
    bases: Ints,
    filters: Ints,
    images: Ints,
    steps_allowed: Any,
    tile_orders: Any,
    orders: Ints,
    sizes: Any,
    limits: Any,
    whole: bool,
    rows: Ints,
) -> int:
    """Multiply out filters, images, row steps, residency and orders of tiles; fill in rows; return how many it takes.

    Parameters
    ----------
    bases, rows : ndarray of int64, (..., FACTORS)
    filters : ndarray of int64
        Filters of a PE that are allowed: divisors of the filters of a group.
    images : ndarray of int64
        Images of a tile that are allowed, ascending: divisors of the batch.
    steps_allowed : ndarray of bool
        By the number of row steps, from 0.
    tile_orders : (bool, bool)
        Whether filter tiles may be innermost, and whether they may be outermost.
    orders : ndarray of int64, (orders, properties)
        See :func:`rowmesh.sw.search.evaluate.order_table`.
    sizes : (int, int, int, int, int)
        Filters and channels of a group, P, R and S of the layer.
    limits : (int, int, int)
        Words of a PE's weight and psum spads and of a psum bank.
    whole : bool
    """
    (m, c, p, r, s), (weight_spad, psum_spad, bank) = sizes, limits
    count = 0
    for base in bases:
        q = base[_Q0] // base[_Q_X]
        of_order = orders[base[_ORDER]]
        slides, held, sets = of_order[_SLIDES] > 0, of_order[_HELD] > 0, of_order[_SETS] > 0
        together = base[_Q1] if slides else q  # psums at once, of a filter
        taps = s * base[_R0] * base[_C0] * base[_C1]
        most = min(psum_spad // together, weight_spad // taps)
        one_pass = base[_C_S] * base[_C0] * base[_C1] >= c and base[_R_S] * base[_R0] >= r
        if m % base[_M_Y]:
            continue
        column = m // base[_M_Y]
        for m0 in filters:
            if m0 * base[_G0] > most or column % m0 or (base[_M_X] > 1 and base[_M_X] * m0 * base[_M_Y] > m):
                continue
            depth = bank // (q * m0 * base[_M_Y] * base[_G_Y] * base[_G0] * base[_P_Y])
            groups = column // m0
            times = 1
            if sets and not whole:
                for number in range(1, min(groups, depth) + 1):
                    times = number if groups % number == 0 else times
            for m1 in range(1, (min(groups, depth) if sets else min(1, depth)) + 1):
                if groups % m1 or (not whole and m1 != 1 and m1 != times):
                    continue
                if base[_M_X] > 1 and base[_M_X] * m0 * base[_M_Y] * m1 > m:
                    continue
                fitting = psum_spad // (q * m0 * base[_G0]) if held else depth
                row_steps = -(-p // (base[_P_X] * base[_P_Y]))
                longest = min(row_steps, depth, fitting)
                if base[_P_Y] > 1:
                    longest = 1
                # of several row steps or images the weights of all sets stay: the estimate of these is too low
                kept = whole and m0 * m1 * taps <= weight_spad
                if sets:
                    longest = min(longest, depth // m1) if kept else 1
                for p0 in range(1, longest + 1):
                    tiles = -(-row_steps // p0)
                    worth = p0 == 1 or p0 == longest or (tiles <= _ROW_TILES and p0 == -(-row_steps // tiles))
                    if not steps_allowed[p0] or not (whole or worth):
                        continue
                    most_images = min(fitting, depth // m1) // p0
                    if sets and not kept:
                        most_images = 1
                    for n0 in images:
                        if n0 > most_images:
                            break
                        again = m > m0 * m1 * base[_M_Y] * base[_M_X]  # iacts are used for another filter tile
                        for resident, outer in ((0, 0), (1, 0), (0, 1)):
                            if not tile_orders[outer] or (resident + outer and not again):
                                continue
                            if outer and (m1 > 1 or not one_pass):
                                continue  # weights could not stay
                            if count < len(rows):
                                rows[count] = base
                                row = rows[count]
                                row[_M0], row[_M1], row[_P0], row[_RESIDENT] = m0, m1, p0, resident
                                row[_N0], row[_OUTER] = n0, outer
                            count += 1
    return count


_expand = kernel(digest_of([Path(__file__)]))(_product)


class Parts(NamedTuple):
    """Parts of a filter that are in a PE and in the global buffer one after another; see :class:`ClusterMapping`."""

    s_t: int
    r_d: int
    s_d: int


WHOLE = Parts(1, 1, 1)
"""A filter that is in the buffer as a whole, and a row of it in a PE."""


def parts_of_filter(config: ArchConfig, layer: Layer) -> list[Parts]:
    """Return the parts of a filter that are worth a look where it does not fit a PE or the buffer as a whole.

    Rows of a filter are in a PE as wide as they fit beside one flit's channels, or column by column; slices are the
    filter's rows, or these parts of them.
    """
    fits = (config.iact_spad // config.flit_words - 1) // layer.dilation[1] + 1
    widest = next(parts for parts in range(1, layer.s + 1) if layer.s % parts == 0 and layer.s // parts <= max(1, fits))
    found = []
    for in_time in sorted({1, widest, layer.s}):
        found += [Parts(in_time, 1, 1), Parts(in_time, layer.r, 1), Parts(1, layer.r, in_time)]
    return [parts for parts in dict.fromkeys(found) if parts != WHOLE]


class Space:
    """The mapspace of a layer on an architecture under one dataflow.

    No factor is larger than what it splits, and iacts are only kept where they are used again.

    Parameters
    ----------
    config : ArchConfig
    layer : Layer
    flow : Dataflow
    whole : bool
        Every set of factors, not only those that are worth a look: those that fill the array or divide a dimension, the
        twelve widest tiles that split it evenly, as many row steps as fit, one, or up to eight tiles of as many.
    narrow : bool
        Of these also narrow tiles, down to 64 bytes of a channel block, where a tile costs nothing: the first one is
        there soon, and the last one is soon stored.
    parts : Parts
        Of the layer's filter.
    """

    def __init__(
        self,
        config: ArchConfig,
        layer: Layer,
        flow: Dataflow,
        *,
        whole: bool = False,
        narrow: bool = False,
        parts: Parts = WHOLE,
    ) -> None:
        self.parts, self.s0 = parts, layer.s // (parts.s_t * parts.s_d)
        self.config, self.layer, self.flow, self.whole, self.narrow = config, layer, flow, whole, narrow
        self.m, self.c = layer.m // layer.groups, layer.c // layer.groups
        self.planar = TensorLayout(layer.n, layer.c, layer.h, layer.w, config.data_width, config.beat_bytes).planar
        self.window = (self.s0 - 1) * layer.dilation[1] + 1
        self.stride = layer.stride[1] if self.planar else min(layer.stride[1], self.window)

    def bases(self) -> Iterator[list[int]]:
        """Yield rows of factors whose filters and row steps are 1."""
        flow = self.flow
        for order, rows in itertools.product(flow.orders, self._rows()):
            for c0 in _divisors(self.c, self.config.iact_spad):
                if not flow.allows("pe", "C", c0, self.c):
                    continue
                if rows["g_y"] * rows["g0"] > 1 and c0 != self.c:
                    continue
                chains = rows["p_y"] * rows["m_y"] * rows["g_y"]
                block = order.blocks
                if block and rows["g_y"] * rows["g0"] > 1:
                    continue
                words = c0 * rows["r0"] * rows["g0"]
                widths = self._blocks() if block else [1]
                columns = [of for q1 in widths for of in self._columns(order, words, rows, q1)]
                for c_s in self._chain(self.config.rows // (chains * rows["r_s"]), c0, rows["g_y"] * rows["g0"]):
                    base = {**_NONE, **rows, **self.parts._asdict(), "order": order_number(order), "c0": c0, "c_s": c_s}
                    base["ports"] = 1 if block else self._ports(rows, c0, c_s)
                    for c1 in self._groups(c0 * c_s, rows["r0"]) if block else [1]:
                        for of_columns in columns:
                            base.update(of_columns, c1=c1)
                            yield [base[name] for name in FACTORS]

    def count(self, bases: Ints) -> int:
        """Return how many rows of factors some bases stand for."""
        return int(self._expanded(bases, np.zeros((0, len(FACTORS)), np.int64)))

    def expand(self, bases: Ints) -> Ints:
        """Return the rows of factors that some bases stand for.

        Parameters
        ----------
        bases : ndarray of int64, (bases, FACTORS)

        Returns
        -------
        ndarray of int64, (mappings, FACTORS)
        """
        rows = np.zeros((self.count(bases), len(FACTORS)), np.int64)
        self._expanded(bases, rows)
        return rows

    def _expanded(self, bases: Ints, rows: Ints) -> int:
        a, x, allows = self.config, self.layer, self.flow.allows
        m0 = np.array([d for d in _divisors(self.m, self.m) if allows("pe", "M", d, self.m)], np.int64)
        p0 = np.array([False, *(allows("pe", "P", steps, x.p) for steps in range(1, x.p + 1))])
        limits = (a.weight_spad, a.psum_spad, a.psum_bank_words)
        n0 = np.array([d for d in _divisors(x.n, x.n) if allows("pe", "N", d, x.n)], np.int64)
        tile_orders = (False in self.flow.m_outer, True in self.flow.m_outer)
        sizes = (self.m, self.c, x.p, x.r, self.s0)
        return int(
            _expand(
                np.asarray(bases, np.int64), m0, n0, p0, tile_orders, order_table(), sizes, limits, self.whole, rows
            )
        )

    def _spread(self, size: int, places: int) -> list[int]:
        """How many of a dimension lie along an axis."""
        return list(range(min(size, places), 0, -1)) if self.whole else _even(size, places)

    def _rows(self) -> Iterator[Factors]:
        """What is along the rows beside channels: filter rows of a chain (or in the PE), or chains of their own."""
        a, x, allowed = self.config, self.layer, self.flow.rows
        for r_s, r0 in sorted({(1, 1), (x.r, 1), (1, x.r)}, reverse=True):
            if r_s * r0 > 1 and self.parts.r_d > 1:
                continue
            if r_s > 1 and ("R" not in allowed or r_s > a.rows):
                continue
            if not self.flow.allows("rows", "R", r_s, x.r) or not self.flow.allows("pe", "R", r0, x.r):
                continue
            if r0 > 1 and (x.dilation[0] > 1 or self.planar):
                continue
            none = {"r_s": r_s, "r0": r0, "p_y": 1, "m_y": 1, "g_y": 1, "g0": 1}
            yield none
            if r_s > 1:
                continue
            depthwise = self.m == self.c == 1 < x.groups
            for g0 in _divisors(x.groups, min(a.iact_spad, a.psum_spad)) if depthwise else [1]:
                if g0 > 1:
                    yield none | {"g0": g0}
                yield from self._chains(none | {"g0": g0})

    def _chains(self, none: Factors) -> Iterator[Factors]:
        a, x, allowed = self.config, self.layer, self.flow.rows
        for name, dimension, values in (
            ("p_y", "P", self._spread(x.p, a.rows)),
            ("m_y", "M", _divisors(self.m, a.rows)),
            ("g_y", "G", _divisors(x.groups // none["g0"], a.rows) if self.m == 1 else []),
        ):
            if dimension not in allowed:
                continue
            for value in values:
                size = {"P": x.p, "M": self.m, "G": x.groups}[dimension]
                if value > 1 and self.flow.allows("rows", dimension, value, size):
                    yield none | {name: value}

    def _ports(self, rows: Factors, c0: int, c_s: int) -> int:
        """Groups of rows that ports of their own feed: as many as there are, where each can have its share."""
        ports, lanes = self.config.ports, self.config.flit_words
        chains = rows["m_y"] * rows["g_y"]
        words = rows["g_y"] * rows["g0"] * self.c if rows["g_y"] > 1 else c_s * c0
        whole = self.planar or rows["m_y"] > 1 or words % (ports * lanes) == 0 or self.config.iact_ports == 1
        shared = (c_s if chains == 1 else chains) % ports == 0 and rows["p_y"] == 1
        return ports if shared and whole and self.c % (c_s * c0) == 0 else 1

    def _chain(self, most: int, c0: int, groups_at_once: int) -> list[int]:
        """Channel groups along a chain: as many as fit, or a divisor near that."""
        groups = self.c // c0
        most = min(most, groups)
        if "C" not in self.flow.rows or groups_at_once > 1:
            most = min(most, 1)
        if most < 1:
            return []
        worth = {most, *(d for d in _divisors(groups, most) if 2 * d > most)}
        sizes = sorted(range(1, most + 1) if self.whole else worth, reverse=True)
        return [size for size in sizes if self.flow.allows("rows", "C", size, self.c)]

    def _groups(self, channels: int, r0: int) -> list[int]:
        """Channel groups of a PE, one after another, that divide the rest of the channels and whose weights fit."""
        if self.c % channels:
            return []
        room = self.config.weight_spad // (self.s0 * r0)
        return [c1 for c1 in _divisors(self.c // channels, room) if c1 > 1]

    def _blocks(self) -> list[int]:
        """Output columns of a block: as many as fit the psum spad with one filter, two, three and so on."""
        most = min(self.config.psum_spad, self.layer.q)
        worth = {min(most, self.config.psum_spad // filters) for filters in range(1, 17)} - {0}
        return sorted(range(1, most + 1) if self.whole else worth, reverse=True)

    def _columns(self, order: Order, words: int, rows: Factors, block: int = 1) -> Iterator[Factors]:
        """What is across the columns, and the output columns of a PE.

        ``words`` are those of one iact column, ``block`` the output columns of a block.
        """
        a, x, allowed = self.config, self.layer, self.flow.columns
        longest = x.q
        if not order.slides:
            room = (a.iact_spad // words - self.window) // self.stride + 1
            longest = min(x.q, room, a.psum_spad)
        parts = _divisors(x.q, longest) if "Q" in allowed and not self.planar and not order.blocks else []
        for q in parts:
            whole = x.q // q
            worth = {min(whole, a.cols), *(d for d in _divisors(whole, a.cols) if 4 * d >= a.cols)}
            for q_x in range(1, min(whole, a.cols) + 1) if self.whole else sorted(worth):
                if q_x > 1 and self.flow.allows("pe", "Q", q, x.q) and self.flow.allows("columns", "Q", q_x, x.q):
                    yield from self._across({"p_x": 1, "q_x": q_x, "q0": q * q_x}, q_x)
        tiles = _tiles(x.q, a.psum_bank_words)
        if not order.slides:
            tiles = sorted({*tiles, *_divisors(x.q, longest), longest})
        if self.narrow and order.slides and not order.blocks:
            tiles = sorted({*tiles, *(q for q in _divisors(x.q, 8) if q * a.beat_bytes >= _NARROW)}, reverse=True)
        if block > 1 and not self.whole:  # whole blocks, or the plane's width
            whole_blocks = {min(ceil_div(q, block) * block, longest) for q in tiles if q >= block}
            in_parts = x.r * x.s * x.stride[0] * x.stride[1] == 1  # a layer begins with those of a tile of one block
            tiles = sorted({*whole_blocks, *([block] if in_parts else [])}, reverse=True)
        tiles = [q for q in (range(1, longest + 1) if self.whole else tiles) if 0 < q <= longest]
        one = self.flow.factors.get(("pe", "Q"))
        if one is not None and not one.most and one.value:
            tiles = [min(one.value, x.q)]
        p_values = self._spread(x.p, a.cols) if "P" in allowed and rows["p_y"] == 1 else [1]
        if len(p_values) > 1 and "M" in allowed:  # filters can be beside whole groups of drain lanes
            p_values = sorted({*p_values, *range(a.lanes, min(x.p, a.cols) + 1, a.lanes)}, reverse=True)
        for p_x in p_values:
            if not self.flow.allows("columns", "P", p_x, x.p):
                continue
            for q in tiles:
                if q >= block and self.flow.allows("pe", "Q", q, x.q):
                    yield from self._across({"p_x": p_x, "q_x": 1, "q0": q, "q1": block}, p_x)

    def _across(self, base: Factors, inner: int) -> Iterator[Factors]:
        """Filter groups beside the rest across the columns."""
        most = self.config.cols // inner if "M" in self.flow.columns else 1
        sizes = {1, most, *(_divisors(self.m, most) if inner == 1 else ())}
        for m_x in range(1, most + 1) if self.whole else sorted(sizes):
            if m_x <= self.m and self.flow.allows("columns", "M", m_x, self.m):
                yield base | {"m_x": m_x}
