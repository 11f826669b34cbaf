"""Subscriptions: which words each row and PE takes, and the shortest way to write them."""

import itertools
import statistics
from collections.abc import Iterable
from collections.abc import Mapping as Dict

import numpy as np
import numpy.typing as npt

from rowmesh.hw.array import (
    OPERANDS,
    all_rows_address,
    column_address,
    pe_words,
    port_words,
    row_address,
    row_words,
)
from rowmesh.hw.config import ArchConfig
from rowmesh.hw.program import Program
from rowmesh.sw.mapping.cluster import ClusterMapping, ceil_div
from rowmesh.sw.mapping.rules import EDGE_DIMENSIONS, edges

__all__ = ["array_writes", "edge_flags_of", "subscriptions"]


def edge_flags_of(m: ClusterMapping) -> dict[str, int]:
    """Return the edge flag of each dimension whose last tile leaves PEs idle.

    Each has a flag of its own where there are enough for all; where there are fewer, the first ones of those in use.
    """
    used = [name for name, edge in zip(EDGE_DIMENSIONS, edges(m), strict=True) if edge]
    order = EDGE_DIMENSIONS if m.config.edge_flags >= len(EDGE_DIMENSIONS) else used
    return {name: order.index(name) for name in used}


def subscriptions(m: ClusterMapping, chained: bool = False) -> dict[int, int]:
    """Return the configuration words of all PEs and row taps, idle ones included.

    If ``chained``, the psums of the columns come from the cluster below.
    """
    words: dict[int, int] = {}
    config, flags = m.config, edge_flags_of(m)
    words |= port_words(config, {"iact": m.iact_ports, "weight": m.weight_ports})
    for row, used in enumerate(m.rows):
        k, place = divmod(used or 0, m.chain)
        ci, r = divmod(place, m.r_s)
        if used is not None:
            phase = place if m.p_y > 1 else used % (m.chains * m.chain // m.weight_ports)
            words |= row_words(row, "iact", _iact_row(m, k, ci, r))
            words |= row_words(
                row,
                "weight",
                {
                    "phase_low": phase,
                    "phase_high": phase,
                    "index_low": 0,
                    "index_high": m.m_x - 1,
                    "lane_low": 0,
                    "lane_high": m.lanes - 1,
                    "enable": 1,
                },
            )
        else:
            words |= row_words(row, "iact", {}) | row_words(row, "weight", {})
        for col in range(config.cols):
            mi, xi = divmod(col, m.inner)
            if used is None or col >= m.columns:
                words |= pe_words(row, col, {})
                continue
            output_row = k if m.p_y > 1 else xi if m.p_x > 1 else 0
            absent = {
                "M": mi >= m.m_x_rest,
                "C": ci >= m.c_s_rest,
                "P": output_row >= m.p_rest,
                "Q": m.q_x > 1 and xi >= m.q_x_rest,
            }
            low, high = _iact_index(m, r, xi)
            words |= pe_words(
                row,
                col,
                {
                    "iact_low": low,
                    "iact_high": high,
                    "weight_low": mi,
                    "weight_high": mi,
                    "skip": sum(absent[name] << flag for name, flag in flags.items()),
                    "passes": k,
                    "chain_start": int(place == 0 and not chained),
                    "active": 1,
                    "maximum": int(m.layer.kind == "maxpool"),
                },
            )
    return words


def _shift(m: ClusterMapping, r: int) -> tuple[int, int]:
    """Kind and index of the iact row of filter row ``r`` of a chain, for output row 0."""
    uy, dy = m.layer.stride[0], m.layer.dilation[0]
    return (r * dy % uy, r * dy // uy) if m.diagonal else (r, 0)


def _iact_index(m: ClusterMapping, r: int, xi: int) -> tuple[int, int]:
    """Index range of the iacts of a PE, ``xi`` columns into its filter group."""
    if m.q_x > 1:
        first = xi * m.q_pe * m.stride[1]
        return first, first + m.patch_columns(m.q_pe) - 1
    if m.p_y > 1:
        return 0, 0
    if m.r0 > 1:
        first = xi * m.layer.stride[0]
        return first, first + m.height - 1
    _, shift = _shift(m, r)
    return shift + xi, shift + xi


def _iact_row(m: ClusterMapping, k: int, ci: int, r: int) -> dict[str, int]:
    """Subscription to iacts of a row: chain ``k``, channel group and filter row of the chain."""
    kind, _ = _shift(m, r)
    if m.planar:
        first, low, high = ci, 0, m.lanes - 1
        last = first
    else:
        first, low = divmod((k if m.g_y > 1 else ci) * m.pe_words, m.lanes)
        last, high = first + ceil_div(m.pe_words, m.lanes) - 1, min(low + m.pe_words, m.lanes) - 1
    if m.iact_ports > 1:
        first, last = first % m.blocks_at_once, last % m.blocks_at_once
    last_kind = kind
    if m.p_y > 1:
        kind = k * (m.layer.stride[0] if m.r0 > 1 else 1)
        last_kind = kind + m.height - 1 if m.r0 > 1 else kind
    indices = [index for xi in range(m.inner) for index in _iact_index(m, r, xi)]
    return {
        "phase_low": kind * m.blocks_at_once + first,
        "phase_high": last_kind * m.blocks_at_once + last,
        "index_low": min(indices),
        "index_high": max(indices),
        "lane_low": low,
        "lane_high": high,
        "enable": 1,
    }


def array_writes(config: ArchConfig, words: Dict[int, int]) -> list[dict[int, int]]:
    """Return subscriptions as writes, one after another: what most have first, what differs from it last.

    Parameters
    ----------
    config : ArchConfig
    words : ClusterMapping[int, int]
        What :func:`subscriptions` returns.

    Returns
    -------
    list of dict
        Words by address, none of them empty: of all lines, of lines along one axis and along the other, of PEs. What
        a word is in the end is what the last write gives it; PEs that are not active and taps that take nothing may
        keep another first word.
    """
    addresses = np.array(
        [[list(pe_words(row, col, {})) for col in range(config.cols)] for row in range(config.rows)], np.int64
    )
    values = np.vectorize(words.__getitem__, otypes=[np.int64])(addresses)
    steps: list[dict[int, int]] = [{}, {}, {}, {}]
    for word in range(2):
        of_pes = _plan(values[..., word], values[..., 1] != 0, word, addresses[..., word])
        steps = [{**step, **more} for step, more in zip(steps, of_pes, strict=True)]
    others = set(words) - set(addresses.ravel().tolist())
    for operand in OPERANDS:
        taps = np.array([list(row_words(row, operand, {})) for row in range(config.rows)])
        takes = np.array([words[address] != 0 for address in taps[:, 1].tolist()])
        for word in range(2):
            of_rows = {address: words[address] for address in taps[:, word].tolist()}
            of_taps = _tap_plan(of_rows, np.ones_like(takes) if word else takes)
            steps[:2] = ({**step, **more} for step, more in zip(steps[:2], of_taps, strict=True))
            others -= set(of_rows)
    steps[1] |= {address: words[address] for address in others}
    return [step for step in steps if step]


def _words(steps: Iterable[dict[int, int]]) -> int:
    """Words of a program that writes these, one after another."""
    program = Program()
    for step in steps:
        program.write(0, step)
    return program.length


def _tap_plan(of_rows: dict[int, int], matters: npt.NDArray[np.bool_]) -> tuple[dict[int, int], dict[int, int]]:
    """Return the cheapest writes of a word of the taps of all rows: of all at once, and then of single ones."""
    wanted = {address: word for (address, word), needed in zip(of_rows.items(), matters, strict=True) if needed}
    if not wanted:
        return {}, {}
    most = statistics.mode(wanted.values())
    at_once = {all_rows_address(next(iter(of_rows))): most}, {k: v for k, v in wanted.items() if v != most}
    return min((({}, of_rows), at_once), key=_words)


def _plan(
    values: npt.NDArray[np.int64], active: npt.NDArray[np.bool_], word: int, addresses: npt.NDArray[np.int64]
) -> list[dict[int, int]]:
    """Return the cheapest writes of a word of all PEs: of all at once, of lines along both axes, and of single ones.

    A line gets the value that most of its PEs want, or most of its active ones: idle lines across it may put the
    others right.
    """
    matters = np.ones_like(active) if word else active
    best: tuple[int, list[dict[int, int]]] | None = None
    for axes, among, at_once in itertools.product(((0, 1), (1, 0)), (matters, active), (False, True)):
        now, known = np.zeros_like(values), np.zeros_like(matters)
        steps: list[dict[int, int]] = [{}]
        if at_once and among.any():
            now[...], known[...] = _most(values[among]), True
            steps[0][all_rows_address(row_address(0, word))] = int(now[0, 0])
        for axis in axes:
            step: dict[int, int] = {}
            for line in range(values.shape[axis]):
                at = (line, slice(None)) if axis == 0 else (slice(None), line)
                wanted = among[at] if among[at].any() else matters[at]
                if not wanted.any():
                    continue
                value = _most(values[at][wanted])
                wrong = matters[at] & ~(known[at] & (now[at] == values[at]))
                left = matters[at] & (values[at] != value)
                if np.count_nonzero(wrong) > np.count_nonzero(left):
                    step[(row_address if axis == 0 else column_address)(line, word)] = value
                    now[at], known[at] = value, True
            steps.append(step)
        wrong = matters & ~(known & (now == values))
        steps.append(dict(zip(addresses[wrong].tolist(), values[wrong].tolist(), strict=True)))
        cost = _words(steps)
        if best is None or cost < best[0]:
            best = cost, steps
    assert best is not None
    return best[1]


def _most(values: npt.NDArray[np.int64]) -> int:
    """Return the most frequent value, the smallest of several."""
    kinds, counts = np.unique(values, return_counts=True)
    return int(kinds[counts.argmax()])
