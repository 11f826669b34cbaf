"""Nests of the drain and the store engine: from the psum banks to memory."""

from dataclasses import replace

from rowmesh.sw.mapping.cluster import ClusterMapping, ceil_div, chunk_beats
from rowmesh.sw.mapping.loops import tiles_that_share
from rowmesh.sw.program.memory_map import MemoryMap
from rowmesh.sw.program.nest import Loop, Nest
from rowmesh.sw.program.tiles import tile_loops

__all__ = ["drain", "store"]


def _column_loops(m: ClusterMapping, by_p: dict[str, int], by_m: dict[str, int], whole: dict[str, int]) -> list[Loop]:
    """Loops over the groups of columns that are drained together.

    Strides: ``by_p`` for one output row (or part of the output columns), ``by_m`` for one filter group (or for those of
    the columns that fill beats together), ``whole`` for one lane.
    """
    lanes = m.config.lanes

    def scaled(values: dict[str, int], factor: int) -> dict[str, int]:
        return {name: value * factor for name, value in values.items()}

    if m.inner == 1:
        inner = {name: by_m.get(name, 0) + whole.get(name, 0) for name in {*by_m, *whole}}
        return [Loop("group", ceil_div(m.m_x // m.merged, lanes), scaled(inner, lanes))]
    inner = {name: by_p.get(name, 0) + whole.get(name, 0) for name in {*by_p, *whole}}
    outer = {name: by_m.get(name, 0) + m.inner * whole.get(name, 0) for name in {*by_m, *whole}}
    return [Loop("mi", m.m_x, outer), Loop("group", ceil_div(m.inner, lanes), scaled(inner, lanes))]


def _columns(m: ClusterMapping, merged: int = 1) -> tuple[dict[str, int], tuple[str, ...] | None]:
    """Columns of a tile, and of a tile at an edge; ``merged`` of them count as one."""
    values = {"columns": m.columns // merged, "columns_edge": m.columns // merged}
    if m.m_x_rest != m.m_x:
        return values | {"columns_edge": m.m_x_rest * m.inner // merged}, ("mt",)
    if m.p_x > 1 and m.p_rest != m.p_n:
        return values | {"columns_edge": m.p_rest}, ("pt", "pj")
    if m.q_x_rest != m.q_x:
        return values | {"columns_edge": m.q_x_rest}, ("qt",)
    return values, None


def drain(m: ClusterMapping, zero_point: int, clamp: tuple[int, int]) -> Nest:
    """Return the nest of the drain: the psums of all lanes' columns, gathered to beats of the ofmap."""
    x, k = m.layer, m.out_lanes
    raw = x.output == "raw"
    span = 32 // m.config.data_width if raw else 1
    filters, chains = m.set_filters, m.p_y  # a position's words in a bank: filters, output rows innermost
    merged = m.merged
    groups_of_lanes = _column_loops(m, {}, {"param": m.column_filters * merged}, {})
    # the group output counts groups of lanes: a filter group is inner / lanes of them
    per_filter = ceil_div(m.inner, m.config.lanes)
    groups_of_lanes = [
        Loop(g.name, g.bound, {**g.strides, "group": per_filter if g.name == "mi" else merged}) for g in groups_of_lanes
    ]
    loops = [*tile_loops(m, {}), Loop("nj", m.n0), Loop("pj", m.p0, {}, m.p0_rest, ("pt",)), *groups_of_lanes]
    loops.append(Loop("k", chains, {"offset": 1}, *_chains_rest(m)))
    loops.append(Loop("mj", m.m1, {"offset": filters * m.q_pe * chains, "param": filters}))
    if m.ofmap_layout.planar:
        beats, beats_rest = ceil_div(m.q_pe, k), ceil_div(m.q_pe_rest, k)
        rest = m.q_pe_rest - (beats_rest - 1) * k
        loops += [
            Loop("m", filters, {"offset": chains, "param": 1}),
            Loop("q", beats, {"offset": k * filters * chains}, beats_rest, ("qt",)),
            Loop("slot", k, {"offset": filters * chains, "slot": span}, rest, ("qt", "q")),
        ]
        tile: tuple[str, ...] = ("k", "mj", "m", "q", "slot")
    else:
        position = {"offset": filters * chains}
        if m.g0 > 1 and m.g_y > 1:  # channels of a bank: groups of a PE, then rows; in the ofmap the other way round
            rows = max(1, k // m.g0)
            sets = ceil_div(m.g_y, rows)
            loops += [
                Loop("kb", sets, {"offset": rows, "param": rows * m.g0}),
                Loop("mb", ceil_div(m.g0, k), {"offset": k * m.g_y, "param": k}),
                Loop("q", m.q_pe, position, m.q_pe_rest, ("qt",)),
                Loop(
                    "slots", rows, {"offset": 1, "param": m.g0, "slot": m.g0 * span}, m.g_y - (sets - 1) * rows, ("kb",)
                ),
                Loop("slot", min(k, m.g0), {"offset": m.g_y, "param": 1, "slot": span}),
            ]
        else:
            blocks = ceil_div(filters, k)
            rest = filters - (blocks - 1) * k
            loops += [
                Loop("kb", 1),
                Loop("mb", blocks, {"offset": k * chains, "param": k}),
                Loop("q", m.q_pe, position, m.q_pe_rest, ("qt",)),
                Loop("slots", merged, {"group": 1, "param": filters, "slot": filters * span}),
                Loop("slot", k, {"offset": chains, "param": 1, "slot": span}, rest, ("mb",)),
            ]
        tile = ("k", "mj", "kb", "mb", "q", "slots", "slot")
    columns, edge = _columns(m)
    groups = tuple(g.name for g in groups_of_lanes)
    if raw:  # accumulators have no parameters, and may be of more filters than there is room for
        loops = [replace(loop, strides={k: v for k, v in loop.strides.items() if k != "param"}) for loop in loops]
    return Nest(
        loops,
        {},
        {
            "edge_mask": edge,
            "release_mask": tuple(name for name in tile if merged == 1 or name != "slots"),
            "short_mask": ("qt",),
            "thin_mask": ("mt",),
            "flush_mask": ("slot",) if m.ofmap_layout.planar else ("slots", "slot"),
            "param_mask": None if raw else (*tiles_that_share(m), "nj", "pj", *groups, *tile),
        },
        {
            **columns,
            **{f"release{n}": (m.q_pe_rest if n & 1 else m.q_pe) * m.column_filters * chains for n in range(4)},
            "lane_param": m.column_filters * merged if m.inner == 1 and m.m_x > merged and not raw else 0,
            "param_release": 0 if raw else m.m_x * m.column_filters,
            "param_thin": 0 if raw else m.m_x_rest * m.column_filters,
            "use_param": int(not raw),
            "raw": int(raw),
            "zero_point": zero_point,
            "clamp_low": clamp[0],
            "clamp_high": clamp[1],
        },
    )


def _chains_rest(m: ClusterMapping) -> tuple[int, tuple[str, ...]]:
    """Output rows along the array's rows in the last row step."""
    return (m.p_rest if m.p_y > 1 else 1), ("pt", "pj")


def store(m: ClusterMapping, memory: MemoryMap) -> Nest:
    """Return the nest of the store engine: chunks of beats, one of each lane in turn."""
    layout, k = m.ofmap_layout, m.out_lanes
    beat, lanes = m.config.beat_bytes, m.config.lanes
    planar = layout.planar
    merged = m.merged
    filters = m.column_filters if planar else m.column_filters * merged // k  # blocks of one column's filters
    columns = m.q0 // k if planar else m.q0
    strides = {
        "n": {"address": m.n0 * layout.stride_n},
        "g": {"address": m.g_n * m.m // (1 if planar else k) * layout.stride_block},
        "pt": {"address": m.p0 * m.p_n * layout.stride_row},
        "qt": {"address": columns * beat},
        "mt": {"address": m.m_x // merged * filters * layout.stride_block},
    }
    beats, beats_rest = (ceil_div(q, k) if planar else q for q in (m.q_pe, m.q_pe_rest))
    chunk = chunk_beats(m)
    chunks, chunks_rest = ceil_div(beats, chunk), ceil_div(beats_rest, chunk)
    by_p = {"address": layout.stride_row if m.q_x == 1 else m.q_pe * beat}
    by_m = {"address": filters * layout.stride_block}
    loops = [
        *tile_loops(m, strides),
        Loop("nj", m.n0, {"address": layout.stride_n}),
        Loop("pj", m.p0, {"address": m.p_n * layout.stride_row}, m.p0_rest, ("pt",)),
        *_column_loops(m, by_p, by_m, {"column": 1}),
        Loop("k", m.p_y, {"address": layout.stride_row}, *_chains_rest(m)),
        Loop(
            "mb",
            m.column_filters if planar else ceil_div(m.column_filters * merged, k),
            {"address": layout.stride_block},
        ),
        Loop("chunk", chunks, {"address": chunk * beat}, chunks_rest, ("qt",)),
        Loop("lane", lanes, {"column": 1, "lane": 1, **(by_m if m.inner == 1 else by_p)}),
    ]
    columns_values, edge = _columns(m, merged)
    return Nest(
        loops,
        {"address": memory.ofmap},
        {"edge_mask": edge, "length_mask": ("qt", "chunk")},
        {**columns_values, "length": chunk, "length_last": beats_rest - (chunks_rest - 1) * chunk},
    )
