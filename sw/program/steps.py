"""The nest of the steps: what every PE does, in the order of the mapping."""

from rowmesh.sw.mapping.cluster import ClusterMapping
from rowmesh.sw.program.nest import Loop, Nest
from rowmesh.sw.program.tiles import edge_masks, loops_that_share, tile_loops

__all__ = ["step"]


def step(m: ClusterMapping) -> Nest:
    """Return the nest of the steps, one multiply-accumulate of every PE each."""
    x, patch_psums = m.layer, m.q_pe * m.pe_filters
    loops = tile_loops(m, {})
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
    last_use = (*(loops_that_share(m) if m.weights_stay else ()), "nj", "pj", *groups[:1], "q")
    conditions: dict[str, tuple[str, ...] | None] = {
        "weight_release_mask": last_use,
        "weight_sync_mask": (*last_use, *groups[1:], "s", "r", "c", "m"),
        "start_mask": ("nj", "pj", "mj", *groups[:1], "q", "m"),
        **edge_masks(m, ("pt", "pj")),
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
