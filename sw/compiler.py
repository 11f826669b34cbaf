"""The compiler: a mapping becomes a program for each engine.

docs/architecture.md derives every stride below; the engines' descriptors are those of :mod:`rowmesh.hw`.
"""

from dataclasses import dataclass, fields, replace

from rowmesh.hw.descriptor import Engine
from rowmesh.sw.counts import weight_beats
from rowmesh.sw.mapping import Mapping, ceil_div, chunk_beats
from rowmesh.sw.nestprogram import Loop, Nest
from rowmesh.sw.subscriptions import EDGES
from rowmesh.sw.tensors import BASE_ALIGNMENT

__all__ = ["MemoryMap", "nests"]


@dataclass(frozen=True)
class MemoryMap:
    """Byte addresses of a run's regions."""

    program: int
    iact: int
    weight: int
    param: int
    ofmap: int
    size: int

    @classmethod
    def of(
        cls, mapping: Mapping, program_bytes: int = 1 << 16, *, weight_bytes: int = 0, filters: int = 0
    ) -> "MemoryMap":
        """Lay out the memory of a layer: program, iacts, weights, parameters, ofmap.

        ``weight_bytes`` and ``filters`` are those of the whole layer if the mapping is of a share of it.
        """
        sizes = {
            "program": program_bytes,
            "iact": mapping.iact_layout.nbytes,
            "weight": weight_bytes or weight_beats(mapping) * mapping.g_t * mapping.config.beat_bytes,
            "param": (filters or mapping.layer.m) * mapping.config.beat_bytes,
            "ofmap": mapping.ofmap_layout.nbytes,
        }
        at, places = 0, {}
        for name, size in sizes.items():
            places[name] = at
            at += ceil_div(size, 4096) * 4096
        assert all(place % BASE_ALIGNMENT == 0 for place in places.values())
        return cls(**places, size=at)

    def moved(self, by: int) -> "MemoryMap":
        """Return the map some bytes further on; ``size`` is then the end of the last region."""
        return MemoryMap(*(getattr(self, field.name) + by for field in fields(self)))


def _edges(mapping: Mapping, rows: tuple[str, ...]) -> dict[str, tuple[str, ...] | None]:
    """Conditions of the edge flags; ``rows`` are the loops that end in the last row step."""
    conditions: dict[str, tuple[str, ...] | None] = {f"edge{k}_mask": None for k in range(mapping.config.edge_flags)}
    if mapping.m_x_rest != mapping.m_x:
        conditions[f"edge{EDGES.index('M')}_mask"] = ("mt",)
    if mapping.c_s_rest != mapping.c_s:
        conditions[f"edge{EDGES.index('C')}_mask"] = ("ct",)
    if mapping.p_rest != mapping.p_n:
        conditions[f"edge{EDGES.index('P')}_mask"] = rows
    if mapping.q_x_rest != mapping.q_x:
        conditions[f"edge{EDGES.index('Q')}_mask"] = ("qt",)
    return conditions


def _tiles(m: Mapping, strides: dict[str, dict[str, int]]) -> list[Loop]:
    return [Loop(name, bound, strides.get(name, {})) for name, bound in m.tiles.items()]


def _stay(m: Mapping) -> tuple[str, ...]:
    """Return the loops over the tiles that share the weights or parameters which stay."""
    return ("n", "pt", "qt") if m.stay_over_images else ("pt", "qt")


def _loaded(m: Mapping, strides: dict[str, dict[str, int]], stays: bool) -> list[Loop]:
    """Return the loops over tiles of what is loaded for each of them, or once if it stays."""
    once = _stay(m) if stays else ()
    return [replace(loop, bound=1) if loop.name in once else loop for loop in _tiles(m, strides)]


