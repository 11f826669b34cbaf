"""Nests of the readers: from the global buffer to the array."""

from rowmesh.sw.mapping.cluster import ClusterMapping, ceil_div
from rowmesh.sw.mapping.loops import OF_SLICE, PASSES, SLICES
from rowmesh.sw.program.nest import Loop, Nest
from rowmesh.sw.program.tiles import edge_masks, iact_moves, loaded_loops, loops_over, tile_loops

__all__ = ["read_iact", "read_weight"]


def read_iact(m: ClusterMapping, port: int) -> Nest:
    """Return the nest of a port's reader of iacts: each flit is sent once a pass, with the tag that its PEs take."""
    x = m.layer
    ux, beats, lanes, moves = x.stride[1], m.tile_beats, m.lanes, iact_moves(m)
    loops = tile_loops(m, moves)
    if m.resident:  # slices lie one behind another
        distance = m.slice_flits * m.images_kept
        for loop in reversed(loops_over(m, SLICES, {})):
            moves[loop.name]["address"] = distance
            distance *= loop.bound
    loops += loops_over(m, SLICES, moves)
    # within a slice, rows and columns are as far apart in the buffer
    within = {name: {"address": move.get("y", 0) * beats + move.get("x", 0), **move} for name, move in moves.items()}
    loops += loops_over(m, OF_SLICE, within)
    loops.append(Loop("nj", m.n0, {"address": m.slice_flits if m.images_kept > 1 else 0}))
    loops.append(Loop("pj", m.p0, within["pj"], m.p0_rest, ("pt",)))
    columns, columns_rest = m.patch_columns(m.sent_columns), m.patch_columns(m.sent_columns_rest)
    last_columns = ("qt", "qb") if m.blocked else ("qt",)
    if m.blocked:
        across = m.q_block * ux
        by_block = {"x": across, "address": across // lanes if m.planar else across}
        loops.append(Loop("qb", m.q_blocks, by_block, m.q_blocks_rest, ("qt",)))
        by_group = {"address": m.blocks_at_once * m.tile_rows * beats, "block": m.blocks_at_once}
        loops.append(Loop("cj", m.c1, by_group))
    inner = [*OF_SLICE, "pj", *(("qb", "cj") if m.blocked else ())]
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
        "sync_mask": (*(("mt", *SLICES) if m.resident else ()), *(("nj",) if m.images_kept > 1 else ()), *inner),
        **edge_masks(m, ("pt", "pj")),
    }
    return Nest(loops, {"x": base_x, "y": -x.padding[0], "block": port * m.blocks}, conditions, values)


def _read_rows(m: ClusterMapping) -> list[Loop]:
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


def read_weight(m: ClusterMapping) -> Nest:
    """Return the nest of a port's reader of weights: all ports' are the same."""
    chains, chain_groups = m.m_y * m.g_y, m.c_s
    if chains > 1:
        chains //= m.weight_ports
    else:
        chain_groups //= m.weight_ports
    flits = ceil_div(m.weights, m.lanes)
    loops = loaded_loops(m, {}, m.weights_stay)
    loops += [
        *loops_over(m, PASSES, {}),
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
            **edge_masks(m, ("pt",)),
        },
        {"release": 1, "low": 0, "high": m.lanes - 1, "high_last": (m.weights - 1) % m.lanes},
    )
