"""Banks of the global buffer: what is loaded, held and freed."""

from collections.abc import Collection
from collections.abc import Mapping as Dict

import numpy as np
import numpy.typing as npt

from rowmesh.hw.config import ArchConfig
from rowmesh.hw.descriptor import Engine
from rowmesh.sw.program.deadlock.tiles import TILES, DeadlockError, bound_of, classes, within
from rowmesh.sw.program.nest import Loop, Nest
from rowmesh.sw.program.occupancy import count, expand, peak, times

__all__ = ["check_bank", "filled_beats"]


def filled_beats(load: Nest, fixed: Dict[str, int]) -> int:
    """Count the beats, or slots, that a load engine fills."""
    length, last = load.values["length"], load.values.get("length_last", 0)
    return length * count(load, (), (), fixed) + (last - length) * times(load, "length_mask", fixed)


def check_bank(
    config: ArchConfig, load_engine: Engine, load: Nest, read_engine: Engine, read: Nest, depth: int
) -> None:
    """Check that what is loaded for the tiles that share it is what their reader frees, and that it fits."""
    rounds = [name for name in TILES if bound_of(load, name) > 1]
    if again := [name for name in rounds if bound_of(read, name) == 1]:
        raise DeadlockError(
            f"{load_engine.name}: it loads again over the loops {again}, and {read_engine.name} does not"
        )
    for corner in classes(read, rounds, (load, read)):
        filled = filled_beats(load, within(corner, load))
        freed = read.values["release"] * times(read, "release_mask", corner)
        if filled != freed:
            raise DeadlockError(
                f"{load_engine.name}: {filled} beats are loaded for tile {dict(corner)}, and {read_engine.name} frees "
                f"{freed}: they must be equal"
            )
        stays = [name for name in TILES if name not in corner]
        most, read_up_to, offset = _most_held(config, load, read, corner, stays)
        if offset >= depth:
            raise DeadlockError(
                f"{read_engine.name}: it reads at a distance of {offset} beats in tile {dict(corner)}, and its bank "
                f"has {depth}"
            )
        if read_up_to > filled:
            raise DeadlockError(
                f"{read_engine.name}: it reads up to beat {read_up_to} of tile {dict(corner)}, and {filled} are loaded"
            )
        if most > depth:
            raise DeadlockError(
                f"{read_engine.name}: its bank must hold {most} beats in tile {dict(corner)}, more than {depth}"
            )


def _most_held(
    config: ArchConfig, load: Nest, read: Nest, corner: Dict[str, int], stays: Collection[str]
) -> tuple[int, int, int]:
    """Return how many beats a bank has to hold, with the rest of the burst that the last of them comes in.

    Likewise how many of a tile's are needed up to the last one that is read, and the largest distance of a beat from
    where the reader is.
    """
    release, sync = read.conditions["release_mask"], read.conditions["sync_mask"]
    if release is None or sync is None:
        raise DeadlockError("a reader of a bank frees nothing, or never moves on")
    burst = min(config.burst_beats, load.values["length"])
    if not release and not sync:  # each flit frees itself
        need = max(peak(read, "address", corner) + 1, read.values["release"])
        read_up_to = count(read, (), (), corner) * read.values["release"] + need - read.values["release"]
        return need - 1 + burst, read_up_to, need - 1
    # a suffix of loops in which nothing is freed but at its end
    inner = len(read.loops)
    while inner and {read.loops[inner - 1].name} <= set(release) & set(sync):
        inner -= 1
    outer = Nest(read.loops[:inner], read.bases, {}, {})
    steps = expand(outer, ("address",), corner, stays)
    names = {name: 1 << place for place, loop in enumerate(outer.loops) for name in (loop.name,)}

    def ended(condition: Collection[str]) -> npt.NDArray[np.bool_]:
        mask = sum(names.get(name, 0) for name in condition)
        return np.asarray(steps.last & mask == mask)

    frees = np.where(ended(release), read.values["release"], 0)
    total = np.cumsum(frees)
    before = total - frees
    marks = np.maximum.accumulate(np.where(ended(sync), total, 0))
    origin = np.concatenate([[0], marks[:-1]])
    if marks[-1] != total[-1]:
        raise DeadlockError("a reader of a bank does not move on at the end of a tile")
    asked = [name for loop in read.loops[inner:] if loop.last is not None for name in loop.when if name in names]
    mask = sum(names[name] for name in set(asked))
    inside = Nest(read.loops[inner:])
    reach = np.zeros(steps.number, np.int64)
    for kind in np.unique(steps.last & mask):
        known = {name for name in asked if kind & names[name]}
        loops = [_decided(loop, known, names) for loop in inside.loops]
        reach[(steps.last & mask) == kind] = peak(Nest(loops), "address")
    offset = steps.output("address") + reach
    wanted = np.maximum(origin + offset + 1, before + frees)
    ends = wanted - 1 + burst
    if load.conditions["length_mask"] is None:  # segments are alike: a burst goes on to the end of one at most
        ends = np.minimum(ends, -(-wanted // load.values["length"]) * load.values["length"])
    return int((ends - before).max()), int(wanted.max()), int(offset.max())


def _decided(loop: Loop, ended: Collection[str], outside: Collection[str]) -> Loop:
    """Return a loop without conditions on loops that are known."""
    if loop.last is None or not loop.when:
        return loop
    if any(name in outside and name not in ended for name in loop.when):
        return Loop(loop.name, loop.bound, loop.strides)
    left = [name for name in loop.when if name not in outside]
    return Loop(loop.name, loop.bound if left else loop.last, loop.strides, loop.last if left else None, left)