def _read_iact(m: Mapping, port: int) -> Nest:
    x = m.layer
    (uy, ux), beats, lanes = x.stride, m.tile_beats, m.lanes
    loops = _tiles(m, {"pt": {"y": m.p0 * m.p_n * uy}, "qt": {"x": m.q0 * ux}})
    tile_blocks = m.pass_channels if m.planar else m.pass_channels // lanes
    kept = m.slice_flits * m.images_kept
    loops.append(Loop("ct", m.ct, {"address": kept if m.resident else 0, "block": tile_blocks}))
    dy = x.dilation[0]
    loops.append(Loop("rt", m.r_t, {"y": dy, "address": dy * beats}))
    loops.append(Loop("nj", m.n0, {"address": m.slice_flits if m.images_kept > 1 else 0}))
    step = m.p_n * uy
    loops.append(Loop("pj", m.p0, {"y": step, "address": step * beats}, m.p0_rest, ("pt",)))
    columns, columns_rest = m.patch_columns(m.sent_columns), m.patch_columns(m.sent_columns_rest)
    last_columns = ("qt", "qb") if m.blocked else ("qt",)
    if m.blocked:
        across = m.q_block * ux
        by_block = {"x": across, "address": across // lanes if m.planar else across}
        loops.append(Loop("qb", m.q_blocks, by_block, m.q_blocks_rest, ("qt",)))
        by_group = {"address": m.blocks_at_once * m.tile_rows * beats, "block": m.blocks_at_once}
        loops.append(Loop("cj", m.c1, by_group))
    inner = ["rt", "pj", *(("qb", "cj") if m.blocked else ())]
    values = {
        "release": m.slice_flits,
        "low": 0,
        "high": lanes - 1,
        "width": x.w,
        "height": x.h,
        "blocks": m.group_blocks,
        "lanes_along_x": int(m.planar),
        "pad": -(1 << (m.config.data_width - 1)) if x.kind == "maxpool" else 0,
    }
    conditions: dict[str, tuple[str, ...] | None] = {"first_mask": None, "last_mask": None, "edge_mask": None}
    base_x = -x.padding[1] - m.x_offset
    if m.planar:
        flits, flits_rest = (m.row_flits(sent) for sent in (columns, columns_rest))
        loops.append(Loop("x", flits, {"address": 1, "x": lanes}, flits_rest, last_columns))
        values |= {
            "low_first": m.x_offset,
            "high_last": (m.x_offset + columns - 1) % lanes,
            "high_edge": (m.x_offset + columns_rest - 1) % lanes,
        }
        conditions |= {"first_mask": ("x",), "last_mask": ("x",), "edge_mask": last_columns}
        inner.append("x")
    else:
        tag = int(m.q_x > 1)  # columns are told apart by the index
        if m.part:
            parts, parts_rest = ceil_div(columns, m.part), ceil_div(columns_rest, m.part)
            per_part = {"address": m.part * m.blocks_at_once, "x": m.part}
            loops.append(Loop("part", parts, per_part, parts_rest, last_columns))
            rest = columns_rest - (parts_rest - 1) * m.part
            loops.append(Loop("x", m.part, {"address": 1, "x": 1}, rest, (*last_columns, "part")))
            inner += ["part", "x"]
        elif ux <= m.window:
            loops.append(Loop("x", columns, {"address": 1, "x": 1, "index": tag}, columns_rest, last_columns))
            inner.append("x")
        else:
            per_q = {"address": ux, "x": ux, "index": tag * m.window}
            loops.append(Loop("q", m.sent_columns, per_q, m.sent_columns_rest, last_columns))
            loops.append(Loop("x", m.window, {"address": 1, "x": 1, "index": tag}))
            inner += ["q", "x"]
        values["high_last"] = (m.g_n * m.c - 1) % lanes
        conditions["last_mask"] = ("ct", "cb")
    rows = _read_rows(m)
    loops += rows
    inner += [loop.name for loop in rows]
    conditions |= {
        "release_mask": ("mt", *inner) if m.resident else tuple(inner),
        "sync_mask": (*(("mt", "ct") if m.resident else ()), *(("nj",) if m.images_kept > 1 else ()), *inner),
        **_edges(m, ("pt", "pj")),
    }
    return Nest(loops, {"x": base_x, "y": -x.padding[0], "block": port * m.blocks}, conditions, values)


def _read_rows(m: Mapping) -> list[Loop]:
    """Loops over the flits of one column: iact rows, then channel blocks."""
    (uy, _), dy, row = m.layer.stride, m.layer.dilation[0], m.tile_beats
    sent, sent_rest = m.blocks_at_once, m.blocks_rest // m.c1
    of_block = m.part or m.tile_rows * row
    blocks = Loop("cb", sent, {"address": of_block, "block": 1, "phase": 1}, sent_rest, ("ct",))
    if m.diagonal:
        need, need_rest = ((p - 1) * uy + m.height for p in (m.p_n, m.p_rest))
        return [
            Loop(
                "index",
                ceil_div(need, uy),
                {"address": uy * row, "y": uy, "index": 1},
                ceil_div(need_rest, uy),
                ("pt", "pj"),
            ),
            Loop(
                "phase",
                uy,
                {"address": row, "y": 1, "phase": sent},
                need - (ceil_div(need, uy) - 1) * uy,
                ("index",),
            ),
            blocks,
        ]
    # output rows are told apart by the phase if they are along the rows, by the index across the columns
    tag = {"phase": sent} if m.p_y > 1 else {"index": int(m.q_x == 1)}
    step = 1 if m.r0 > 1 else uy
    rows = Loop(
        "index",
        m.row_span(m.p_n),
        {"address": step * row, "y": step, **tag},
        m.row_span(m.p_rest),
        ("pt", "pj"),
    )
    return [rows, Loop("phase", m.r_s, {"address": dy * row, "y": dy, "phase": sent}), blocks]


def _load_iact(m: Mapping, memory: MemoryMap, port: int) -> Nest:
    x, layout, lanes = m.layer, m.iact_layout, m.lanes
    uy, ux = x.stride
    beat = m.config.beat_bytes
    unit = lanes if m.planar else 1  # columns of a beat
    base_x = (-x.padding[1] - m.x_offset) // unit
    tile_blocks = m.pass_channels if m.planar else m.pass_channels // lanes
    rows = m.p0 * m.p_n * uy
    columns = m.q0 * ux // unit
    strides = {
        "n": {"address": m.n0 * layout.stride_n},
        "g": {"address": m.group_blocks * layout.stride_block},
        "pt": {"address": rows * layout.stride_row, "y": rows},
        "qt": {"address": columns * beat, "x": columns},
    }
    length, groups = (m.part, m.c1) if m.part else (m.tile_beats, 1)
    blocks = m.blocks // groups
    loops = [loop for loop in _tiles(m, strides) if not (m.resident and loop.name == "mt")]
    loops += [
        Loop("ct", m.ct, {"address": tile_blocks * layout.stride_block, "block": tile_blocks}),
        Loop("nj", m.n0, {"address": layout.stride_n}),
        Loop("cj", groups, {"address": blocks * layout.stride_block, "block": blocks}),
        Loop("part", m.tile_beats // length, {"address": length * beat, "x": length}),
        Loop("cb", blocks, {"address": layout.stride_block, "block": 1}),
        Loop("y", m.tile_rows, {"address": layout.stride_row, "y": 1}),
    ]
    start = memory.iact + port * m.blocks * layout.stride_block
    used_columns = min(x.w, (x.q - 1) * ux + m.window - x.padding[1])
    return Nest(
        loops,
        {
            "address": start - x.padding[0] * layout.stride_row + base_x * beat & 0xFFFFFFFF,
            "x": base_x,
            "y": -x.padding[0],
            "block": port * m.blocks,
        },
        {"length_mask": None},
        {
            "length": length,
            "width": ceil_div(used_columns, unit),
            "height": min(x.h, (x.p - 1) * uy + m.height - x.padding[0]),
            "blocks": m.group_blocks,
        },
    )


def _linear(m: Mapping, base: int, beats: int, segment: int, stays: bool) -> Nest:
    """Load ``beats`` beats of each group in order, once for each tile of n, pt and qt if they do not stay."""
    beat = m.config.beat_bytes
    loops = [loop for loop in _loaded(m, {"g": {"address": beats * beat}}, stays) if loop.name != "mt"]
    count = ceil_div(beats, segment)
    loops.append(Loop("segment", count, {"address": segment * beat}))
    return Nest(
        loops,
        {"address": base},
        {"length_mask": ("segment",)},
        {"length": segment, "length_last": beats - (count - 1) * segment},
    )


def _load_weight(m: Mapping, memory: MemoryMap, port: int) -> Nest:
    beats, longest = weight_beats(m) // m.weight_ports, 1024
    if m.part:  # a channel group's weights take as many bursts as the iacts of its block: both come in the same time
        longest = min(longest, ceil_div(beats * m.part, m.blocks * m.q1))
    return _linear(
        m, memory.weight + port * m.g_t * beats * m.config.beat_bytes, beats, min(beats, longest), m.weights_stay
    )


def _read_weight(m: Mapping) -> Nest:
    """Return the nest of a port: all ports' are the same."""
    chains, chain_groups = m.m_y * m.g_y, m.c_s
    if chains > 1:
        chains //= m.weight_ports
    else:
        chain_groups //= m.weight_ports
    flits = ceil_div(m.weights, m.lanes)
    loops = _loaded(m, {}, m.weights_stay)
    loops += [
        Loop("ct", m.ct),
        Loop("rt", m.r_t),
        Loop("mj", m.m1),
        Loop("flit", flits),
        Loop("mi", m.m_x, {"index": 1}, m.m_x_rest, ("mt",)),
        Loop("k", chains, {"phase": m.chain}),
        Loop("ci", chain_groups, {"phase": m.r_s}, m.c_s_rest if m.weight_ports == 1 else chain_groups, ("ct",)),
        Loop("r", m.r_s, {"phase": 1}),
    ]
    return Nest(
        loops,
        {},
        {
            "release_mask": (),
            "sync_mask": (),
            "first_mask": None,
            "last_mask": ("flit",),
            "edge_mask": None,
            **_edges(m, ("pt",)),
        },
        {"release": 1, "low": 0, "high": m.lanes - 1, "high_last": (m.weights - 1) % m.lanes},
    )


def _step(m: Mapping) -> Nest:
    x, patch_psums = m.layer, m.q_pe * m.pe_filters
    loops = _tiles(m, {})
    loops += [
        Loop("ct", m.ct),
        Loop("rt", m.r_t),
        Loop("nj", m.n0, {"psum": m.p0 * patch_psums} if m.held else {}),
        Loop("pj", m.p0, {"psum": patch_psums} if m.held else {}, m.p0_rest, ("pt",)),
        Loop("mj", m.m1),
    ]
    tap, per_channel = m.r0 * m.pe_words, m.pe_filters
    inside = [
        Loop("s", x.s, {"weight": m.r0 * m.c0 * per_channel, "iact": x.dilation[1] * tap}),
        Loop("r", m.r0, {"weight": m.c0 * per_channel, "iact": m.pe_words}),
        Loop("c", m.c0, {"weight": per_channel, "iact": 1}),
    ]
    # filters use the same iact, groups each their own
    filters = Loop("m", m.pe_filters, {"weight": 1, "psum": 1, "iact": int(m.g0 > 1)})
    column = {"iact": m.stride[1] * tap, "psum": m.pe_filters} if m.patched else {}
    columns = Loop("q", m.q_pe, column, m.q_pe_rest, ("qt",))
    groups: tuple[str, ...] = ()
    if m.blocked:
        of_group = x.s * m.r0 * m.c0 * per_channel
        loops.append(Loop("qb", m.q_blocks, {}, m.q_blocks_rest, ("qt",)))
        loops.append(Loop("cj", m.c1, {"weight": of_group}))
        columns = Loop("q", m.q_block, {"psum": per_channel}, m.q_block_rest, ("qt", "qb"))
        groups = ("qb", "cj")
    last_use = (*(_stay(m) if m.weights_stay else ()), "nj", "pj", *groups[:1], "q")
    conditions: dict[str, tuple[str, ...] | None] = {
        "weight_release_mask": last_use,
        "weight_sync_mask": (*last_use, *groups[1:], "s", "r", "c", "m"),
        "start_mask": ("nj", "pj", "mj", *groups[:1], "q", "m"),
        **_edges(m, ("pt", "pj")),
    }
    passes = ("ct", "rt")
    if m.patched:  # one patch a pass, released at its end; the last column tile's may be smaller
        loops += [*inside, columns, filters]
        patch = ("mj", "s", "r", "c", "q", "m")
        sums = ("s", "r", "c")
        conditions |= {
            "clear_mask": (*passes, *sums) if m.held else sums,
            "emit_mask": (*passes, *sums) if m.held else sums,
            "slide_mask": patch,
            "restart_mask": ("qt", *patch),
            "iact_sync_mask": patch,
            "first_mask": () if m.held else passes,
            "last_mask": () if m.held else passes,
        }
        slide, restart = (m.patch_columns(q) * tap for q in (m.q_pe, m.q_pe_rest))
        return Nest(loops, {}, conditions, {"slide": slide, "restart": restart})
    loops += [columns, *inside, filters]
    # a row's last window is released tap by tap while it is used, so that the next row's words come in behind it
    dense = x.dilation[1] == 1
    conditions |= {
        "clear_mask": (*groups[1:], "s", "r", "c"),
        "emit_mask": (*groups[1:], "s", "r", "c"),
        "slide_mask": ("s", "r", "c", "m"),
        "restart_mask": ("q", "c", "m") if dense else ("q", "s", "r", "c", "m"),
        "iact_sync_mask": ("s", "r", "c", "m"),
        "first_mask": passes,
        "last_mask": passes,
    }
    return Nest(loops, {}, conditions, {"slide": m.stride[1] * tap, "restart": m.pe_words if dense else m.window * tap})


def _column_loops(m: Mapping, by_p: dict[str, int], by_m: dict[str, int], whole: dict[str, int]) -> list[Loop]:
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


def _columns(m: Mapping, merged: int = 1) -> tuple[dict[str, int], tuple[str, ...] | None]:
    """Columns of a tile, and of a tile at an edge; ``merged`` of them count as one."""
    values = {"columns": m.columns // merged, "columns_edge": m.columns // merged}
    if m.m_x_rest != m.m_x:
        return values | {"columns_edge": m.m_x_rest * m.inner // merged}, ("mt",)
    if m.p_x > 1 and m.p_rest != m.p_n:
        return values | {"columns_edge": m.p_rest}, ("pt", "pj")
    if m.q_x_rest != m.q_x:
        return values | {"columns_edge": m.q_x_rest}, ("qt",)
    return values, None


def _drain(m: Mapping, zero_point: int, clamp: tuple[int, int]) -> Nest:
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
    loops = [*_tiles(m, {}), Loop("nj", m.n0), Loop("pj", m.p0, {}, m.p0_rest, ("pt",)), *groups_of_lanes]
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
            loops += [
                Loop("kb", m.g_y // rows, {"offset": rows, "param": rows * m.g0}),
                Loop("mb", ceil_div(m.g0, k), {"offset": k * m.g_y, "param": k}),
                Loop("q", m.q_pe, position, m.q_pe_rest, ("qt",)),
                Loop("slots", rows, {"offset": 1, "param": m.g0, "slot": m.g0 * span}),
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
            "param_mask": None if raw else (*(_stay(m) if m.params_stay else ()), "nj", "pj", *groups, *tile),
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


def _chains_rest(m: Mapping) -> tuple[int, tuple[str, ...]]:
    """Output rows along the array's rows in the last row step."""
    return (m.p_rest if m.p_y > 1 else 1), ("pt", "pj")


def _store(m: Mapping, memory: MemoryMap) -> Nest:
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
        *_tiles(m, strides),
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


def nests(
    m: Mapping, memory: MemoryMap, zero_point: int = 0, clamp: tuple[int, int] | None = None
) -> dict[Engine, Nest]:
    """Return the nest of every engine that the layer uses.

    Parameters
    ----------
    m : Mapping
    memory : MemoryMap
    zero_point : int
        Zero point of a requantised ofmap.
    clamp : (int, int) or None
        Smallest and largest output; None: the data width's range.
    """
    width = m.config.data_width
    clamp = clamp or (-(1 << (width - 1)), (1 << (width - 1)) - 1)
    engines = {
        **{Engine.LOAD_IACT.at(port): _load_iact(m, memory, port) for port in range(m.iact_ports)},
        **{Engine.LOAD_WEIGHT.at(port): _load_weight(m, memory, port) for port in range(m.weight_ports)},
        **{Engine.READ_IACT.at(port): _read_iact(m, port) for port in range(m.iact_ports)},
        **{Engine.READ_WEIGHT.at(port): _read_weight(m) for port in range(m.weight_ports)},
        Engine.STEP: _step(m),
        Engine.DRAIN: _drain(m, zero_point, clamp),
        Engine.STORE: _store(m, memory),
    }
    if m.layer.output == "requant":
        params = m.g_n * m.m
        engines[Engine.LOAD_PARAM] = _linear(m, memory.param, params, min(params, 1024), m.params_stay)
    return engines
