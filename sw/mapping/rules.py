"""What this hardware asks of a mapping: a list of rules, each a condition and the sentence that says what breaks it.

Conditions are functions of the integers of a :class:`~rowmesh.sw.mapping.cluster.ClusterMapping` alone, so that they
hold for one mapping and, compiled (:mod:`rowmesh.sw.search.evaluate`), for many at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["EDGE_DIMENSIONS", "RULES", "Rule", "edges", "kept_flits", "pe_psums", "tag_indices", "tag_phases"]


class Rule(NamedTuple):
    """A condition, and the sentence for a mapping that breaks it."""

    holds: Callable[[Any], bool]
    text: Callable[[Any], str]


def pe_psums(m: Any) -> int:
    """Psums in a PE's spad."""
    return m.pe_filters * (m.q_pe if m.patched else m.q1) * (m.n0 * m.p0 if m.held else 1)


def kept_flits(m: Any) -> int:
    """Flits of iacts that have to fit the global buffer."""
    return m.slice_flits * m.images_kept * (m.slices if m.resident else 1)


def tag_indices(m: Any) -> int:
    """Values of a flit's index tag."""
    if m.q_x > 1:
        index = m.patch_columns(min(m.q0, m.layer.q))
    elif m.r0 > 1:
        index = m.row_span(m.p_x)
    else:
        index = m.p_x + ((m.height - 1) // m.layer.stride[0] if m.diagonal else 0)
    return max(index, m.m_x)


def tag_phases(m: Any) -> int:
    """Values of a flit's phase tag."""
    return max(m.blocks_at_once * m.phases, m.m_y * m.g_y * m.chain // m.weight_ports)


def port_shares(m: Any) -> int:
    """What lies along the rows and can be shared by ports: channel groups of the one chain, or the chains."""
    return m.c_s if m.chains == 1 else m.m_y * m.g_y


def port_words(m: Any) -> int:
    """Iact words at one position that come through a port."""
    return (m.g_n * m.c if m.g_n > 1 else m.c_s * m.c0) // m.iact_ports


EDGE_DIMENSIONS = "MCPQ"
"""Dimensions across the array whose last tiles can leave PEs idle, in the order of :func:`edges`."""


def edges(m: Any) -> tuple[bool, bool, bool, bool]:
    """Whether the last tile of each of EDGE_DIMENSIONS leaves PEs idle."""
    return m.m_x_rest != m.m_x, m.c_s_rest != m.c_s, m.p_rest != m.p_n, m.q_x_rest != m.q_x


def edge_count(m: Any) -> int:
    """Edge flags that are needed."""
    filters, channels, rows, columns = edges(m)
    return int(filters) + int(channels) + int(rows) + int(columns)


_CAPACITY = (
    Rule(
        lambda m: m.q_x == 1 or (m.q0 <= m.layer.q and m.q0 % m.q_x == 0),
        lambda m: f"the tile's output columns ({m.q0}) must be whole parts of {m.q_x} and no more than Q ({m.layer.q})",
    ),
    Rule(
        lambda m: m.r_s * m.r0 == 1 or (m.r_s + m.r0 == m.layer.r + 1 and m.r_s * m.r0 == m.layer.r),
        lambda m: f"filter rows must all be along a chain or within a PE, or in time: r_s, r0 are {m.r_s}, {m.r0}",
    ),
    Rule(
        lambda m: m.layer.r % (m.r_d * m.r_s * m.r0) == 0,
        lambda m: f"slices of filter rows ({m.r_d}, r_d) must divide those in time ({m.layer.r // (m.r_s * m.r0)})",
    ),
    Rule(
        lambda m: m.layer.s % (m.s_d * m.s_t) == 0,
        lambda m: f"slices and passes of filter columns (s_d, s_t: {m.s_d}, {m.s_t}) must divide S ({m.layer.s})",
    ),
    Rule(
        lambda m: m.chains * m.chain <= m.config.rows,
        lambda m: f"{m.chains} chains of {m.chain} PEs exceed the {m.config.rows} rows (array.rows)",
    ),
    Rule(
        lambda m: m.columns <= m.config.cols,
        lambda m: f"{m.columns} columns exceed the array's {m.config.cols} (array.cols)",
    ),
    Rule(
        lambda m: m.iact_slots <= m.config.iact_spad,
        lambda m: f"{m.iact_slots} iacts exceed the spad of {m.config.iact_spad} (spads.iact)",
    ),
    Rule(
        lambda m: m.kept_weights <= m.config.weight_spad,
        lambda m: f"{m.kept_weights} weights exceed the spad of {m.config.weight_spad} (spads.weight)",
    ),
    Rule(
        lambda m: pe_psums(m) <= m.config.psum_spad,
        lambda m: f"{pe_psums(m)} psums of a PE exceed the spad of {m.config.psum_spad} (spads.psum)",
    ),
    Rule(
        lambda m: m.bank_words <= m.config.psum_bank_words,
        lambda m: f"{m.bank_words} psums exceed the bank of {m.config.psum_bank_words} (glb.psum_bank_words)",
    ),
    Rule(
        lambda m: kept_flits(m) <= m.config.glb_iact_flits,
        lambda m: f"{kept_flits(m)} iact flits exceed the global buffer's {m.config.glb_iact_flits} (glb.iact_flits)",
    ),
    Rule(
        lambda m: m.layer.output != "requant" or m.m_x * m.column_filters <= m.config.param_words,
        lambda m: (
            f"parameters of {m.m_x * m.column_filters} filters exceed {m.config.param_words} (output.param_words)"
        ),
    ),
    Rule(
        lambda m: m.layer.kind != "maxpool" or m.config.max_pooling,
        lambda m: "maxpool needs PEs that can (pe.max_pooling: true)",
    ),
    Rule(
        lambda m: m.layer.kind != "maxpool" or m.chain == 1,
        lambda m: "the largest of a window cannot be taken along a chain of PEs",
    ),
    Rule(
        lambda m: m.layer.kind != "maxpool" or m.held or m.passes == 1,
        lambda m: "the largest of a window has to be taken within a PE",
    ),
)
"""What has to fit."""

_SPACE = (
    Rule(
        lambda m: m.m % m.m_n == 0,
        lambda m: f"filters of a PE and its column ({m.m_n}) must divide the filters of a group ({m.m})",
    ),
    Rule(
        lambda m: m.c % m.c0 == 0,
        lambda m: f"channels of a PE ({m.c0}) must divide the channels of a group ({m.c})",
    ),
    Rule(
        lambda m: (m.p_y > 1) + (m.m_y > 1) + (m.g_y > 1) <= 1,
        lambda m: "only one of output rows, filters and groups can have chains of their own",
    ),
    Rule(
        lambda m: m.p_x == 1 or m.q_x * m.p_y == 1,
        lambda m: "output rows across columns exclude output columns there",
    ),
    Rule(
        lambda m: m.p_y == 1 or m.p0 == 1,
        lambda m: "output rows along the rows need one row step a tile",
    ),
    Rule(
        lambda m: m.r_s == 1 or m.chains * m.q_x == 1,
        lambda m: "filter rows along a chain need one chain a column",
    ),
    Rule(
        lambda m: m.r0 == 1 or m.layer.dilation[0] == 1,
        lambda m: "filter rows within a PE exclude dilation along y",
    ),
    Rule(
        lambda m: m.p_y == 1 or m.r0 == 1 or m.c_s == 1,
        lambda m: "channels along a chain exclude output rows of several iact rows beside it",
    ),
    Rule(
        lambda m: m.layer.n % m.n0 == 0,
        lambda m: f"images of a tile ({m.n0}) must divide the batch ({m.layer.n})",
    ),
    Rule(
        lambda m: m.m1 == 1 or m.layer.q % m.q_pe == 0,
        lambda m: f"output columns of a PE ({m.q_pe}) must divide Q ({m.layer.q})",
    ),
    Rule(
        lambda m: (m.order.sets or m.m1 == 1) and (m.order.blocks or m.c1 * m.q1 == 1),
        lambda m: (
            f"order {m.order} has no loop over filter groups (m1, {m.m1}: MSRCQM has)"
            if m.m1 > 1 and not m.order.sets
            else f"order {m.order} has no loops over channel groups and blocks of columns (c1, q1: QCQSRCM has)"
        ),
    ),
    Rule(
        lambda m: not m.blocked or m.q1 <= min(m.q0, m.layer.q),
        lambda m: f"output columns of a block ({m.q1}) exceed the tile's ({min(m.q0, m.layer.q)})",
    ),
    Rule(
        lambda m: not m.blocked or m.c % m.pass_channels == 0,
        lambda m: f"channels of a pass in blocks ({m.pass_channels}) must divide those of a group ({m.c})",
    ),
    Rule(
        lambda m: not m.blocked or m.qt == 1 or m.q0 % m.q1 == 0,
        lambda m: f"blocks of {m.q1} output columns must divide column tiles of {m.q0}",
    ),
    Rule(
        lambda m: not m.blocked or m.q_x * m.g_n * m.ports == 1,
        lambda m: "blocks of output columns exclude output columns across the array, several groups at once, and ports",
    ),
    Rule(
        lambda m: not m.m_outer or (m.mt > 1 and m.n_t * m.pt * m.qt > 1),
        lambda m: "filter tiles outermost need several filter tiles, and several tiles of images, rows or columns",
    ),
    Rule(
        lambda m: not m.m_outer or not m.resident,
        lambda m: "filter tiles outermost exclude iacts that stay in the global buffer",
    ),
    Rule(
        lambda m: not m.m_outer or m.weights_stay,
        lambda m: (
            "filter tiles outermost need weights that stay: all channels and filter rows in one pass, and rows and "
            "columns that fill the array"
        ),
    ),
    Rule(
        lambda m: not m.held or m.c_s_rest == m.c_s,
        lambda m: "psums in the PE need whole channel tiles along the chain",
    ),
    Rule(
        lambda m: m.q_x == 1 or m.layer.q % m.q_pe == 0,
        lambda m: f"output columns of a PE ({m.q_pe}) must divide Q ({m.layer.q})",
    ),
    Rule(
        lambda m: m.q_x == 1 or m.q_x_rest == m.q_x or m.m_x == 1,
        lambda m: "columns left over exclude filters across columns",
    ),
    Rule(
        lambda m: m.g_n == 1 or m.layer.groups % m.g_n == 0,
        lambda m: f"groups of a tile ({m.g_n}) must divide {m.layer.groups}",
    ),
    Rule(
        lambda m: m.g_n == 1 or (m.m == 1 and m.c_s == 1 and m.c0 == m.c and m.m_x == 1 and m.r_s == 1),
        lambda m: "several groups at once need all of a group in one PE, and one filter",
    ),
    Rule(
        lambda m: m.g_n == 1 or m.g0 == 1 or m.c == 1,
        lambda m: "several groups in a PE need one channel a group",
    ),
    Rule(
        lambda m: m.g_n == 1 or not m.planar,
        lambda m: "several groups at once need as many channels as a beat has words",
    ),
    Rule(
        lambda m: m.p_rest == m.p_n or m.p0 == 1,
        lambda m: "rows that do not fill the array need one row step a tile",
    ),
    Rule(
        lambda m: m.p_rest == m.p_n or m.m_x == 1 or m.p_x == 1,
        lambda m: "rows that do not fill the columns exclude filters across columns",
    ),
    Rule(
        lambda m: m.m_x == 1 or m.inner == 1 or m.inner % m.config.lanes == 0,
        lambda m: (
            f"columns beside filters across columns must be a multiple of the {m.config.lanes} lanes (output.lanes)"
        ),
    ),
    Rule(
        lambda m: tag_indices(m) <= 1 << m.config.tag_width,
        lambda m: f"{tag_indices(m)} tag indices exceed {m.config.tag_width} bits (noc.tag_width)",
    ),
    Rule(
        lambda m: tag_phases(m) <= 1 << m.config.tag_width,
        lambda m: f"{tag_phases(m)} tag phases exceed {m.config.tag_width} bits (noc.tag_width)",
    ),
    Rule(
        lambda m: edge_count(m) <= m.config.edge_flags,
        lambda m: (
            f"last tiles of {edge_count(m)} dimensions leave PEs idle, more than there are edge flags "
            f"({m.config.edge_flags}, noc.edge_flags)"
        ),
    ),
)
"""What is across the array: edges must be whole PEs, tags tell everything apart."""

_PORTS = (
    Rule(
        lambda m: m.ports == 1 or m.ports == m.config.ports,
        lambda m: f"ports must be 1 or {m.config.ports}, not {m.ports}",
    ),
    Rule(
        lambda m: m.ports == 1 or port_shares(m) % m.ports == 0,
        lambda m: (
            f"channel groups of a chain, or filters or groups along the rows, must be shared by {m.ports} ports, "
            f"not {port_shares(m)}"
        ),
    ),
    Rule(
        lambda m: m.ports == 1 or m.chains * m.chain // m.ports <= m.config.rows // m.ports,
        lambda m: f"{m.chains * m.chain // m.ports} rows of a port exceed its {m.config.rows // m.ports}",
    ),
    Rule(
        lambda m: m.ports == 1 or m.c_s_rest == m.c_s,
        lambda m: "ports need whole channel tiles along the chain",
    ),
    Rule(
        lambda m: m.iact_ports == 1 or m.planar or port_words(m) % m.lanes == 0,
        lambda m: f"channels of a port ({port_words(m)}) are no whole flits of {m.lanes}",
    ),
)
"""How rows share ports: each port has as much of the same."""

_FLITS = (
    Rule(
        lambda m: not m.planar or m.c0 == 1,
        lambda m: "the packed form holds one channel a flit",
    ),
    Rule(
        lambda m: not m.planar or m.r0 * m.q_x * m.s_t * m.s_d == 1,
        lambda m: "the packed form excludes filter rows in a PE, and columns in space or in time",
    ),
    Rule(
        lambda m: not m.planar or m.layer.stride[1] <= m.window,
        lambda m: "a stride beyond the filter needs as many channels as a beat has words",
    ),
    Rule(
        lambda m: not m.planar or m.qt == 1 or (m.q0 * m.layer.stride[1]) % m.lanes == 0,
        lambda m: "column tiles of a packed tensor must be whole flits",
    ),
    Rule(
        lambda m: not m.blocked or not m.planar or m.q1 >= m.q0 or (m.q1 * m.layer.stride[1]) % m.lanes == 0,
        lambda m: f"blocks of {m.q1} output columns of a packed tensor must be whole flits",
    ),
    Rule(
        lambda m: not m.blocked or m.planar or (m.c_s * m.c0) % m.lanes == 0,
        lambda m: f"channel groups of {m.c_s * m.c0} in blocks are no whole flits",
    ),
    Rule(
        lambda m: m.planar or m.pe_words % m.lanes == 0 or m.lanes % m.pe_words == 0,
        lambda m: f"{m.pe_words} channels of a PE do not fit flits of {m.lanes}",
    ),
    Rule(
        lambda m: m.planar or m.ct == 1 or (m.c_s * m.c0) % m.lanes == 0,
        lambda m: f"channel tiles of {m.c_s * m.c0} are no whole flits",
    ),
    Rule(
        lambda m: m.planar or m.g_t == 1 or (m.g_n * m.c) % m.lanes == 0,
        lambda m: f"groups of {m.g_n * m.c} channels share flits of {m.lanes}",
    ),
)
"""How iact words lie in flits."""

_BEATS = (
    Rule(
        lambda m: not m.ofmap_layout.planar or m.qt == 1 or m.q0 % m.out_lanes == 0,
        lambda m: f"column tiles of {m.q0} are no whole beats of {m.out_lanes}",
    ),
    Rule(
        lambda m: not m.ofmap_layout.planar or m.m_x * m.m_n >= m.m,
        lambda m: "a packed ofmap needs all filters in one tile",
    ),
    Rule(
        lambda m: not m.ofmap_layout.planar or m.m_x * m.m_y * m.q_x * m.m1 == 1,
        lambda m: "a packed ofmap excludes filters and output columns across the array",
    ),
    Rule(
        lambda m: (
            m.ofmap_layout.planar or m.g0 == 1 or m.g_y == 1 or m.g0 % m.out_lanes == 0 or m.out_lanes % m.g0 == 0
        ),
        lambda m: f"groups of a PE ({m.g0}) do not fit beats of {m.out_lanes}",
    ),
    Rule(
        lambda m: m.ofmap_layout.planar or m.set_filters * m.merged % m.out_lanes == 0 or m.m_x * m.m1 == 1,
        lambda m: (
            f"filters of a column ({m.set_filters}) beside others must be whole beats of {m.out_lanes}, or fill them "
            f"with those of the columns at a distance of {m.config.lanes}"
        ),
    ),
    Rule(
        lambda m: m.ofmap_layout.planar or m.set_filters * m.merged % m.out_lanes == 0 or m.mt == 1,
        lambda m: f"filter tiles of {m.column_filters} are no whole beats of {m.out_lanes}",
    ),
    Rule(
        lambda m: m.ofmap_layout.planar or m.g_t == 1 or (m.g_n * m.m) % m.out_lanes == 0,
        lambda m: f"groups of {m.g_n * m.m} filters share beats of {m.out_lanes}",
    ),
)
"""How ofmap words lie in beats."""

RULES = _CAPACITY + _SPACE + _PORTS + _FLITS + _BEATS
"""All of them, in the order in which they are named."""
