"""Weights and parameters as the load engines fetch them: packed in the order of use, so that loads are linear."""

import numpy as np
import numpy.typing as npt

from rowmesh.hw.config import ArchConfig
from rowmesh.sw.mapping.cluster import ClusterMapping, ceil_div

__all__ = ["pack_params", "pack_weights"]


def pack_weights(m: ClusterMapping, weights: npt.NDArray[np.int64]) -> bytes:
    """Pack weights [M, C / G, R, S] in the order of use, port after port, a flit for each PE in turn.

    Source: the loops of the weight readers in :mod:`rowmesh.sw.program.engines`; within a PE those of its order.
    """
    lanes = m.lanes
    flits = ceil_div(m.weights, lanes)
    chains, ports = m.m_y * m.g_y, m.weight_ports
    axes = {"cj": 4, "s": 13, "r": 10, "c": 6, "m": 2}  # of a tile's channel groups, columns, rows, channels, filters
    orders = [axes[name] for name in m.order.loops if name in axes]
    within = orders if m.order.blocks else [axes["cj"], *orders]
    pieces: list[list[bytes]] = [[] for _ in range(ports)]
    for g in range(m.g_t):
        group = weights[g * m.g_n * m.m : (g + 1) * m.g_n * m.m]
        if m.g0 > 1:  # a row of the array has neighbouring groups; those of the rows alternate, as filters do
            group = group.reshape(m.g_y, m.g0, *group.shape[1:]).swapaxes(0, 1).reshape(group.shape)
        for mt in range(m.mt):
            mx = m.m_x if mt < m.mt - 1 else m.m_x_rest
            filters = group[mt * m.m_x * m.column_filters :][: mx * m.column_filters]
            if m.merged > 1:  # columns at a distance of the lanes have neighbouring filters
                of_columns = filters.reshape(-1, m.config.lanes, m.merged, m.column_filters, *filters.shape[1:])
                filters = of_columns.swapaxes(1, 2).reshape(filters.shape)
            for ct in range(m.ct):
                cs = m.c_s if ct < m.ct - 1 else m.c_s_rest
                tile = filters[:, ct * m.pass_channels :][:, : m.c1 * cs * m.c0]
                taps = (m.r_d, m.r_t, m.r_s, m.r0, m.s_d, m.s_t, m.s0)
                tile = tile.reshape(mx, m.m1, m.pe_filters, chains, m.c1, cs, m.c0, *taps)
                # rd, sd, rt, st, mj, mi, k, ci, r_s, and within a PE
                tile = tile.transpose(7, 11, 8, 12, 1, 0, 3, 5, 9, *within)
                # ports share the chains of a column, or else the channel groups of its one chain
                rows = (ports, chains // ports, cs) if chains > 1 else (chains, ports, cs // ports)
                words = np.zeros((m.passes // m.ct, m.m1, mx, *rows, m.r_s, flits * lanes), np.int64)
                words[..., : m.weights] = tile.reshape(*words.shape[:-1], m.weights)
                words = np.moveaxis(words.reshape(*words.shape[:-1], flits, lanes), -2, 2)
                words = np.moveaxis(words, 4 if chains > 1 else 5, 0).astype(f"<i{m.config.data_width // 8}")
                for port, own in zip(pieces, words, strict=True):
                    port.append(own.tobytes())
    return b"".join(b"".join(port) for port in pieces)


def pack_params(config: ArchConfig, bias: npt.NDArray[np.int64], scale: npt.NDArray[np.float32]) -> bytes:
    """Pack bias [M] and scale [M] as one beat a channel: bias in the low, float32 scale in the next 32 bits."""
    beats = np.zeros((len(bias), config.beat_bytes // 4), "<u4")
    beats[:, 0] = bias.astype("<i4").view("<u4")
    beats[:, 1] = scale.astype("<f4").view("<u4")
    return beats.tobytes()
