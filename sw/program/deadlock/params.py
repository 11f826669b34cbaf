"""Parameters: what is loaded and what the drain needs."""

import itertools
from collections.abc import Mapping as Dict

import numpy as np

from rowmesh.hw.axi import PAGE_BYTES
from rowmesh.hw.config import ArchConfig
from rowmesh.sw.program.bursts import split
from rowmesh.sw.program.deadlock.banks import filled_beats
from rowmesh.sw.program.deadlock.psums import used_lanes
from rowmesh.sw.program.deadlock.tiles import TILES, DeadlockError, bound_of, classes, named_loops, only
from rowmesh.sw.program.nest import Nest
from rowmesh.sw.program.occupancy import Ints, expand, times

__all__ = ["check_params"]


def check_params(config: ArchConfig, load: Nest | None, drain: Nest) -> None:
    """Check that the parameters which are loaded are those that the drain uses, and in time."""
    if (load is None) == bool(drain.values["use_param"]):
        raise DeadlockError("LOAD_PARAM: parameters are loaded, or used by the drain, but not both")
    if load is None:
        return
    outer = [name for name in ("n", "pt", "qt") if bound_of(load, name) > 1]
    over = [*outer, "g", "mt"]
    tiles, thin = drain.values["param_release"], drain.values["param_thin"]
    named = named_loops((only(drain, "param_mask", "thin_mask", "edge_mask"), load))
    for corner in itertools.product(*({0, bound_of(drain, name) - 1} if name in named else {0} for name in outer)):
        inside = dict(zip(outer, corner, strict=True))
        needs, frees = {}, {}
        for g, mt in itertools.product(*({0, bound_of(drain, name) - 1} for name in over[-2:])):
            tile = {**inside, "g": g, "mt": mt}
            all_of, thinner = times(drain, "param_mask", tile), times(drain, "param_mask", tile, "thin_mask")
            frees[g > 0, mt > 0] = tiles * (all_of - thinner) + thin * thinner
            needs[g > 0, mt > 0] = _needed_params(config, drain, tile)
        g_t, mt_t = bound_of(drain, "g"), bound_of(drain, "mt")
        kinds = [(g == g_t - 1 and g > 0, mt == mt_t - 1 and mt > 0) for g in range(g_t) for mt in range(mt_t)]
        need, free = (np.array([of[kind] for kind in kinds]) for of in (needs, frees))
        loaded, used = filled_beats(load, inside), int(free.sum())
        if loaded != used or np.any(need > free):
            raise DeadlockError(
                f"LOAD_PARAM: {loaded} parameters are loaded for the tiles {inside}; the drain needs "
                f"{int((need + np.cumsum(free) - free).max())} and frees {used}"
            )
        before = np.cumsum(free) - free
        ends = np.cumsum(_bursts(config, load, inside))
        filled = ends[np.searchsorted(ends, before + need)]
        if np.any(filled - before > config.param_words):
            raise DeadlockError(
                f"LOAD_PARAM: {int((filled - before).max())} parameters, whole bursts of them, exceed the drain's "
                f"{config.param_words}"
            )


def _needed_params(config: ArchConfig, drain: Nest, tile: Dict[str, int]) -> int:
    """Return how many parameters a tile's words need."""
    members = max(drain.values.get(f"member_param{k}", 0) for k in range(config.drain_clusters))
    others = [name for name in TILES if name not in tile]
    most = 0
    for corner in classes(drain, others, (only(drain, "edge_mask"),)):
        steps = expand(drain, ("param", "group"), {**tile, **corner})
        used = used_lanes(config, steps)
        last = steps.output("param") + np.maximum(0, used - 1) * drain.values["lane_param"] + members + 1
        most = max(most, int(np.where(used > 0, last, 0).max(initial=0)))
    return most


def _bursts(config: ArchConfig, load: Nest, fixed: Dict[str, int]) -> Ints:
    """Return the beats of the bursts of a load engine that clips nothing."""
    steps = expand(load, ("address",), fixed)
    length = np.where(steps.holds("length_mask"), load.values["length_last"], load.values["length"])
    none, page = np.zeros_like(length), PAGE_BYTES // config.beat_bytes
    at = (steps.output("address") & 0xFFFFFFFF) // config.beat_bytes
    return split(at, length, none, none, none, min(config.burst_beats, page), page)[0].astype(np.int64)
