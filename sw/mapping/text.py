"""A mapping as people write it: loops by level, from DRAM to the spads."""

from rowmesh.sw.mapping.cluster import ClusterMapping
from rowmesh.sw.mapping.loops import loops_of

__all__ = ["loop_nest"]


def loop_nest(m: ClusterMapping) -> str:
    """Return the mapping as a loop nest by level, for people."""
    x = m.layer
    lines: list[str] = []
    depth = 0

    def level(title: str) -> None:
        lines.append(f"{title}")

    def loop(name: str, bound: int, note: str = "") -> None:
        nonlocal depth
        if bound > 1:
            tail = f"    # {note}" if note else ""
            lines.append(f"{'  ' * depth}  {name} in [0, {bound}){tail}")
            depth += 1

    def rest(tile: int, last: int) -> str:
        return "" if tile == last else f"last one {last} instead of {tile}"

    level("DRAM" + (f", iacts of a tile in parts of {m.part} columns" if m.part else ""))
    rows = m.p0 * m.p_n

    def filters() -> None:
        loop("for m2", m.mt, rest(m.m_x * m.m_n, m.m_rest))

    if m.m_outer:
        loop("for g", m.g_t)
        filters()
    loop("for n1" if m.n0 > 1 else "for n", m.n_t)
    if not m.m_outer:
        loop("for g", m.g_t)
    loop("for p2", m.pt, rest(rows, x.p - (m.pt - 1) * rows))
    loop("for q2", m.qt, rest(m.q0, m.q_rest))
    if not m.m_outer:
        filters()
    if not m.held:
        level("GLB, psums in their banks")
    loop("for c3" if m.c1 > 1 else "for c2", m.ct, rest(m.pass_channels, m.c_rest))
    loop("for r2", m.r_d, "iacts of a slice")
    loop("for s2", m.s_d, "iacts of a slice")
    loop("for r1", m.r_t)
    loop("for s1", m.s_t)
    loop("for n", m.n0)
    loop("for p1", m.p0)
    level("spatial, columns")
    loop("parallel-for m1", m.m_x)
    loop("parallel-for p", m.p_x)
    loop("parallel-for q1", m.q_x)
    level("spatial, rows" + (f", shared by {m.ports} ports" if m.ports > 1 else ""))
    loop("parallel-for g", m.g_y)
    loop("parallel-for p", m.p_y)
    loop("parallel-for m", m.m_y)
    if m.chain > 1:
        level("psum chain")
    loop("parallel-for c1", m.c_s)
    loop("parallel-for r", m.r_s)
    level(f"spad, {m.order.stays} stay")
    names = {"mj": "m1", "qb": "q1", "cj": "c2"}
    for inner in loops_of(m).loops[-len(m.order.loops) : -1]:
        loop(f"for {names.get(inner.name, inner.name)}", inner.bound)
    loop("for g", m.g0)
    loop("for m", m.m0)
    lines.append(f"{'  ' * depth}  ofmap[n,g,m,p,q] += iact[n,g,c,U p + D r,U q + D s] * weight[g,m,c,r,s]")
    return "\n".join(lines)
