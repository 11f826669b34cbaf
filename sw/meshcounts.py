"""Access counts of a mesh mapping: those of the clusters' shares, each counted where it happens."""

from collections.abc import Mapping as Dict

from rowmesh.hw.array import OPERANDS
from rowmesh.hw.router import Side
from rowmesh.sw.counts import access_counts as counts_of_share
from rowmesh.sw.mapping import Mapping
from rowmesh.sw.mesh import MeshMapping
from rowmesh.sw.results import ACCESSES
from rowmesh.sw.workload import Layer

__all__ = ["access_counts"]


def access_counts(m: Mapping | MeshMapping) -> Dict[str, int]:
    """Predict every access counter, by name.

    A word that a router hands to a neighbour is a hop; words are loaded and injected where a cluster's own banks are
    the source, and delivered everywhere. Psums are banked where they do not go on to the next cluster.
    """
    if isinstance(m, Mapping):
        return counts_of_share(m)
    total = dict.fromkeys(ACCESSES, 0)
    of_layer: dict[Layer, Dict[str, int]] = {}
    for (y, x), (share, mapping) in m.shares.items():
        if share.layer not in of_layer:
            of_layer[share.layer] = counts_of_share(mapping)
        own = of_layer[share.layer]
        for name, words in own.items():
            level, what, way = (*name.split("."), "")[:3]
            if what in OPERANDS and (level in ("dram", "glb") or way == "injected"):
                counted = m.own(what, y, x)
            elif what in ("psum", "ofmap") and level != "spad":
                counted = m.heads(y)
            else:
                counted = what != "param"
            total[name] += words * counted
        for operand in OPERANDS:
            links = sum(side is not Side.LOCAL for side in m.route(operand, y, x).outputs)
            total[f"noc.{operand}.hops"] += links * own[f"noc.{operand}.injected"]
        total["noc.psum.hops"] += (not m.heads(y)) * own["noc.psum.delivered"]
    total["dram.param.read"] = m.param_shares * counts_of_share(m.share)["dram.param.read"]
    return total
