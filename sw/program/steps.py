"""The nest of the steps: what every PE does, in the order of the mapping."""

from rowmesh.sw.mapping.cluster import ClusterMapping
from rowmesh.sw.mapping.loops import PASSES, ROWS, loops_of
from rowmesh.sw.program.nest import Loop, Nest
from rowmesh.sw.program.tiles import edge_masks

__all__ = ["step"]


def step(m: ClusterMapping) -> Nest:
    """Return the nest of the steps, one multiply-accumulate of every PE each."""
    x, of, tap = m.layer, loops_of(m), m.r0 * m.pe_words
    iact = {"s": x.dilation[1] * tap, "r": m.pe_words, "c": 1}
    iact |= {"m": 1} if m.g0 > 1 else {}  # filters use the same iact, groups each their own
    iact |= {} if m.order.slides else {"q": m.stride[1] * tap}
    strides = {"weight": of.strides("weight"), "psum": of.strides("psum"), "iact": iact}
    loops = [
        Loop(
            loop.name,
            loop.bound,
            {operand: of_loop[loop.name] for operand, of_loop in strides.items() if loop.name in of_loop},
            *((loop.last, loop.when) if loop.when else ()),
        )
        for loop in of.loops
    ]
    sums = of.reused("psum")
    passes = tuple(name for name in PASSES if name not in sums)
    of_pass = of.loops[of.at(ROWS[0]) :]
    conditions: dict[str, tuple[str, ...] | None] = {
        "weight_release_mask": of.reused("weight"),
        "weight_sync_mask": tuple(loop.name for loop in of.inside("weight")),
        "start_mask": of.used("psum", of_pass),
        "clear_mask": sums,
        "emit_mask": sums,
        "first_mask": passes,
        "last_mask": passes,
        **edge_masks(m, ("pt", "pj")),
    }
    if not m.order.slides:  # one patch a pass, released at its end; the last column tile's may be smaller
        patch = tuple(loop.name for loop in of.inside("iact"))
        conditions |= {"slide_mask": patch, "restart_mask": ("qt", *patch), "iact_sync_mask": patch}
        slide, restart = (m.patch_columns(q) * tap for q in (m.q_pe, m.q_pe_rest))
        return Nest(loops, {}, conditions, {"slide": slide, "restart": restart})
    window = tuple(loop.name for loop in of.loops[of.at("q") + 1 :])
    # a row's last window is released tap by tap while it is used, if it is used in the order in which its words come,
    # so that the next row's words come in behind it
    taps = window[:2] == ("s", "r") and x.dilation[1] == 1
    conditions |= {
        "slide_mask": window,
        "restart_mask": ("q", *(window[2:] if taps else window)),
        "iact_sync_mask": window,
    }
    return Nest(loops, {}, conditions, {"slide": m.stride[1] * tap, "restart": m.pe_words if taps else m.window * tap})
