"""Which PEs a mapping keeps at work, and what its links carry on average. Everything follows from the mapping."""

import numpy as np
import numpy.typing as npt

from rowmesh.sw.mapping.cluster import ClusterMapping, ceil_div, weight_beats
from rowmesh.sw.mapping.layer import LayerMapping
from rowmesh.sw.model.closed_form import drain_cycles, iact_cycles
from rowmesh.sw.model.counts import access_counts, words
from rowmesh.sw.model.performance import ACCESSES

__all__ = ["edges", "link_cycles", "pe_macs", "pe_steps", "steps", "used_pes"]


def steps(m: ClusterMapping) -> int:
    """Return the steps of the layer: cycles of a PE that works in all of them."""
    columns = (m.qt - 1) * m.q_pe + m.q_pe_rest
    outside = m.layer.n * m.g_t * m.mt * m.passes * m.m1
    return outside * m.row_steps * columns * m.taps * m.pe_filters


def pe_steps(m: LayerMapping) -> int:
    """Return the steps of a layer: those of a cluster, which all work at the same time."""
    return steps(m.cluster)


def used_pes(m: LayerMapping) -> int:
    """Return how many PEs work in at least one step."""
    return m.splits.clusters * m.cluster.chains * m.cluster.chain * m.cluster.columns


def pe_macs(m: LayerMapping) -> npt.NDArray[np.int64]:
    """Return the multiply-accumulates of each PE.

    Parameters
    ----------
    m : LayerMapping

    Returns
    -------
    ndarray
        Shape (mesh_rows * rows, mesh_cols * cols); psums move from row 0 upwards. Its sum is
        the layer's multiply-accumulates, its largest value at most :func:`pe_steps`.
    """
    clusters = np.zeros((m.config.mesh_rows, m.config.mesh_cols), np.int64)
    clusters[: m.splits.rows, : m.splits.cols] = 1
    return np.kron(clusters, _cluster_macs(m.cluster))


def _cluster_macs(m: ClusterMapping) -> npt.NDArray[np.int64]:
    """Return the multiply-accumulates of each PE of a cluster, (rows, cols)."""
    macs = np.zeros((m.config.rows, m.config.cols), np.int64)
    always = m.layer.n * m.g_t * (m.passes // m.ct) * m.m1 * m.taps * m.pe_filters
    for row, used in enumerate(m.rows):
        if used is None:
            continue
        k, place = divmod(used, m.chain)
        for col in range(m.columns):
            mi, xi = divmod(col, m.inner)
            p = k if m.p_y > 1 else xi if m.p_x > 1 else 0
            q = xi if m.q_x > 1 else 0
            # the last tile of an axis has work for its first places only
            tiles = m.mt - (mi >= m.m_x_rest)
            passes = m.ct - (place // m.r_s >= m.c_s_rest)
            row_steps = m.row_steps - (p >= m.p_rest)
            columns = (m.qt - 1) * m.q_pe + (m.q_pe_rest if q < m.q_x_rest else 0)
            macs[row, col] = always * tiles * passes * row_steps * columns
    return macs


def edges(of: LayerMapping) -> list[tuple[str, int, int, int]]:
    """Return the dimensions whose last tile leaves PEs of a cluster idle.

    Returns
    -------
    list of (str, int, int, int)
        What is spread over the array, places of a full tile, places that the last tile uses, number of tiles.
    """
    m = of.cluster
    axes = [
        ("filters across the columns", m.m_x, m.m_x_rest, m.mt),
        ("channel groups along the chain", m.c_s, m.c_s_rest, m.ct),
        ("output rows across the array", m.p_n, m.p_rest, m.row_steps),
        ("output columns across the array", m.q_x, m.q_x_rest, m.qt),
    ]
    return [axis for axis in axes if axis[1] != axis[2]]


def link_cycles(of: LayerMapping) -> dict[str, int]:
    """Return for how many cycles each link is busy over the layer, wherever it is the busiest of its kind.

    Rates are those of docs/architecture.md: a beat or a flit a cycle, a word a cycle along a row's bus, one psum
    a cycle into a bank. The memory and the drain serve all clusters of a mesh; the sets that are drained together
    (:class:`rowmesh.sw.mapping.layer.Sets`) are drained one after the other.

    Returns
    -------
    dict
        Cycles of ``dram read``, ``dram write``, ``iact noc``, ``weight noc``, ``psum noc`` and ``drain``.
    """
    m, counts, sets = of.cluster, access_counts(of), of.sets.rows * of.sets.cols
    x = m.layer
    tiles = x.n * m.g_t * m.mt
    iact, drain = 0, 0
    for q_tile, q_pe, q_count in ((min(m.q0, x.q), m.q_pe, m.qt - 1), (m.q_rest, m.q_pe_rest, 1)):
        for p, count in ((m.p_n, m.row_steps - 1), (m.p_rest, 1)):
            if q_count and count:
                passes = (m.ct - 1) * iact_cycles(m, q_tile, p) + iact_cycles(m, q_tile, p, m.blocks_rest)
                iact += tiles * (m.passes // m.ct) * q_count * count * passes
        for rows, count in ((min(m.p0, m.row_steps), m.pt - 1), (m.p0_rest, 1)):
            if q_count and count:
                drain += tiles * q_count * count * drain_cycles(m, q_pe, rows)
    of_row = m.passes * (m.m // (m.m0 * m.m_y)) * m.weights  # weights that pass along the busiest row
    banked = of.splits.clusters // of.splits.c_y  # clusters whose psums go to their banks
    return {
        "dram read": sum(counts[f"dram.{what}.read"] for what in ("iact", "weight", "param")) // of.config.flit_words,
        "dram write": ceil_div(x.outputs, m.out_lanes) * banked,
        "iact noc": iact,
        "weight noc": m.weight_rounds * m.g_t * max(weight_beats(m) // m.weight_ports, of_row),
        "psum noc": ceil_div(words(m)[ACCESSES.index("noc.psum.delivered")], m.columns),
        "drain": drain * sets,
    }
